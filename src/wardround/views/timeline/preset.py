"""Presets: a tokenisation declared as data.

A preset names *rules*. A rule takes the store's codes that its pattern fits (the first rule that
fits has the code) and passes them through small stages, always in this order:

    map (ontology) -> group -> tidy -> split -> tokens -> read, pair, value

What concerns whole timelines is declared beside the rules: which clock orders events, how those of
one time are ordered, what stands in for a missing companion, the static context, age, intervals.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.functional_validators import AfterValidator, BeforeValidator

from wardround.errors import WardroundError
from wardround.views.timeline.mapping import MAPS

Clock = Literal["known", "time"]

_UNITS = {"m": 60, "h": 3600, "d": 86_400}
#: A field of a template, or several of which the first that is not empty is taken: `{short|unit}`.
FIELD = re.compile(r"\{([\w|]+)\}")


def _check_pattern(pattern: str) -> str:
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"not a regular expression: {pattern!r} ({reason})") from error
    return pattern


def _seconds(text: str) -> int:
    parts = re.findall(r"(\d+)([mhd])", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write it as 45m, 1h15m or 30d")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


Pattern = Annotated[str, AfterValidator(_check_pattern)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[list[Pattern], BeforeValidator(_as_list)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Map(_Part):
    """Codes through an ontology: one of `wardround.views.timeline.mapping.MAPS`.

    Attributes:
        through: the mapping's name; it reads and writes the fields that it says it does.
        unmapped: a code that the ontology lacks is dropped, offered to the next rule, or kept.
        table: a file of the user's own, for mappings that take one.
    """

    through: str
    unmapped: Literal["drop", "next", "keep"] = "drop"
    table: Path | None = None

    @field_validator("through")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in MAPS:
            raise ValueError(f"no mapping is called {name!r}; there are {', '.join(MAPS)}")
        return name


class Group(_Part):
    """A field's values brought together: `into` a label each, or `drop`ped.

    Values may end in `*`. What fits nowhere becomes `other`, or stays as it is.
    """

    into: dict[str, list[str]] = {}
    drop: list[str] = []
    other: str | None = None


class Read(_Part):
    """A number out of the text of an event that has none.

    Attributes:
        words: {number: pattern}; the first that the lower-cased text fits gives its number.
        number: pattern whose first group is the number, and whose second, if any, is the second
            value of the event (blood pressure as 120/80).
    """

    words: dict[float, Pattern] = {}
    number: Pattern | None = None


class Value(_Part):
    """How an event's number becomes a token.

    Attributes:
        into: `quantiles` of the training subjects, whole `levels` from `low` (1) to `high`, or
            equal `widths` between `low` and `high`.
        bins: how many; of levels, as many as there are.
        attach: `after` puts a token shared by all codes behind the event's own (`LAB//x`, `Q3`);
            `join` makes one of the two (`LAB//x//Q3`).
        token: name of the shared token, or what is joined; `{}` is the bin's number, from 1.
        missing: an event without a number is dropped, or kept with its own tokens alone.
        low, high: numbers outside are missing.
        duplicates: equal breaks are removed, as published (a code with few distinct values then
            never reaches the last bin), or kept.
        by: names under which breaks are fitted, one for each value; the event's own unless told.
    """

    into: Literal["quantiles", "levels", "widths"] = "quantiles"
    bins: int = Field(10, ge=2, le=1000)
    attach: Literal["after", "join"] = "after"
    token: str = "Q{}"
    missing: Literal["drop", "keep"] = "drop"
    low: float | None = None
    high: float | None = None
    duplicates: Literal["remove", "keep"] = "remove"
    by: list[str] = Field([], max_length=2)

    @model_validator(mode="after")
    def _bounded(self) -> Value:
        if "{}" not in self.token:
            raise ValueError(f"token {self.token!r} has no {{}} for the bin's number")
        if self.into == "widths" and (self.low is None or self.high is None):
            raise ValueError("equal widths need both low and high")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must lie below high ({self.high:g})")
        return self

    def breaks(self) -> list[float] | None:
        """The declared breaks; None where they are fitted."""
        if self.into == "quantiles":
            return None
        if self.into == "levels":
            low = 1.0 if self.low is None else self.low
            return [low + level + 0.5 for level in range(self.bins - 1)]
        assert self.low is not None and self.high is not None
        step = (self.high - self.low) / self.bins
        return [self.low + step * i for i in range(1, self.bins)]

    def tokens(self) -> list[str]:
        """Names of the bins, the first bin first."""
        return [self.token.format(i) for i in range(1, self.bins + 1)]


class Rule(_Part):
    """What some codes of the store become.

    Attributes:
        codes: pattern of the codes, or several; their named groups, the same in each, are the
            fields that stages work on.
        enabled: a rule that is off is as if it were not there.
        drop: the codes are left out, and no later rule has them.
        map, group, tidy, split: see `Map` and `Group`; fields to upper-case with `_` for blanks;
            parts of a field as {field: {new field: "0:3"}}.
        tokens: templates of the event's tokens. One whose field is empty is left out; without the
            first, the event is. A field that is a list gives a token for each member.
        name: template of the name of the event, by which it is counted, and to which it decodes;
            the tokens, unless told.
        read, value: see `Read` and `Value`.
        pair: pattern of codes whose number is the second value of the event at the same time with
            the same fields (systolic, diastolic). One without its companion is dropped.
        most_frequent: keep so many names, the most frequent among training subjects.
        min_count: keep names that training subjects have at least so often.
        unseen: an event with a token that no training subject has is dropped, or cut there.
        clock: another clock than the preset's.
    """

    codes: Patterns = Field(min_length=1)
    enabled: bool = True
    drop: bool = False
    map: list[Map] = []
    group: dict[str, Group] = {}
    tidy: list[str] = []
    split: dict[str, dict[str, str]] = {}
    tokens: list[str] = []
    name: str | None = None
    read: Read | None = None
    value: Value | None = None
    pair: Patterns = []
    most_frequent: int | None = Field(None, ge=1)
    min_count: int = Field(1, ge=1)
    unseen: Literal["drop", "cut"] = "drop"
    clock: Clock | None = None

    @property
    def values(self) -> int:
        """How many numbers an event has: 0, 1 or 2."""
        if self.value is None:
            return 0
        return 2 if self.pair or len(self.value.by) == 2 else 1

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if self.drop:
            return self
        if not self.tokens:
            raise ValueError("a rule needs tokens, or drop: true")
        if (self.pair or self.read) and self.value is None:
            raise ValueError("pair and read need a value")
        if self.values == 2 and self.value and len(self.value.by) != 2:
            raise ValueError("an event of two values names both in value.by")
        if self.values == 2 and self.value and self.value.attach == "join":
            raise ValueError("two values cannot be joined to one token; use attach: after")
        fields = set(pattern_fields(self.codes[0]))
        for pattern in [*self.codes, *self.pair]:
            if set(pattern_fields(pattern)) != fields:
                raise ValueError(f"all patterns need the same named groups: {pattern}")
        for entry in self.map:
            needs, gives = MAPS[entry.through].needs, MAPS[entry.through].gives
            _check_fields(needs, fields, f"map through {entry.through}")
            fields.add(gives)
        _check_fields([*self.group, *self.tidy, *self.split], fields, "group, tidy or split")
        for parts in self.split.values():
            fields |= set(parts)
            for part in parts.values():
                slice_of(part)
        for template in [*self.tokens, *([self.name] if self.name else [])]:
            used = [name for group in FIELD.findall(template) for name in group.split("|")]
            _check_fields(used, fields, f"template {template!r}")
        return self


class Slot(_Part):
    """One token of the static context: the last that was known at a window's first token.

    Attributes:
        rule: how codes become the token; of several, the first.
        unknown: the token where nothing was known.
    """

    rule: Rule
    unknown: str


class Age(_Part):
    """Age in years as tokens of the static context, counted from `codes`' event.

    Attributes:
        codes: pattern of the birth.
        spell: `digits` gives the tens and the ones, each plus one, as two shared tokens `Q5`, `Q8`
            (100 and older: `Q10`, `Q10`); `decades` one token.
        token: name of the tokens; `{}` is the number.
        unknown: the token (twice, for digits) where the birth is not known.
    """

    codes: Pattern = "^MEDS_BIRTH$"
    spell: Literal["digits", "decades"] = "digits"
    token: str = "Q{}"
    unknown: str = "AGE//UNK"

    def table(self) -> list[list[str]]:
        """Tokens of each year of age from 0 to 120, then those of an unknown age."""
        years = range(121)
        if self.spell == "digits":
            rows = [[min(age, 99) // 10 + 1, min(age, 99) % 10 + 1] for age in years]
        else:
            rows = [[age // 10 * 10] for age in years]
        named = [[self.token.format(number) for number in row] for row in rows]
        return [*named, [self.unknown] * len(named[0])]


class Intervals(_Part):
    """Tokens for the time between one event and the next.

    Attributes:
        tokens: {token: lower edge}; below the first edge there is none.
        repeat: the last token stands for so long and is repeated round(gap / repeat) times.
        before: rules whose events an interval may precede; all unless told.
    """

    tokens: dict[str, str]
    repeat: str | None = None
    before: list[str] | None = None

    @model_validator(mode="after")
    def _ascending(self) -> Intervals:
        edges = [_seconds(edge) for edge in self.tokens.values()]
        if not edges or edges != sorted(set(edges)):
            raise ValueError("lower edges must ascend")
        if self.repeat is not None and not _seconds(self.repeat):
            raise ValueError("repeat must be longer than nothing")
        return self

    @property
    def edges(self) -> list[int]:
        """Lower edges, seconds."""
        return [_seconds(edge) for edge in self.tokens.values()]

    @property
    def repeat_seconds(self) -> int | None:
        """What one of the repeated tokens stands for, seconds."""
        return None if self.repeat is None else _seconds(self.repeat)


class Complete(_Part):
    """A token for what is missing: after each event of a rule without one of `lacking` beside it.

    Attributes:
        after: the rule.
        lacking: the rule whose event must have the same time; the token is ordered as its events.
        token: what stands in.
    """

    after: str
    lacking: str
    token: str


class Preset(_Part):
    """A whole tokenisation; see the files beside this one.

    Attributes:
        name: of the preset.
        clock: `known` orders events by when they were known (the later of `time` and
            `available_time`; what never was is left out), so that a prefix holds what was known at
            its end. `time` orders by when they happened, as published.
        rules: by name, in order of precedence.
        order: names of rules in the order in which events of one time stand; `*` is the place of
            those not named. Within a place, store order.
        once_a_day: leave out an event whose tokens stood on the same calendar day before.
        complete, context, age, intervals: see there.
        start, end: a token before the first and after the last event.
        reserved: further tokens of the vocabulary, for models to use.
        paper_compat: changes that give the published rules where the preset departs from them.
    """

    name: str
    clock: Clock = "known"
    rules: dict[str, Rule]
    order: list[str] = ["*"]
    once_a_day: bool = False
    complete: list[Complete] = []
    context: dict[str, Slot] = {}
    age: Age | None = None
    intervals: Intervals | None = None
    start: str | None = None
    end: str | None = None
    reserved: list[str] = []
    paper_compat: dict[str, Any] = {}

    @property
    def tables(self) -> list[Path]:
        """Files of the user's own that mappings read."""
        rules = [*self.rules.values(), *(slot.rule for slot in self.context.values())]
        return [entry.table for rule in rules for entry in rule.map if entry.table is not None]

    @model_validator(mode="after")
    def _named(self) -> Preset:
        if "*" not in self.order or len(set(self.order)) != len(self.order):
            raise ValueError("order names a rule once, and has a * for the others")
        used = {
            "order": [name for name in self.order if name != "*"],
            "complete": [name for entry in self.complete for name in (entry.after, entry.lacking)],
            "intervals.before": (self.intervals and self.intervals.before) or [],
        }
        for place, names in used.items():
            for name in names:
                if name not in self.rules:
                    raise ValueError(
                        f"{place}: no rule is called {name!r} (there are {', '.join(self.rules)})"
                    )
        return self

    @property
    def active(self) -> dict[str, Rule]:
        """The rules that are on, in order of precedence."""
        return {name: rule for name, rule in self.rules.items() if rule.enabled}

    def priority(self, rule: str) -> int:
        """Place of a rule's events among those of the same time."""
        return self.order.index(rule if rule in self.order else "*")

    def declared_tokens(self) -> list[str]:
        """Tokens that every vocabulary has, whatever the data: specials first."""
        specials = [token for token in (self.end, self.start, *self.reserved) if token]
        intervals = list(self.intervals.tokens) if self.intervals else []
        bins = [
            token
            for rule in [*self.active.values(), *(slot.rule for slot in self.context.values())]
            if rule.value and rule.value.attach == "after"
            for token in rule.value.tokens()
        ]
        ages = [token for row in (self.age.table() if self.age else []) for token in row]
        unknown = [slot.unknown for slot in self.context.values()]
        stand_ins = [entry.token for entry in self.complete]
        return list(dict.fromkeys([*specials, *intervals, *bins, *ages, *unknown, *stand_ins]))


