"""Event maps to Ibis expressions. Nothing here knows the engine that will run them."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from wardround.sources.mimic.mapping import Condition, Event, Table

#: Where a row stands in its file, counted from 0.
ROW = "row__number"
#: Columns of a staged row: those of an event; which event it is (-1: none; -2 - n: event n, which
#: lacks its time and has no code); whether it stands first for its source row; whether its
#: `available` is missing; whether the row's interval was mended; why the row was rejected; where
#: the row stands in its file.
STAGED = (
    "subject_id",
    "time",
    "code",
    "numeric_value",
    "text_value",
    "available_time",
    "hadm_id",
    "stay_id",
    "event",
    "first",
    "unfiled",
    "mended",
    "reason",
    ROW,
)
#: Integers above this lose their last digits as float32.
FLOAT32_INTEGERS = 2**24
SUBJECTS = ibis.table({"subject_id": "int64"}, name="subjects")


def lookup_name(table: str, key: str) -> str:
    """The engine's name for `table` reduced to one row a key."""
    return f"lookup_{table}_{key}"


class CompiledTable:
    """A table of the map over the source's text columns, as expressions.

    Args:
        name: the table; also what the engine calls its file.
        table: its declaration.
        columns: names in the file; see `check_columns`.
        lookups: joined tables that are present.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        columns: Mapping[str, str | None],
        lookups: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.table = table
        present = {source: "string" for source in columns.values() if source is not None}
        raw = ibis.table(present, name=name)
        self._raw = raw
        texts = {
            column: ibis.null("string") if source is None else raw[source]
            for column, source in columns.items()
        }
        typed, broken = self._parse(texts)
        joined = self._join(typed, lookups)
        self.rows = self._derive(self._mend(joined))
        self._broken = broken

    def _parse(self, texts: Mapping[str, ir.Value]) -> tuple[ir.Table, list[tuple[str, str]]]:
        """Cast the declared columns; remember (column, flag) pairs of what did not parse."""
        declared = self.table
        kinds = dict.fromkeys(["subject_id", *declared.ids, *declared.integers], "int64")
        kinds |= {c: "int64" for c in ("hadm_id", "stay_id") if c in texts}
        kinds |= dict.fromkeys(declared.numbers, "float64")
        kinds |= dict.fromkeys([*declared.times, *declared.dates], "timestamp")
        # Before any join: an engine may reorder what it joins.
        columns: dict[str, ir.Value] = {ROW: ibis.row_number()}
        broken = []
        for name, text in texts.items():
            if name in declared.blanks:
                text = text.nullif(declared.blanks[name])
            kind = kinds.get(name)
            if kind is None:
                columns[name] = text
                continue
            value = _number(text) if kind == "float64" else _parsed(text, kind)
            columns[name] = value
            flag = f"{name}__broken"
            columns[flag] = text.notnull() & value.isnull()
            broken.append((name, flag))
        return self._raw.select(**columns), broken

    def _join(self, typed: ir.Table, lookups: Mapping[str, Mapping[str, str]]) -> ir.Table:
        known = SUBJECTS.select(known_subject=SUBJECTS.subject_id)
        joined = typed.left_join(known, typed.subject_id == known.known_subject)
        for other, join in self.table.join.items():
            if other not in lookups:
                joined = joined.mutate(**{c: ibis.null("timestamp") for c in join.take})
                continue
            schema = lookups[other]
            right = ibis.table(dict(schema), name=lookup_name(other, join.key))
            right = right.select(
                right[join.key].name(f"{other}__key"), *(right[c] for c in join.take)
            )
            joined = joined.left_join(right, joined[join.key] == right[f"{other}__key"])
        return joined

    def _mend(self, rows: ir.Table) -> ir.Table:
        rows = rows.mutate(mended=ibis.literal(False))
        for start, end in self.table.intervals:
            if mend := self.table.mend.get(end):
                better = ibis.greatest(ibis.coalesce(rows[mend.to], rows[start]), rows[start])
                mended = ((rows[end] < better) & _holds(rows, mend.when)).fill_null(False)
                rows = rows.mutate(mended=mended, **{end: mended.ifelse(better, rows[end])})
        return rows

    def _derive(self, rows: ir.Table) -> ir.Table:
        computed: dict[str, ir.Value] = {}
        for name, rule in self.table.derive.items():
            ((function, arguments),) = rule.items()
            values = [rows[a] for a in arguments]
            if function == "first":
                computed[name] = ibis.coalesce(*values)
            elif function == "latest":
                last = ibis.greatest(*(_settled(rows, a, self.table) for a in arguments))
                whole = ibis.and_(*(value.notnull() for value in values))
                computed[name] = whole.ifelse(last, ibis.null("timestamp"))
            elif function == "january_first":
                year = (values[0] - values[1]).cast("string").lpad(4, "0")
                computed[name] = (year + "-01-01").try_cast("timestamp")
        return rows.mutate(**computed) if computed else rows

    @property
    def reason(self) -> ir.StringValue:
        """Why a row is rejected, the first reason that holds; null for a row that is kept."""
        rows, declared = self.rows, self.table
        cases: list[tuple[ir.BooleanValue, str]] = [
            (rows["subject_id__broken"], "subject_id is not a number"),
            (rows.subject_id.isnull(), "subject_id is missing"),
            (rows.known_subject.isnull(), "unknown subject"),
        ]
        for column, flag in self._broken:
            if column == "subject_id":
                continue
            is_time = column in (*declared.times, *declared.dates)
            cases.append((rows[flag], f"{column} is not a {'time' if is_time else 'number'}"))
        needed = [*declared.ids, *declared.must]
        cases += [(rows[column].isnull(), f"{column} is missing") for column in needed]
        for other, join in declared.join.items():
            if not join.optional:
                reason = f"no row of {other} with this {join.key}"
                cases.append((rows[f"{other}__key"].isnull(), reason))
        for start, end in declared.intervals:
            cases.append((rows[end] < rows[start], f"{end} is before {start}"))
        if note := declared.note:
            known = rows[note.type].strip().isin(list(note.types)).fill_null(False)
            cases.append((~known, f"{note.type} is none of {', '.join(note.types)}"))
        if declared.events:
            cases += self._without_time()
        return ibis.cases(*cases, else_=ibis.null("string"))

    def _without_time(self) -> list[tuple[ir.BooleanValue, str]]:
        """Rows that have something to say, and for none of it a time."""
        rows = self.rows
        told: dict[str | None, ir.BooleanValue] = {}
        for event in self.table.events.values():
            told[event.time] = told.get(event.time, ibis.literal(False)) | _told(rows, event)
        kept = ibis.or_(*(holds & _timed(rows, time) for time, holds in told.items()))
        return [
            (~kept & holds & ~_timed(rows, time), self._missing(time))
            for time, holds in told.items()
            if time is not None
        ]

    def _missing(self, time: str) -> str:
        if time not in self.table.derive:
            return f"{time} is missing"
        (arguments,) = self.table.derive[time].values()
        return f"no {' or '.join(arguments)}"

    def staged(self) -> ir.Table:
        """All events of all rows in one pass (`STAGED`).

        Every source row gives at least one staged row: a rejected one, and one without events,
        stand with a null code. A join may hand rows on out of order: `ROW` and `event` tell it.
        """
        rows = self.rows.mutate(reason=self.reason)
        events = list(self.table.events.values())
        told = [rows.reason.isnull() & _told(rows, event) for event in events]
        if len(events) == 1:
            staged = self._staged_one(rows, events[0], told[0])
        else:
            staged = self._staged_many(rows, events, told)
        return staged.select(*STAGED)

    def _ids(self, rows: ir.Table) -> dict[str, ir.Value]:
        none = ibis.null("int64")
        return {
            "hadm_id": rows.hadm_id if self.table.hadm_id and "hadm_id" in rows.columns else none,
            "stay_id": rows.stay_id if "stay_id" in rows.columns else none,
        }

    def _staged_one(self, rows: ir.Table, event: Event, holds: ir.BooleanValue) -> ir.Table:
        """One event a row needs no array to spread, and has its time or the row is rejected."""
        columns = _event_columns(rows, event, self.table)
        return rows.select(
            subject_id=rows.subject_id,
            **{
                **columns,
                "code": holds.ifelse(columns["code"], ibis.null("string")),
                "unfiled": holds & columns["unfiled"],
            },
            **self._ids(rows),
            event=holds.ifelse(0, -1).cast("int8"),
            first=ibis.literal(True),
            mended=rows.mended,
            reason=rows.reason,
            **{ROW: rows[ROW]},
        )

    def _staged_many(
        self, rows: ir.Table, events: list[Event], told: list[ir.BooleanValue]
    ) -> ir.Table:
        """The events of a row as an array, spread to rows."""
        # Named once: every later event's `first` would repeat them in the query.
        rows = rows.mutate(**{f"told__{n}": holds for n, holds in enumerate(told)})
        structs = []
        before: ir.BooleanValue = ibis.literal(False)
        for number, event in enumerate(events):
            holds, timed = rows[f"told__{number}"], _timed(rows, event.time)
            columns = _event_columns(rows, event, self.table)
            structs.append(
                ibis.struct(
                    {
                        **columns,
                        "code": timed.ifelse(columns["code"], ibis.null("string")),
                        "event": timed.ifelse(number, -2 - number).cast("int8"),
                        "first": timed & ~before,
                        "holds": holds,
                    }
                )
            )
            before = before | (holds & timed)
        structs.append(_no_event(~before))
        spread = rows.select(
            subject_id=rows.subject_id,
            **self._ids(rows),
            mended=rows.mended,
            reason=rows.reason,
            **{ROW: rows[ROW]},
            e=ibis.array(structs).unnest(),
        )
        spread = spread.filter(spread.e.holds)
        outer = ("subject_id", "hadm_id", "stay_id", "mended", "reason", ROW)
        return spread.select(**{c: spread[c] if c in outer else spread.e[c] for c in STAGED})

    def stays(self) -> ir.Table:
        """The stays that the kept rows are (`STAY_SCHEMA`, `died` of ICU stays still open)."""
        stay = self.table.stay
        if stay is None:
            raise ValueError("the table declares no stay")
        rows = self.rows.mutate(reason=self.reason)
        rows = rows.filter(rows.reason.isnull())
        died: ir.Value = ibis.null("boolean")
        if stay.died:
            died = _holds(rows, stay.died).fill_null(False)
        return rows.select(
            subject_id=rows.subject_id,
            stay_id=rows[stay.id],
            kind=ibis.literal(stay.kind),
            start=rows[stay.start],
            end=rows[stay.end],
            hadm_id=rows[stay.hadm_id],
            parent_id=rows[stay.parent_id] if stay.parent_id else ibis.null("int64"),
            unit=rows[stay.unit],
            outcome=rows[stay.outcome],
            died=died,
            death_time=rows[stay.death_time] if stay.death_time else ibis.null("timestamp"),
        )

    def notes(self) -> ir.Table:
        """A row for every row of the file, `reason` telling why it is no note."""
        note = self.table.note
        if note is None:
            raise ValueError("the table declares no note")
        rows = self.rows.mutate(reason=self.reason)
        available, unfiled = _available(rows, note.time, note.available, self.table)
        if note.not_before:
            begun = ibis.coalesce(rows[note.not_before], available)
            available = available.isnull().ifelse(available, ibis.greatest(available, begun))
        kept = rows.reason.isnull()
        return rows.select(
            subject_id=rows.subject_id,
            note_id=rows[note.id].strip(),
            hadm_id=rows.hadm_id,
            note_type=rows[note.type].strip().substitute(note.types),
            note_seq=rows[note.seq].try_cast("int32"),
            time=rows[note.time],
            available_time=available,
            text=kept.ifelse(rows[note.text], ibis.null("string")),
            unfiled=kept & unfiled,
            reason=rows.reason,
            row=rows[ROW] + 2,
        )

    def details(self) -> ir.Table:
        """A row for every row of the file, `reason` telling why it is no detail."""
        detail = self.table.detail
        if detail is None:
            raise ValueError("the table declares no detail")
        rows = self.rows.mutate(reason=self.reason)
        return rows.select(
            subject_id=rows.subject_id,
            note_id=rows[detail.note].strip(),
            name=rows[detail.name].strip(),
            value=rows[detail.value],
            ordinal=rows[detail.ordinal].try_cast("int32"),
            reason=rows.reason,
            row=rows[ROW] + 2,
        )

    def lookup(self, key: str, take: Mapping[str, str]) -> ir.Table:
        """One row a key for other tables to join: the least of each column."""
        rows = self.rows
        return (
            rows.filter(rows[key].notnull())
            .group_by(key)
            .agg(**{column: rows[column].min() for column in take})
        )

    def rejects(self) -> ir.Table:
        """For each reason, the file's first row that has it (the header is row 1)."""
        rows = self.rows.mutate(reason=self.reason)
        rows = rows.filter(rows.reason.notnull())
        return rows.group_by("reason").agg(row=rows[ROW].min() + 2)

    def raw_ids(self, column: str) -> ir.Table:
        """The distinct values of an integer column, before any row is judged."""
        ids = self._raw.select(**{column: _parsed(self._raw[column], "int64")})
        return ids.filter(ids[column].notnull()).distinct()

    def column_kind(self, column: str) -> str:
        """The Ibis type of a column, for lookups."""
        return str(self.rows[column].type())


