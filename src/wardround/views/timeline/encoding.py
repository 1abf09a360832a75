"""From events to tokens: bins, order, intervals, and the flat arrays of timelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from wardround.views.timeline.assembly import CodeBook, Report
from wardround.views.timeline.preset import Preset, Rule
from wardround.views.timeline.timelines import (
    ALWAYS,
    NEVER,
    NO_EVENT,
    Context,
    Timelines,
    ragged_range,
)
from wardround.views.timeline.vocabulary import Vocabulary

SECOND = 1_000_000  # µs
DAY = 86_400 * SECOND
#: Instead of a rule's number: of a token that stands in, and of a rule that is off.
STAND_IN, NO_RULE = -1, -2
CUT = "cut to what is in training"


@dataclass(frozen=True)
class Fitted:
    """What a preset learns from the training subjects.

    Attributes:
        vocabulary: tokens.
        breaks: ascending breaks of each fitted name of values.
        kept: names that a rule keeps, for rules that choose by count.
    """

    vocabulary: Vocabulary
    breaks: Mapping[str, Sequence[float]]
    kept: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Gaps:
    """Time that interval tokens stood for: a row a token and a number of seconds.

    Attributes:
        tokens, seconds: int64, float64.
        counts: how many tokens.
    """

    tokens: np.ndarray
    seconds: np.ndarray
    counts: np.ndarray


def bin_names(rule: Rule, name: str) -> list[str]:
    """Names under which the breaks of an event's values are fitted."""
    if rule.value is None:
        return []
    return rule.value.by or [name]


def bins_of(values: np.ndarray, which: np.ndarray, breaks: Sequence[np.ndarray]) -> np.ndarray:
    """Bins from 0: how many of its own ascending breaks lie below each value.

    Args:
        values: shape (n,).
        which: row of `breaks` that a value goes by, shape (n,).
        breaks: arrays of any length.
    """
    bins = np.empty(len(values), np.int64)
    if not len(values):
        return bins
    order = np.argsort(which, kind="stable")
    rows, starts = np.unique(which[order], return_index=True)
    for row, part in zip(rows, np.split(order, starts[1:]), strict=True):
        bins[part] = np.searchsorted(breaks[row], values[part], side="left")
    return bins


