"""What a tokeniser learns from counts: names to keep, breaks, vocabulary, durations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from wardround.views.timeline.assembly import CodeBook
from wardround.views.timeline.encoding import bin_names
from wardround.views.timeline.preset import Preset
from wardround.views.timeline.statistics import Histogram, quantiles
from wardround.views.timeline.vocabulary import Vocabulary

#: Points of the empirical distribution of an interval: 0 %, 1 %, …, 100 %.
POINTS = 101


@dataclass(frozen=True)
class Durations:
    """How long interval tokens last, in seconds; 0 for every other token.

    Attributes:
        mean: shape (V,): the mean gap of training subjects (the published clock).
        quantiles: shape (V, 101): quantiles 0, 0.01, …, 1 of those gaps, to draw from.
    """

    mean: np.ndarray
    quantiles: np.ndarray


def kept_names(book: CodeBook, names: Histogram) -> dict[str, frozenset[str]]:
    """Names of rules that choose by count, the most frequent first where they take so many."""
    counts = (
        names.counts.select(entry=pl.col("key").cast(pl.UInt32), count="count")
        .join(book.entries, on="entry")
        .group_by("rule", "name")
        .agg(pl.col("count").sum())
        .sort(["count", "name"], descending=[True, False])
    )
    kept = {}
    for number, (rule_name, rule) in enumerate(book.rules):
        if rule.most_frequent is None and rule.min_count == 1:
            continue
        own = counts.filter((pl.col("rule") == number) & (pl.col("count") >= rule.min_count))
        chosen = own["name"] if rule.most_frequent is None else own["name"].head(rule.most_frequent)
        kept[rule_name] = frozenset(chosen.to_list())
    return kept


def fit_breaks(book: CodeBook, values: tuple[Histogram, Histogram]) -> dict[str, list[float]]:
    """Inner quantiles of each name; those of context only where no event has the name."""
    named = [
        (place, entry, by, number)
        for entry, number, name in book.entries.select("entry", "rule", "name").iter_rows()
        if (value := book.rules[number][1].value) and value.breaks() is None
        for place, by in enumerate(bin_names(book.rules[number][1], name))
    ]
    names = pl.DataFrame(
        named,
        schema={"place": pl.Int64, "key": pl.Int64, "name": pl.String, "rule": pl.Int64},
        orient="row",
    ).with_columns(of_context=pl.col("rule") >= len(book.preset.active))
    counts = pl.concat(
        histogram.counts.with_columns(place=pl.lit(place, pl.Int64))
        for place, histogram in enumerate(values)
    )
    tables = (
        counts.join(names, on=["place", "key"])
        .filter(pl.col("of_context") == pl.col("of_context").min().over("name"))
        .group_by("name", "value")
        .agg(pl.col("count").sum(), pl.col("rule").min())
        .sort("name", "value")
        .partition_by("name", as_dict=True, maintain_order=True)
    )
    breaks = {}
    for (name,), table in tables.items():
        value = book.rules[int(table["rule"][0])][1].value
        assert value is not None
        inner = np.arange(1, value.bins) / value.bins
        found = quantiles(table["value"].to_numpy(), table["count"].to_numpy(), inner)
        breaks[str(name)] = (np.unique(found) if value.duplicates == "remove" else found).tolist()
    return breaks


def candidates(book: CodeBook, preset: Preset) -> list[str]:
    """Every token that may occur."""
    tokens = dict.fromkeys(preset.declared_tokens())
    for number, names in book.entries.select("rule", "tokens").iter_rows():
        value = book.rules[number][1].value
        tokens |= dict.fromkeys(names)
        if value and value.attach == "join":
            tokens |= dict.fromkeys(f"{names[0]}//{token}" for token in value.tokens())
    return list(tokens)


def choose(everything: Vocabulary, counts: np.ndarray, preset: Preset) -> list[int]:
    """Declared tokens as declared, then what was seen, the most frequent first."""
    n = len(preset.declared_tokens())
    seen = [i for i in range(n, len(everything)) if counts[i]]
    seen.sort(key=lambda i: (-counts[i], everything.tokens[i]))
    return [*range(n), *seen]


def durations(
    vocabulary: Vocabulary,
    preset: Preset,
    learned: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Durations:
    """Mean and quantiles of each interval; one never seen spreads evenly between its edges."""
    mean = np.zeros(len(vocabulary))
    table = np.zeros((len(vocabulary), POINTS))
    at = np.linspace(0, 1, POINTS)
    if preset.intervals:
        edges = [*preset.intervals.edges]
        last = preset.intervals.repeat_seconds or edges[-1]
        for token, low, high in zip(
            preset.intervals.tokens, edges, [*edges[1:], last], strict=True
        ):
            i = vocabulary.id(token)
            if token in learned:
                seconds, counts = learned[token]
                mean[i] = np.average(seconds, weights=counts)
                table[i] = quantiles(seconds, counts, at)
            else:
                mean[i] = (low + high) / 2
                table[i] = low + (high - low) * at
    return Durations(mean, table)