def _event_columns(rows: ir.Table, event: Event, table: Table) -> dict[str, ir.Value]:
    time: ir.Value = ibis.null("timestamp")
    available: ir.Value = time
    unfiled: ir.Value = ibis.literal(False)
    if event.time:
        time, available = rows[event.time], _settled(rows, event.time, table)
        if event.available:
            available, unfiled = _available(rows, event.time, event.available, table)
    number: ir.Value = ibis.null("float64")
    if event.number:
        number = rows[event.number]
        if event.number not in table.numbers:
            number = _number(number)
    text: ir.Value = ibis.null("string")
    if event.text:
        text = rows[event.text].cast("string")
        if event.number:
            # Text that only repeats the number is left out, unless the number gets rounded.
            repeats = (_number(text) == number) & (number.abs() <= FLOAT32_INTEGERS)
            text = repeats.fill_null(False).ifelse(ibis.null("string"), text)
    return {
        "time": time,
        "code": _code(rows, event),
        "numeric_value": number,
        "text_value": text,
        "available_time": available,
        "unfiled": unfiled,
    }


def _available(
    rows: ir.Table, time: str, available: str, table: Table
) -> tuple[ir.TimestampValue, ir.BooleanValue]:
    """When a row could be known, and whether its own word for that is missing."""
    filed = _settled(rows, available, table)
    without = {
        "at_time": _settled(rows, time, table),
        "end_of_day": _end_of_day(rows[time]),
        "never": ibis.null("timestamp"),
    }
    known = filed.isnull().ifelse(without[table.unfiled], ibis.greatest(filed, rows[time]))
    return known, rows[time].notnull() & filed.isnull()