class Encoder:
    """Events to tokens, with everything that depends on an entry in arrays indexed by it."""

    def __init__(self, book: CodeBook, fitted: Fitted) -> None:
        self.book, self.fitted = book, fitted
        preset = book.preset
        self.rules = [rule for _, rule in book.rules]
        self.n_timeline = len(preset.active)
        ids = {token: i for i, token in enumerate(fitted.vocabulary.tokens)}
        self.rule = book.entries["rule"].to_numpy()
        places = [preset.priority(name) for name in preset.active]
        self.priority = np.array(places + [0] * len(preset.context), np.int64)[self.rule]
        self._set_tokens(book.entries, ids)
        self._set_breaks(book.entries)
        self._set_preset(preset, ids)

    def _set_tokens(self, entries: pl.DataFrame, ids: Mapping[str, int]) -> None:
        """Tokens of each entry, one entry after the other in `flat`, and why some are left out."""
        most = max((rule.value.bins for rule in self.rules if rule.value), default=1)
        self.joined_ids = np.full((len(entries), most), -1, np.int64)
        self.bin_ids = np.full((len(self.rules), most), -1, np.int64)
        tokens: list[list[int]] = []
        self.reasons: list[str] = []
        for i, (number, name, names) in enumerate(
            entries.select("rule", "name", "tokens").iter_rows()
        ):
            rule_name, rule = self.book.rules[number]
            kept = self.fitted.kept.get(rule_name)
            own = [ids.get(token, -1) for token in names]
            joins = rule.value is not None and rule.value.attach == "join"
            reason = ""
            if rule.value and joins:
                joined = [ids.get(f"{names[0]}//{bin_}", -1) for bin_ in rule.value.tokens()]
                self.joined_ids[i, : len(joined)] = joined
            if kept is not None and name not in kept:
                reason = "not frequent"
            elif -1 in own[int(joins) :]:
                unseen = own.index(-1, int(joins))
                reason = "not in training"
                if rule.unseen == "cut" and unseen:
                    own, reason = own[:unseen], CUT
            tokens.append(own)
            self.reasons.append(reason)
        for number, rule in enumerate(self.rules):
            if rule.value and rule.value.attach == "after":
                bins = [ids[token] for token in rule.value.tokens()]
                self.bin_ids[number, : len(bins)] = bins
        joining = [rule.value is not None and rule.value.attach == "join" for rule in self.rules]
        self.joins = np.array(joining, bool)[self.rule]
        self.usable = np.array([reason in ("", CUT) for reason in self.reasons], bool)
        self.cut = np.array([reason == CUT for reason in self.reasons], bool)
        self.lengths = np.array([len(own) for own in tokens], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.flat = np.array([token for own in tokens for token in own], np.int64)
        # Entries of several codes may mean the same: the first of them stands for all.
        alike: dict[tuple[bool, tuple[int, ...]], int] = {}
        keys = [(bool(j), tuple(own)) for j, own in zip(self.joins, tokens, strict=True)]
        self.alike = np.array([alike.setdefault(key, i) for i, key in enumerate(keys)], np.int64)

    def _set_breaks(self, entries: pl.DataFrame) -> None:
        """`row` and `row2` of `breaks` for each entry; -1 where it has no such value."""
        table: dict[tuple[float, ...], int] = {}
        rows = np.full((2, len(entries)), -1, np.int64)
        for i, (number, name) in enumerate(entries.select("rule", "name").iter_rows()):
            rule = self.rules[number]
            for which, by in enumerate(bin_names(rule, name)):
                assert rule.value is not None
                declared = rule.value.breaks()
                breaks = self.fitted.breaks.get(by, ()) if declared is None else declared
                rows[which, i] = table.setdefault(tuple(breaks), len(table))
        self.breaks = [np.array(breaks) for breaks in table]
        self.row, self.row2 = rows

    def _set_preset(self, preset: Preset, ids: Mapping[str, int]) -> None:
        rules = list(preset.active)
        self.once_a_day = preset.once_a_day
        self.start = ids[preset.start] if preset.start else -1
        self.end = ids[preset.end] if preset.end else -1
        self.complete = [
            (
                rules.index(entry.after),
                rules.index(entry.lacking) if entry.lacking in rules else NO_RULE,
                preset.priority(entry.lacking),
                ids[entry.token],
            )
            for entry in preset.complete
            if entry.after in rules
        ]
        self.unknown = [ids[slot.unknown] for slot in preset.context.values()]
        ages = preset.age.table() if preset.age else [[], []]
        self.ages = np.array([[ids[token] for token in row] for row in ages], np.int64)
        intervals = preset.intervals
        self.edges = np.array(intervals.edges if intervals else [], np.int64) * SECOND
        self.interval_ids = np.array(
            [ids[token] for token in intervals.tokens] if intervals else [], np.int64
        )
        every = intervals.repeat_seconds if intervals else None
        self.every = every * SECOND if every else None
        before = intervals.before if intervals else None
        self.preceded = np.array([before is None or name in before for name in rules], bool)

    def encode(
        self, events: pl.DataFrame, births: pl.DataFrame, report: Report
    ) -> tuple[Timelines, Gaps]:
        """Tokens of assembled events.

        Args:
            events: what `assemble` gives, whole subjects.
            births: `subject_id`, `birth` (int64 µs).
            report: counts what is left out.

        Returns:
            The timelines of subjects that have any event, ascending, and the gaps between events.
        """
        timeline = events.filter(pl.col("rule") < self.n_timeline)
        subject, known, entry, row, bin_, bin2, joined = self._events(timeline, report)
        coded = entry >= 0
        of = np.where(coded, entry, 0)
        rule = np.where(coded, self.rule[of], STAND_IN)

        n = len(subject)
        first = np.ones(n, bool)
        first[1:] = subject[1:] != subject[:-1]
        firsts = np.flatnonzero(first)
        last = np.ones(n, bool)
        last[:-1] = first[1:]
        gap = np.zeros(n, np.int64)
        gap[1:] = np.where(first[1:], 0, known[1:] - known[:-1])
        interval, repeats = self._intervals(gap, rule, first)

        own = np.where(coded, self.lengths[of], 1)
        n_bins = ((bin_ >= 0) & (joined < 0)).astype(np.int64) + (bin2 >= 0)
        lead = repeats + np.where(first, int(self.start >= 0), 0)
        tail = np.where(last, int(self.end >= 0), 0)
        sizes = lead + own + n_bins + tail
        ends = np.cumsum(sizes)
        begins = ends - sizes
        total = int(ends[-1]) if n else 0

        tokens = np.empty(total, np.int64)
        times = np.repeat(known, sizes)
        source = np.repeat(row, sizes)
        if self.start >= 0:
            at = begins[firsts]
            tokens[at], times[at], source[at] = self.start, ALWAYS, NO_EVENT
        at = ragged_range(begins + lead - repeats, repeats)
        tokens[at], source[at] = np.repeat(interval, repeats), NO_EVENT
        body = begins + lead
        tokens[body[~coded]] = ~entry[~coded]
        tokens[ragged_range(body[coded], own[coded])] = self.flat[
            ragged_range(self.starts[entry[coded]], own[coded])
        ]
        whole = joined >= 0
        tokens[body[whole]] = joined[whole]
        after = body + own
        single = (bin_ >= 0) & ~whole
        tokens[after[single]] = self.bin_ids[rule[single], bin_[single]]
        second = bin2 >= 0
        tokens[after[second] + single[second]] = self.bin_ids[rule[second], bin2[second]]
        if self.end >= 0:
            at = ends[last] - 1
            tokens[at], times[at], source[at] = self.end, NEVER, NO_EVENT

        subjects = subject[firsts]
        offsets = np.concatenate([begins[firsts], [total]]).astype(np.int64)
        timelines = Timelines(
            self.fitted.vocabulary,
            tokens.astype(self.fitted.vocabulary.dtype),
            times,
            source,
            offsets,
            subjects,
            self._context(events, subjects, births, report),
        )
        counted = repeats > 0
        seconds = gap[counted] / repeats[counted] / SECOND
        return timelines, Gaps(interval[counted], seconds, repeats[counted])

    def _events(self, events: pl.DataFrame, report: Report) -> tuple[np.ndarray, ...]:
        """Usable events in order: subject, known, entry, row, both bins and the joined token.

        -1 where there is no bin or joined token. A stand-in has `~token` for an entry.
        """
        entry = events["entry"].to_numpy().astype(np.int64)
        usable = self.usable[entry]
        self._count(entry[~usable | self.cut[entry]], report)
        bin_, bin2, joined = self._bins(events, entry)
        unseen = usable & (self.joins[entry] & (joined < 0))
        numbers, counts = np.unique(self.rule[entry[unseen]], return_counts=True)
        for number, count in zip(numbers, counts, strict=True):
            report[(self.book.rules[number][0], "not in training")] += int(count)
        keep = usable & ~unseen
        columns = {
            "subject": events["subject_id"].to_numpy()[keep],
            "known": events["known"].to_numpy()[keep],
            "entry": entry[keep],
            "row": events["row"].to_numpy()[keep],
            "bin": bin_[keep],
            "bin2": bin2[keep],
            "joined": joined[keep],
        }
        priority = self.priority[columns["entry"]]
        # Derived events have rows below zero, and stand behind those of the store.
        place = np.where(
            columns["row"] < 0, np.iinfo(np.int64).max // 2 - columns["row"], columns["row"]
        )
        frame = pl.DataFrame(columns).with_columns(priority=priority, place=place)
        rule = self.rule[columns["entry"]]
        for after, lacking, rank, token in self.complete:
            have = frame.filter(pl.Series(rule == lacking)).select("subject", "known")
            lack = frame.filter(pl.Series(rule == after)).join(
                have, on=["subject", "known"], how="anti"
            )
            stand_ins = lack.with_columns(
                entry=pl.lit(~token, pl.Int64),
                bin=pl.lit(-1, pl.Int64),
                bin2=pl.lit(-1, pl.Int64),
                joined=pl.lit(-1, pl.Int64),
                priority=pl.lit(rank, pl.Int64),
            )
            frame = pl.concat([frame, stand_ins])
            rule = np.concatenate([rule, np.full(len(lack), STAND_IN)])
        frame = frame.sort("subject", "known", "priority", "place", "entry")
        if self.once_a_day:
            entry = frame["entry"].to_numpy()
            alike = np.where(entry >= 0, self.alike[np.maximum(entry, 0)], entry)
            frame = frame.with_columns(alike=alike, day=pl.col("known") // DAY).unique(
                ["subject", "day", "alike", "bin", "bin2"], keep="first", maintain_order=True
            )
        return tuple(
            frame[name].to_numpy()
            for name in ("subject", "known", "entry", "row", "bin", "bin2", "joined")
        )

    def _bins(
        self, events: pl.DataFrame, entry: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bins = []
        for column, rows in (("value", self.row), ("value2", self.row2)):
            value = events[column].to_numpy()
            has = ~np.isnan(value) & (rows[entry] >= 0)
            found = np.full(len(entry), -1, np.int64)
            found[has] = bins_of(value[has], rows[entry[has]], self.breaks)
            bins.append(found)
        joins = self.joins[entry] & (bins[0] >= 0)
        joined = np.full(len(entry), -1, np.int64)
        joined[joins] = self.joined_ids[entry[joins], bins[0][joins]]
        bare = self.joins[entry] & (bins[0] < 0)
        joined[bare] = self.flat[self.starts[entry[bare]]]
        return bins[0], bins[1], joined

    def _count(self, lost: np.ndarray, report: Report) -> None:
        for entry, count in zip(*np.unique(lost, return_counts=True), strict=True):
            name = self.book.rules[self.rule[entry]][0]
            report[(name, self.reasons[entry])] += int(count)

    def _intervals(
        self, gap: np.ndarray, rule: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interval token before each event, and how many times it stands there (0: none)."""
        if not len(self.edges):
            return np.zeros(len(gap), np.int64), np.zeros(len(gap), np.int64)
        which = np.searchsorted(self.edges, gap, side="right") - 1
        present = ~first & (which >= 0) & ((rule < 0) | self.preceded[rule])
        repeats = present.astype(np.int64)
        if self.every is not None:
            long = present & (which == len(self.edges) - 1)
            repeats[long] = np.maximum(np.rint(gap[long] / self.every), 1).astype(np.int64)
        return self.interval_ids[np.maximum(which, 0)], repeats

    def _context(
        self, events: pl.DataFrame, subjects: np.ndarray, births: pl.DataFrame, report: Report
    ) -> Context:
        """Rows of static context at each time at which it changes."""
        facts = events.filter(pl.col("rule") >= self.n_timeline)
        entry = facts["entry"].to_numpy().astype(np.int64)
        _, _, joined = self._bins(facts, entry)
        token = np.where(self.joins[entry], joined, self.flat[self.starts[entry]])
        usable = self.usable[entry] & (token >= 0)
        self._count(entry[~usable], report)
        slots = [f"slot{i}" for i in range(len(self.unknown))]
        told = facts.select("subject_id", "known", "row", "rule").with_columns(
            token=pl.Series(token)
        )
        told = told.filter(pl.Series(usable)).select(
            "subject_id",
            "known",
            "row",
            *(
                pl.when(pl.col("rule") == self.n_timeline + i).then("token").alias(name)
                for i, name in enumerate(slots)
            ),
        )
        for_all = pl.DataFrame({"subject_id": pl.Series(subjects, dtype=pl.Int64)})
        blank = for_all.with_columns(
            pl.lit(ALWAYS, pl.Int64).alias("known"), pl.lit(-1, pl.Int64).alias("row")
        )
        rows = (
            pl.concat([blank, told.join(for_all, on="subject_id", how="semi")], how="diagonal")
            .sort("subject_id", "known", "row")
            .with_columns(pl.col(slots).forward_fill().over("subject_id"))
            .unique(["subject_id", "known"], keep="last", maintain_order=True)
            .with_columns(
                pl.col(name).fill_null(unknown).cast(pl.Int64)
                for name, unknown in zip(slots, self.unknown, strict=True)
            )
        )
        if slots:
            same = pl.struct("subject_id", *slots)
            rows = rows.filter((same != same.shift()).fill_null(True))
        counts = rows.group_by("subject_id", maintain_order=True).len()["len"].to_numpy()
        birth = for_all.join(births, on="subject_id", how="left", maintain_order="left")["birth"]
        kind = self.fitted.vocabulary.dtype
        return Context(
            rows.select(slots).to_numpy().reshape(len(rows), len(slots)).astype(kind),
            rows["known"].to_numpy(),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            birth.fill_null(ALWAYS).to_numpy(),
            self.ages.astype(kind),
        )
