"""From rows of a store to events: what each became, when it was known, and its numbers."""

from __future__ import annotations

from collections import Counter

import polars as pl

from wardround.views.timeline.compiler import ENTRY_SCHEMA, STORE_CODE, compile_codes
from wardround.views.timeline.preset import Preset, Read, Rule
from wardround.views.timeline.timelines import ALWAYS

#: What was left out, as {(rule, reason): rows}; `-` stands for no rule.
Report = Counter[tuple[str, str]]


class CodeBook:
    """Codes of stores and what a preset makes of them; grows as new codes come.

    Attributes:
        preset: the preset.
        codes: every code that was seen and what became of it (`ENTRY_SCHEMA`).
        entries: those of which something became; an entry keeps its number.
    """

    def __init__(self, preset: Preset, codes: pl.DataFrame | None = None) -> None:
        self.preset = preset
        self.rules: list[tuple[str, Rule]] = [
            *preset.active.items(),
            *((f"context.{name}", slot.rule) for name, slot in preset.context.items()),
        ]
        self.codes = pl.DataFrame(schema=ENTRY_SCHEMA)
        self.entries = self._numbered(self.codes)
        if codes is not None:
            self._append(codes)

    def learn(self, codes: pl.Series) -> None:
        """Compile the codes that are new."""
        known = self.codes[STORE_CODE].implode()
        new = codes.drop_nulls().unique().sort().rename(STORE_CODE)
        new = new.filter(~new.is_in(known))
        if len(new):
            self._append(compile_codes(new, self.preset))

    def _append(self, codes: pl.DataFrame) -> None:
        self.codes = pl.concat([self.codes, codes])
        self.entries = self._numbered(self.codes)

    def _numbered(self, codes: pl.DataFrame) -> pl.DataFrame:
        known = [
            i
            for i, (_, rule) in enumerate(self.rules)
            if (rule.clock or self.preset.clock) == "known"
        ]
        return (
            codes.filter(pl.col("reason").is_null())
            .with_row_index("entry")
            .with_columns(clock_known=pl.col("rule").is_in(known))
        )

    @property
    def ignored(self) -> pl.Series:
        """Codes that no rule wants, nor the age."""
        wanted = pl.col("rule").is_not_null() & (pl.col("reason").fill_null("") != "dropped")
        by_code = self.codes.group_by(STORE_CODE).agg(wanted.any().alias("wanted"))
        ignored = by_code.filter(~pl.col("wanted"))[STORE_CODE]
        age = self.preset.age
        return ignored.filter(~ignored.str.contains(age.codes)) if age else ignored

    @property
    def read_codes(self) -> pl.Series:
        """Codes whose text is read."""
        rules = [i for i, (_, rule) in enumerate(self.rules) if rule.read]
        return self.codes.filter(pl.col("rule").is_in(rules))[STORE_CODE].unique()


def select_rows(events: pl.LazyFrame, book: CodeBook) -> pl.LazyFrame:
    """Number the rows, and keep those whose code may become something, with texts that are read."""
    text = pl.when(pl.col("code").is_in(book.read_codes.implode())).then(pl.col("text_value"))
    return (
        events.select("subject_id", "time", "available_time", "code", "numeric_value", "text_value")
        .with_row_index("row")
        .filter(~pl.col("code").is_in(book.ignored.implode()))
        .with_columns(text.alias("text_value"), pl.col("row").cast(pl.Int64))
    )


def assemble(rows: pl.DataFrame, book: CodeBook, report: Report) -> pl.DataFrame:
    """Join rows with what their codes become, and give each its time and its numbers.

    Args:
        rows: what `select_rows` gives; the book has learned their codes.
        book: the codes.
        report: counts what is left out.

    Returns:
        `row`, `subject_id`, `known` (int64 µs; `ALWAYS` of static rows), `entry`, `rule`, `value`
        and `value2` (float64, null where an event has none), in no particular order.
    """
    _count_lost(rows, book, report)
    happened, filed = (pl.col(name).dt.timestamp("us") for name in ("time", "available_time"))
    # Null while never filed: max_horizontal would pass over that.
    learned = pl.when(filed > happened).then(filed).when(filed.is_not_null()).then(happened)
    events = rows.join(
        book.entries.select("entry", "rule", "companion", "fields", "clock_known", code=STORE_CODE),
        on="code",
    ).with_columns(
        known=pl.when(happened.is_null())
        .then(ALWAYS)
        .when("clock_known")
        .then(learned)
        .otherwise(happened),
        value=pl.col("numeric_value").cast(pl.Float64).fill_nan(None),
        value2=pl.lit(None, pl.Float64),
    )
    n_timeline = len(book.preset.active)
    undated = (pl.col("known") == ALWAYS) & (pl.col("rule") < n_timeline)
    events = _leave_out(events, pl.col("known").is_null(), "never known", book, report)
    events = _leave_out(events, undated.fill_null(False), "no time", book, report)
    simple = [i for i, (_, rule) in enumerate(book.rules) if not (rule.read or rule.pair)]
    parts = []
    for number, (_, rule) in enumerate(book.rules):
        if not (rule.read or rule.pair):
            continue
        own = events.filter(pl.col("rule") == number)
        if rule.read:
            own = _read(own, rule.read)
        if rule.pair:
            own = _pair(own, book, report)
        parts.append(own)
    events = pl.concat([events.filter(pl.col("rule").is_in(simple)), *parts])
    events = _bound(events, book)
    required = [
        i for i, (_, rule) in enumerate(book.rules) if rule.value and rule.value.missing == "drop"
    ]
    double = [i for i, (_, rule) in enumerate(book.rules) if rule.values == 2]
    lacking = pl.col("value").is_null() | (
        pl.col("value2").is_null() & pl.col("rule").is_in(double)
    )
    lacking &= pl.col("rule").is_in(required)
    events = _leave_out(events, lacking, "no value", book, report)
    return events.select("row", "subject_id", "known", "entry", "rule", "value", "value2")


