"""The event maps: their schema, and reading them with errors that name the place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from wardround.errors import WardroundError

MODULES = ("hosp", "ed", "icu", "note")
# libyaml's loader where it was built in: ten times faster.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Ids that a row may carry; tables without one have it null.
ROW_IDS = ("hadm_id", "stay_id")
Rule = Literal["first", "latest", "january_first"]
_PART = re.compile(r"\{(\w+)(?:\|([^}]*))?\}")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class Event(_Strict):
    """One event of a row.

    `code` is a template: `{column}` drops the event where the column is null, `{column|UNK}`
    writes UNK. `when` names a column that must not be null. A `number` is read leniently where
    its column is not among the table's `numbers`.
    """

    code: str
    time: str | None = None
    available: str | None = None
    number: str | None = None
    text: str | None = None
    when: str | None = None
    static: bool = False

    @model_validator(mode="after")
    def _timed(self) -> Event:
        if self.static == (self.time is not None):
            raise ValueError("an event has either a time or `static: true`")
        return self

    @property
    def parts(self) -> list[str | tuple[str, str | None]]:
        """The template as literals and (column, text for null)."""
        found: list[str | tuple[str, str | None]] = []
        end = 0
        for match in _PART.finditer(self.code):
            if match.start() > end:
                found.append(self.code[end : match.start()])
            found.append((match[1], match[2]))
            end = match.end()
        if end < len(self.code):
            found.append(self.code[end:])
        return found

    @property
    def columns(self) -> list[str]:
        """Every column that the event reads."""
        named = [self.time, self.available, self.number, self.text, self.when]
        in_code = [part[0] for part in self.parts if isinstance(part, tuple)]
        return [*in_code, *(name for name in named if name)]


class Join(_Strict):
    """Columns taken from the row of another table that shares the key."""

    key: str
    take: list[str]
    optional: bool = False


class Condition(_Strict):
    """Holds for a row whose column, as text, is this."""

    column: str
    equals: str


class Mend(_Strict):
    """What becomes of an end that comes too early in rows with a known reason for it.

    One that precedes `to` becomes `to`; one that precedes its start, and `to` does not help, the
    start.
    """

    when: Condition
    to: str


class Stay(_Strict):
    """How a row becomes a stay (`STAY_SCHEMA`)."""

    kind: Literal["ed", "hospital", "icu"]
    id: str
    start: str
    end: str
    hadm_id: str
    parent_id: str | None = None
    unit: str
    outcome: str
    died: Condition | None = None
    death_time: str | None = None


class Note(_Strict):
    """How a row becomes a note (`NOTE_SCHEMA`).

    `types` says which note type a value of the column `type` stands for; any other value rejects
    the row. `available` is when the note was filed; the table's `unfiled` says what holds without
    it. No note is known before `not_before`, where that is there.
    """

    id: str
    type: str
    types: dict[str, str]
    seq: str
    time: str
    available: str
    not_before: str | None = None
    text: str


class Detail(_Strict):
    """How a row becomes a detail of a note: `note` names the note, in the table `of`."""

    of: str
    note: str
    name: str
    value: str
    ordinal: str


class Table(_Strict):
    """One table of the source: of events, some of which are stays, or of notes or their details.

    Attributes:
        required: nothing can be ingested without it.
        numbers, integers, times, dates: columns by type; a value that does not parse rejects
            the row. All other columns are text.
        ids, must: columns that must not be null (`ids` are integers, too).
        intervals: pairs of times; a row whose second precedes its first is rejected.
        mend: ends of intervals that are mended instead, in some rows.
        blanks: what stands for a missing value, by column.
        renamed: column names of older releases.
        optional: columns that some releases lack, read as null there.
        derive: computed times: `first` of several that is there, `latest` of several that must
            all be there, `january_first` of the year (first argument) minus an age (second).
        unfiled: when an event is known whose `available` is missing: `at_time`, at its `time`;
            `end_of_day`, at the end of that day; `never` leaves its available_time null.
        also: columns that no event of this table reads, but a join of another table does.
        hadm_id: false keeps the admission's id off the events.
    """

    required: bool = False
    numbers: list[str] = []
    integers: list[str] = []
    times: list[str] = []
    dates: list[str] = []
    ids: list[str] = []
    must: list[str] = []
    intervals: list[tuple[str, str]] = []
    mend: dict[str, Mend] = {}
    blanks: dict[str, str] = {}
    renamed: dict[str, str] = {}
    optional: list[str] = []
    join: dict[str, Join] = {}
    also: list[str] = []
    derive: dict[str, dict[Rule, list[str]]] = {}
    unfiled: Literal["at_time", "end_of_day", "never"] = "never"
    stay: Stay | None = None
    hadm_id: bool = True
    note: Note | None = None
    detail: Detail | None = None
    events: dict[str, Event] = {}

    @model_validator(mode="after")
    def _of_one_sort(self) -> Table:
        if [bool(self.events), self.note is not None, self.detail is not None].count(True) != 1:
            raise ValueError("a table has either events, or a note, or a detail")
        return self

    @cached_property
    def taken(self) -> set[str]:
        """Columns that come by a join."""
        return {column for join in self.join.values() for column in join.take}

    @cached_property
    def columns(self) -> list[str]:
        """Columns that the table's own file must have."""
        named = ["subject_id", *ROW_IDS, *self.ids, *self.must, *self.numbers, *self.integers]
        named += [*self.times, *self.dates, *self.also, *(join.key for join in self.join.values())]
        for event in self.events.values():
            named += event.columns
        named += [c for mend in self.mend.values() for c in (mend.when.column, mend.to)]
        for arguments in (a for rule in self.derive.values() for a in rule.values()):
            named += arguments
        if self.stay:
            stay = self.stay
            named += [stay.id, stay.start, stay.end, stay.hadm_id, stay.unit, stay.outcome]
            named += [stay.died.column] if stay.died else []
            named += [stay.death_time] if stay.death_time else []
        if self.note:
            note = self.note
            named += [note.id, note.type, note.seq, note.time, note.available, note.text]
            named += [note.not_before] if note.not_before else []
        if self.detail:
            detail = self.detail
            named += [detail.note, detail.name, detail.value, detail.ordinal]
        return [c for c in dict.fromkeys(named) if c not in self.taken and c not in self.derive]