def load_preset(
    preset: str | Path | Preset,
    changes: Mapping[str, Any] | None = None,
    *,
    paper_compat: bool = False,
    drug_table: Path | None = None,
) -> Preset:
    """Read a preset.

    Args:
        preset: a name (`ethos`, `clmbr`, `ehrmamba`, `motor`), a YAML file, or a preset.
        changes: what to set otherwise, nested as in the file: `{"clock": "time", "rules":
            {"icu_chart": {"enabled": True}}}`. A value replaces, a mapping is merged, None removes.
        paper_compat: apply the changes that the preset declares under this name first.
        drug_table: CSV file of drug names for mappings through `atc`.

    Raises:
        WardroundError: there is no such preset, or it is not right; the place is named.
    """
    if isinstance(preset, Preset):
        where, content = f"preset {preset.name}", preset.model_dump(exclude_unset=True)
    else:
        where, content = _read_file(preset)
    for more in (content.get("paper_compat") if paper_compat else None, changes):
        content = _merge(content, more or {})
    try:
        checked = Preset.model_validate(content)
        return checked if drug_table is None else _with_drug_table(checked, drug_table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "as a whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise WardroundError(f"{where}: {place}: {reason}") from error


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    files = importlib.resources.files("wardround.views.timeline").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def pattern_fields(pattern: str) -> list[str]:
    """Names of a pattern's groups."""
    return re.findall(r"\(\?P?<([A-Za-z_]\w*)>", pattern)


def slice_of(text: str) -> tuple[int, int | None]:
    """Offset and length (None to the end) of a slice such as `0:3` or `6:`."""
    match = re.fullmatch(r"(\d+):(\d*)", text)
    if match is None or (match[2] and int(match[2]) <= int(match[1])):
        raise ValueError(f"{text!r} is no slice; write it as 0:3 or 6:")
    start = int(match[1])
    return start, int(match[2]) - start if match[2] else None


def _check_fields(used: Iterable[str], fields: set[str], what: str) -> None:
    missing = sorted(set(used) - fields)
    if missing:
        raise ValueError(
            f"{what} uses the field {missing[0]!r}, which no named group or stage gives "
            f"(fields: {', '.join(sorted(fields)) or 'none'})"
        )


def _read_file(preset: str | Path) -> tuple[str, dict[str, Any]]:
    if isinstance(preset, Path) or preset.endswith((".yaml", ".yml")):
        path = Path(preset)
        if not path.is_file():
            raise WardroundError(f"{path}: no such preset file")
        where, text = str(path), path.read_text(encoding="utf-8")
    elif preset in preset_names():
        folder = importlib.resources.files("wardround.views.timeline").joinpath("presets")
        where = f"preset {preset}"
        text = folder.joinpath(f"{preset}.yaml").read_text(encoding="utf-8")
    else:
        raise WardroundError(
            f"no preset is called {preset!r}; choose one of {', '.join(preset_names())} "
            "or name a YAML file"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise WardroundError(f"{where}: not valid YAML{line}: {problem}") from error
    if not isinstance(content, dict):
        raise WardroundError(f"{where}: a preset is a mapping with name and rules")
    return where, content


def _with_drug_table(preset: Preset, table: Path) -> Preset:
    rules = {}
    for name, rule in preset.rules.items():
        maps = [
            entry.model_copy(update={"table": table}) if entry.through == "atc" else entry
            for entry in rule.map
        ]
        rules[name] = rule.model_copy(update={"map": maps}) if rule.map else rule
    return preset.model_copy(update={"rules": rules})


def _merge(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