def _count_lost(rows: pl.DataFrame, book: CodeBook, report: Report) -> None:
    lost = book.codes.filter(pl.col("reason").is_not_null() & pl.col("rule").is_not_null())
    found = rows.join(lost, left_on="code", right_on=STORE_CODE)
    for number, reason, count in found.group_by("rule", "reason").len().iter_rows():
        report[(book.rules[number][0], reason)] += count


def _leave_out(
    events: pl.DataFrame, condition: pl.Expr, reason: str, book: CodeBook, report: Report
) -> pl.DataFrame:
    lost = events.filter(condition)
    if not len(lost):
        return events
    for number, count in lost.group_by("rule").len().iter_rows():
        report[(book.rules[number][0], reason)] += count
    return events.filter(~condition)


def _bound(events: pl.DataFrame, book: CodeBook) -> pl.DataFrame:
    """Numbers outside the declared range are missing."""
    for column in ("value", "value2"):
        inside: pl.Expr = pl.lit(True)
        for number, (_, rule) in enumerate(book.rules):
            if rule.value and (rule.value.low is not None or rule.value.high is not None):
                low = -float("inf") if rule.value.low is None else rule.value.low
                high = float("inf") if rule.value.high is None else rule.value.high
                inside &= (pl.col("rule") != number) | pl.col(column).is_between(low, high)
        events = events.with_columns(pl.when(inside).then(pl.col(column)).alias(column))
    return events


def _read(events: pl.DataFrame, read: Read) -> pl.DataFrame:
    """Numbers out of texts, worked out once for each text; a number of its own stands."""
    texts = events.select("text_value").unique().drop_nulls()
    text = pl.col("text_value").str.to_lowercase().str.strip_chars()
    value, second = pl.lit(None, pl.Float64), pl.lit(None, pl.Float64)
    if read.number:
        value = text.str.extract(read.number, 1).cast(pl.Float64, strict=False)
        if _groups(read.number) > 1:
            second = text.str.extract(read.number, 2).cast(pl.Float64, strict=False)
    for number, pattern in reversed(read.words.items()):
        value = pl.when(text.str.contains(pattern)).then(float(number)).otherwise(value)
    numbers = texts.with_columns(read=value, read2=second)
    return (
        events.join(numbers, on="text_value", how="left")
        .with_columns(
            value=pl.coalesce("value", "read"),
            value2=pl.when(pl.col("value").is_null()).then("read2"),
        )
        .drop("read", "read2")
    )


def _groups(pattern: str) -> int:
    found = pl.Series([""]).str.extract_groups(pattern)
    return len(found.struct.fields)


def _pair(events: pl.DataFrame, book: CodeBook, report: Report) -> pl.DataFrame:
    """Give each event its companion's number: the same times and fields, the k-th with the k-th."""
    keys = ["subject_id", "time", "known", "fields", "turn"]
    turns = events.sort("row").with_columns(
        turn=pl.int_range(pl.len()).over("subject_id", "time", "known", "fields", "companion")
    )
    first, second = turns.filter(~pl.col("companion")), turns.filter("companion")
    paired = first.join(
        second.select(*keys, "row", other="value"), on=keys, how="left", nulls_equal=True
    )
    alone = second.join(first, on=keys, how="anti", nulls_equal=True)
    _leave_out(alone, pl.lit(True), "no companion", book, report)
    paired = _leave_out(paired, pl.col("row_right").is_null(), "no companion", book, report)
    return paired.with_columns(value2="other").select(events.columns)
