"""The tokeniser: fitted on training subjects, applied to any store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from wardround.errors import WardroundError
from wardround.store import PatientStore, atomic_write
from wardround.views.records import Records
from wardround.views.timeline.arrays import ArrayWriter, reorder
from wardround.views.timeline.assembly import CodeBook, Report, assemble, select_rows
from wardround.views.timeline.compiler import ENTRY_SCHEMA
from wardround.views.timeline.decoding import Decoder
from wardround.views.timeline.encoding import Encoder, Fitted, Gaps
from wardround.views.timeline.fitting import (
    POINTS,
    Durations,
    candidates,
    choose,
    durations,
    fit_breaks,
    kept_names,
)
from wardround.views.timeline.preset import Preset, load_preset
from wardround.views.timeline.reading import Derived, read, read_store
from wardround.views.timeline.statistics import Histogram
from wardround.views.timeline.timelines import LAYOUT, MANIFEST, Timelines
from wardround.views.timeline.vocabulary import Vocabulary

TOKENISER, VOCABULARY, CODES = "tokeniser.json", "vocabulary.json", "codes.parquet"


@dataclass
class Tokeniser:
    """A fitted preset.

    Attributes:
        preset: what was fitted.
        vocabulary: tokens and how often training subjects have them.
        durations: of interval tokens.
        breaks: {name: ascending breaks} of values.
        kept: {rule: names} of rules that choose by count.
        source: fingerprint of the store and number of subjects that it was fitted on, and whether
            there were derived events.
    """

    preset: Preset
    vocabulary: Vocabulary
    durations: Durations
    breaks: dict[str, list[float]]
    kept: dict[str, frozenset[str]]
    source: dict[str, Any]
    _book: CodeBook = field(repr=False)

    def __post_init__(self) -> None:
        self._encoder: Encoder | None = None

    @classmethod
    def fit(
        cls,
        store: PatientStore,
        preset: str | Path | Preset = "ethos",
        *,
        subjects: Iterable[int] | None = None,
        changes: Mapping[str, Any] | None = None,
        paper_compat: bool = False,
        drug_table: Path | None = None,
        derived: Derived | None = None,
    ) -> Tokeniser:
        """Learn quantiles, vocabulary and durations in two passes over the store.

        Quantiles and durations (to the second) are exact; memory is bounded by a shard and the
        number of distinct values of a code.

        Args:
            store: any patient store.
            preset: name, file or preset.
            subjects: whose events to learn from; the train split unless told.
            changes, paper_compat, drug_table: see `load_preset`.
            derived: computes further events; `write` and `encode` then need it as well.

        Raises:
            WardroundError: the preset is not right, or no subject has an event that it keeps.
        """
        preset = load_preset(preset, changes, paper_compat=paper_compat, drug_table=drug_table)
        if subjects is None:
            splits = store.splits()
            wanted = splits.filter(pl.col("split") == "train").select("subject_id")
        else:
            wanted = _subject_frame(subjects)
        book = CodeBook(preset)
        book.learn(store.codes().select("code").collect()["code"])
        report: Report = Counter()
        values = Histogram(), Histogram()
        names = Histogram()
        for part in read_store(store, book, wanted, derived, "Counting codes"):
            events = assemble(part.rows, book, report)
            names.add(events["entry"], pl.zeros(len(events), eager=True))
            for histogram, column in zip(values, ("value", "value2"), strict=True):
                histogram.add(events["entry"], events[column])
        kept = kept_names(book, names)
        if not len(names.counts):
            raise WardroundError(
                f"none of the {len(wanted):,} subjects to fit on has an event that preset "
                f"{preset.name} keeps; does the store come from the source it was written for?"
            )
        breaks = fit_breaks(book, values)
        everything = Vocabulary(tuple(candidates(book, preset)))
        encoder = Encoder(book, Fitted(everything, breaks, kept))
        counts = np.zeros(len(everything), np.int64)
        in_context = np.zeros(len(everything), np.int64)
        gaps = Histogram()
        n_subjects = 0
        for part in read_store(store, book, wanted, derived, "Counting tokens"):
            events = assemble(part.rows, book, Counter())
            timelines, new = encoder.encode(events, part.births, Counter())
            counts += np.bincount(timelines.tokens, minlength=len(counts))
            assert timelines.context_table is not None
            in_context += np.bincount(timelines.context_table.rows.ravel(), minlength=len(counts))
            gaps.add(pl.Series(new.tokens), pl.Series(np.rint(new.seconds)), pl.Series(new.counts))
            n_subjects += len(timelines)
        counts = np.where(counts > 0, counts, in_context)
        chosen = choose(everything, counts, preset)
        vocabulary = Vocabulary(
            tuple(everything.tokens[i] for i in chosen), tuple(int(counts[i]) for i in chosen)
        )
        learned = {everything.tokens[key]: table for key, table in gaps.by_key().items()}
        source = {
            "store": store.fingerprint,
            "subjects": n_subjects,
            "derived": derived is not None,
        }
        return cls(
            preset,
            vocabulary,
            durations(vocabulary, preset, learned),
            breaks,
            kept,
            source,
            book,
        )

    def write(
        self,
        store: PatientStore,
        folder: str | Path,
        *,
        subjects: Iterable[int] | None = None,
        derived: Derived | None = None,
    ) -> Timelines:
        """Tokenise a store into a folder of memory-mapped arrays, one shard in memory at a time.

        The folder also holds the tokeniser itself (`Tokeniser.load`) and `report.json`: rows left
        out, by rule and reason. It stands there whole or not at all.

        Args:
            store: any patient store.
            folder: replaced if it holds timelines.
            subjects: whose; all unless told.
            derived: computes further events, as in `fit`.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
            raise WardroundError(f"{folder} exists and holds no timelines; choose another folder")
        self._check_derived(derived)
        wanted = None if subjects is None else _subject_frame(subjects)
        report: Report = Counter()
        with atomic_write(folder) as place:
            place.mkdir()
            self.save(place)
            self._write_arrays(place, store, wanted, derived, report)
            rows = [
                {"rule": rule, "reason": reason, "rows": count}
                for (rule, reason), count in report.most_common()
            ]
            (place / "report.json").write_text(json.dumps(rows, indent=1))
            files = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
            manifest = {"layout": LAYOUT, "store": store.fingerprint, "files": files}
            (place / MANIFEST).write_text(json.dumps(manifest, indent=1))
        return Timelines.open(folder)

    def _write_arrays(
        self,
        place: Path,
        store: PatientStore,
        wanted: pl.DataFrame | None,
        derived: Derived | None,
        report: Report,
    ) -> None:
        kind = self.vocabulary.dtype
        subjects, births, sizes, context_sizes = [], [], [], []
        ages = np.empty((0, 0))
        with ExitStack() as stack:

            def writer(name: str, dtype: type, width: int | None = None) -> ArrayWriter:
                return stack.enter_context(ArrayWriter(place / f"{name}.npy", dtype, width))

            arrays = {
                "tokens": writer("tokens", kind),
                "times": writer("times", np.int64),
                "events": writer("events", np.int64),
            }
            contexts = writer("contexts", kind, len(self.preset.context))
            context_times = writer("context_times", np.int64)
            for part in read_store(store, self._book, wanted, derived, "Tokenising"):
                events = assemble(part.rows, self._book, report)
                report[("-", "no rule keeps it")] += part.unwanted
                timelines, _ = self._encode(events, part.births, report)
                table = timelines.context_table
                assert table is not None
                for name, array in arrays.items():
                    array.append(getattr(timelines, name))
                contexts.append(table.rows)
                context_times.append(table.times)
                subjects.append(timelines.subjects)
                births.append(table.births)
                sizes.append(np.diff(timelines.offsets))
                context_sizes.append(np.diff(table.offsets))
                ages = table.ages
        subject = _joined(subjects)
        order = np.argsort(subject, kind="stable")
        size, context_size = _joined(sizes), _joined(context_sizes)
        if (order != np.arange(len(order))).any():
            for names, lengths in (
                (("tokens", "times", "events"), size),
                (("contexts", "context_times"), context_size),
            ):
                for name in names:
                    reorder(place / f"{name}.npy", _offsets(lengths), order)
        np.save(place / "offsets.npy", _offsets(size[order]))
        np.save(place / "subjects.npy", subject[order])
        np.save(place / "context_offsets.npy", _offsets(context_size[order]))
        np.save(place / "births.npy", _joined(births)[order])
        np.save(place / "ages.npy", ages.astype(kind))

    def encode(self, records: Records, *, derived: Derived | None = None) -> Timelines:
        """Tokenise records in memory; `events` number the rows of `records.events()`."""
        self._check_derived(derived)
        part = read(select_rows(records.events(), self._book), records, self._book, derived)
        events = assemble(part.rows, self._book, Counter())
        return self._encode(events, part.births, Counter())[0]

    def _check_derived(self, derived: Derived | None) -> None:
        if self.source["derived"] and derived is None:
            raise ValueError("fitted with derived events: pass what computes them")

    def _encode(
        self, events: pl.DataFrame, births: pl.DataFrame, report: Report
    ) -> tuple[Timelines, Gaps]:
        if self._encoder is None or len(self._encoder.rule) != len(self._book.entries):
            fitted = Fitted(self.vocabulary, self.breaks, self.kept)
            self._encoder = Encoder(self._book, fitted)
        return self._encoder.encode(events, births, report)

    def save(self, folder: str | Path) -> None:
        """Write `tokeniser.json`, `vocabulary.json` and the compiled codes into a folder."""
        folder = Path(folder)
        intervals = np.flatnonzero(self.durations.mean)
        content = {
            "layout": LAYOUT,
            "preset": self.preset.model_dump(mode="json", exclude_unset=True),
            "source": self.source,
            "breaks": self.breaks,
            "kept": {rule: sorted(names) for rule, names in self.kept.items()},
            "durations": {
                self.vocabulary.tokens[i]: {
                    "mean": float(self.durations.mean[i]),
                    "quantiles": self.durations.quantiles[i].tolist(),
                }
                for i in intervals
            },
        }
        self.vocabulary.save(folder / VOCABULARY)
        with atomic_write(folder / CODES) as temporary:
            self._book.codes.write_parquet(temporary)
        with atomic_write(folder / TOKENISER) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Tokeniser:
        """Read what `save` or `write` left in a folder.

        Raises:
            WardroundError: nothing there, or it is damaged.
        """
        path = Path(folder) / TOKENISER
        if not path.is_file():
            raise WardroundError(f"{folder} holds no tokeniser (no {TOKENISER}); tokenise a store")
        vocabulary = Vocabulary.load(Path(folder) / VOCABULARY)
        try:
            content = json.loads(path.read_text("utf-8"))
            preset = load_preset(Preset.model_validate(content["preset"]))
            codes = pl.read_parquet(Path(folder) / CODES, glob=False)
            if codes.schema != ENTRY_SCHEMA:
                raise ValueError(f"{CODES} has other columns")
            clock = Durations(np.zeros(len(vocabulary)), np.zeros((len(vocabulary), POINTS)))
            for token, table in content["durations"].items():
                clock.mean[vocabulary.id(token)] = table["mean"]
                clock.quantiles[vocabulary.id(token)] = table["quantiles"]
            return cls(
                preset,
                vocabulary,
                clock,
                {name: list(map(float, breaks)) for name, breaks in content["breaks"].items()},
                {rule: frozenset(names) for rule, names in content["kept"].items()},
                dict(content["source"]),
                CodeBook(preset, codes),
            )
        except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            raise WardroundError(
                f"the tokeniser in {folder} is damaged ({type(error).__name__}: {reason}); "
                "tokenise again"
            ) from error

    def decode(self, timelines: Timelines) -> pl.DataFrame:
        """Turn tokens back into events.

        Returns:
            One row an event, in order: `subject_id`, `time` (when it was known), `code` (the
            name that the preset gives it), `bins` (list of the bins of its values, from 1) and
            `event` (its row, as in `Timelines.events`).
        """
        return Decoder(self._book, self.vocabulary).decode(timelines)


def _subject_frame(subjects: Iterable[int]) -> pl.DataFrame:
    return pl.DataFrame({"subject_id": np.unique(np.fromiter(subjects, np.int64))})


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