def _no_event(holds: ir.BooleanValue) -> ir.StructValue:
    """What stands for a row without events."""
    return ibis.struct(
        {
            "time": ibis.null("timestamp"),
            "code": ibis.null("string"),
            "numeric_value": ibis.null("float64"),
            "text_value": ibis.null("string"),
            "available_time": ibis.null("timestamp"),
            "unfiled": ibis.literal(False),
            "event": ibis.literal(-1, "int8"),
            "first": ibis.literal(True),
            "holds": holds,
        }
    )


def _code(rows: ir.Table, event: Event) -> ir.StringValue:
    code: ir.Value = ibis.literal("")
    for index, part in enumerate(event.parts):
        if isinstance(part, str):
            piece: ir.Value = ibis.literal(part)
        else:
            piece = rows[part[0]].cast("string")
            if part[1] is not None:
                piece = piece.fill_null(part[1])
        code = piece if index == 0 else code + piece
    return code


def _holds(rows: ir.Table, condition: Condition) -> ir.BooleanValue:
    return rows[condition.column].cast("string") == condition.equals


def _timed(rows: ir.Table, time: str | None) -> ir.BooleanValue:
    """Whether the event has its time; a static one needs none."""
    return rows[time].notnull() if time else ibis.literal(True)


def _told(rows: ir.Table, event: Event) -> ir.BooleanValue:
    """Whether the row says what makes the event, its time apart."""
    holds: ir.BooleanValue = ibis.literal(True)
    if event.when:
        holds = holds & rows[event.when].notnull()
    for part in event.parts:
        if isinstance(part, tuple) and part[1] is None:
            holds = holds & rows[part[0]].notnull()
    return holds


def _number(text: ir.Value) -> ir.FloatingValue:
    """Text to a finite number; null where it is none ("NaN" and "inf" are none)."""
    value = _parsed(text.cast("string"), "float64")
    return (value.isnan() | value.isinf()).ifelse(ibis.null("float64"), value)


def _parsed(text: ir.Value, kind: str) -> ir.Value:
    """Text to another type; null where it does not parse. White space around it is ignored."""
    # Stripping costs four times the cast, and most casts succeed without.
    return ibis.coalesce(text.try_cast(kind), text.strip().try_cast(kind))


def _settled(rows: ir.Table, column: str, table: Table) -> ir.TimestampValue:
    """When a time has passed for certain: for a bare date, at the end of its day."""
    if column in table.dates:
        return _end_of_day(rows[column])
    if arguments := table.derive.get(column, {}).get("first"):
        return ibis.coalesce(*(_settled(rows, a, table) for a in arguments))
    return rows[column]


def _end_of_day(time: ir.Value) -> ir.TimestampValue:
    return time.truncate("D") + ibis.interval(days=1) - ibis.interval(microseconds=1)
