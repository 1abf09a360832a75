"""From tokens back to events."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.views.timeline.assembly import CodeBook
from wardround.views.timeline.timelines import Timelines
from wardround.views.timeline.vocabulary import Vocabulary

_PART, _HEAD, _BIN, _SKIP = range(4)


class Decoder:
    """What each token means in a timeline: the begin or a part of an event, a bin, or neither."""

    def __init__(self, book: CodeBook, vocabulary: Vocabulary) -> None:
        preset = book.preset
        heads, parts = set(), set()
        shared: dict[str, int] = {}
        names: dict[str, str] = {}
        joined: dict[str, tuple[str, int]] = {}
        n_timeline = len(preset.active)
        for number, name, tokens in book.entries.select("rule", "name", "tokens").iter_rows():
            value = book.rules[number][1].value
            if number >= n_timeline:
                continue
            names.setdefault(" ".join(tokens), name)
            heads.add(tokens[0])
            parts.update(tokens[1:])
            if value and value.attach == "join":
                for k, bin_ in enumerate(value.tokens(), start=1):
                    joined[f"{tokens[0]}//{bin_}"] = (tokens[0], k)
            elif value:
                shared |= {token: k for k, token in enumerate(value.tokens(), start=1)}
        heads |= set(joined) | {entry.token for entry in preset.complete}
        skipped = {preset.start, preset.end} | set(
            preset.intervals.tokens if preset.intervals else ()
        )
        kinds, bins, texts = [], [], []
        for token in vocabulary.tokens:
            text, bin_ = joined.get(token, (token, shared.get(token, 0)))
            texts.append(text)
            bins.append(bin_)
            if token in skipped:
                kinds.append(_SKIP)
            elif token in shared:
                kinds.append(_BIN)
            else:
                kinds.append(_HEAD if token in heads and token not in parts else _PART)
        self.kinds, self.bins = np.array(kinds), np.array(bins)
        self.texts = pl.Series(texts, dtype=pl.String)
        self.names = names

    def decode(self, timelines: Timelines) -> pl.DataFrame:
        """See `Tokeniser.decode`."""
        tokens = np.asarray(timelines.tokens).astype(np.int64)
        subject = np.repeat(timelines.subjects, np.diff(timelines.offsets))
        kind = self.kinds[tokens]
        use = kind != _SKIP
        tokens, subject, kind = tokens[use], subject[use], kind[use]
        times, events = np.asarray(timelines.times)[use], np.asarray(timelines.events)[use]
        begins = np.ones(len(tokens), bool)
        begins[1:] = (
            (events[1:] != events[:-1]) | (subject[1:] != subject[:-1]) | (kind[1:] == _HEAD)
        )
        frame = pl.DataFrame(
            {
                "event_no": np.cumsum(begins),
                "subject_id": subject,
                "time": times,
                "text": self.texts.gather(tokens),
                "bin": self.bins[tokens],
                "is_bin": kind == _BIN,
                "event": events,
            }
        )
        decoded = (
            frame.group_by("event_no", maintain_order=True)
            .agg(
                pl.col("subject_id", "time", "event").first(),
                code=pl.col("text").filter(~pl.col("is_bin")).str.join(" "),
                bins=pl.col("bin").filter(pl.col("bin") > 0),
            )
            .with_columns(
                pl.col("time").cast(pl.Datetime("us")),
                pl.col("code").replace(list(self.names), list(self.names.values())),
            )
        )
        return decoded.select("subject_id", "time", "code", "bins", "event")