class Dictionary(_Strict):
    """Where the descriptions of codes stand: `keys` says which part of a code is which column."""

    table: str
    codes: str
    keys: dict[str, int]
    text: str
    parent: Literal["ICD", "ICD_PROCEDURE"] | None = None


class Module(_Strict):
    """One module of the source; `apart` marks a data set of its own, which many do not have."""

    module: str
    apart: bool = False
    tables: dict[str, Table]
    dictionaries: list[Dictionary] = []


def load_map(text: str, where: str) -> Module:
    """Parse and check one event map.

    Raises:
        WardroundError: the place in the file and what is wrong there.
    """
    try:
        content: Any = yaml.load(text, Loader)
        return Module.model_validate(content)
    except yaml.YAMLError as error:
        raise WardroundError(f"{where}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        line = _line_of(yaml.compose(text), fault["loc"])
        place = ".".join(str(part) for part in fault["loc"])
        raise WardroundError(f"{where}, line {line}: {place}: {fault['msg']}") from error


def load_maps() -> dict[str, Module]:
    """The maps of MIMIC-IV by module."""
    folder = files("wardround.sources.mimic") / "maps"
    return {
        name: load_map((folder / f"{name}.yaml").read_text(), f"{name}.yaml") for name in MODULES
    }


def choose_tables(
    maps: Mapping[str, Module], chosen: Sequence[str] | None
) -> tuple[dict[str, Module], list[str]]:
    """The maps with the chosen tables alone, dictionaries beside them, and what that leaves out.

    Args:
        maps: event maps by module.
        chosen: modules (`hosp`) and tables (`hosp/labevents`); None takes all.

    Raises:
        WardroundError: a name that the maps do not have, or a required table left out.
    """
    every = {f"{name}/{table}": name for name, module in maps.items() for table in module.tables}
    names = list(every if chosen is None else chosen)
    for name in names:
        if name not in every and name not in maps:
            near = get_close_matches(name, every, 1, 0) or [""]
            raise WardroundError(
                f"there is no table {name!r} to choose; did you mean {near[0]}? A whole module "
                f"({', '.join(maps)}) can be named, too"
            )
    taken = {table for table, module in every.items() if table in names or module in names}
    for name, module in maps.items():
        for table, declared in module.tables.items():
            if declared.required and f"{name}/{table}" not in taken:
                raise WardroundError(f"{name}/{table} is required; add it to the chosen tables")
    kept = {
        name: module.model_copy(
            update={
                "tables": {t: d for t, d in module.tables.items() if f"{name}/{t}" in taken},
                "dictionaries": [
                    d
                    for d in module.dictionaries
                    if d.table not in module.tables or f"{name}/{d.table}" in taken
                ],
            }
        )
        for name, module in maps.items()
    }
    return kept, [table for table in every if table not in taken]


def _line_of(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            children = {key.value: (key, value) for key, value in node.value}
            if str(part) not in children:
                break
            key, node = children[str(part)]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
