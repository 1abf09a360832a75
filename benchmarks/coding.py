"""Time and memory of what medical coding needs beside its models.

`metrics`: every metric of 20,000 notes x 8,000 codes (some 15 codes a note, frequencies as
Zipf's), a threshold tuned on them and 1,000 subject resamples, beside scikit-learn's
`precision_recall_fscore_support`, `roc_auc_score` and `average_precision_score` of the same
arrays, which are checked to agree. `split`: stratified splits of 100,000 subjects. Each runs in
a process of its own, so that its peak memory is its own. All is single-threaded; seconds are of the
processor, so that neighbours on the machine do not count.

    python benchmarks/coding.py [--part metrics --part split] [--notes N] [--codes N]
        [--subjects N] [--repeats N] [--without-peer]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from wardround.cohorts import stratified_split
from wardround.evaluation import Resamples
from wardround.evaluation.multilabel import (
    evaluate_multilabel,
    resample_metrics,
    tune_threshold,
)

LIMIT_RATIO, LIMIT_GIB, LIMIT_SPLIT_SECONDS = 5.0, 2.0, 60.0
CODES_A_NOTE = 15
NOTES_A_SUBJECT = 1.3
AVERAGES = ("micro", "macro")


def draw_targets(notes: int, codes: int, rng: np.random.Generator) -> csr_matrix:
    """Codes of notes: Poisson many, each drawn by a Zipfian frequency."""
    share = 1 / np.arange(1, codes + 1)
    count = rng.poisson(CODES_A_NOTE, notes) + 1
    row = np.repeat(np.arange(notes), count)
    column = rng.choice(codes, len(row), p=share / share.sum())
    y = csr_matrix((np.ones(len(row), np.uint8), (row, column)), shape=(notes, codes))
    y.sum_duplicates()
    y.data[:] = 1
    return y


def draw_scores(y: csr_matrix, rng: np.random.Generator) -> np.ndarray:
    """Logits of a middling model: frequency, noise, and more where the code is true."""
    notes, codes = y.shape
    prior = np.log(1 / np.arange(1, codes + 1)).astype(np.float32)
    scores = np.empty((notes, codes), np.float32)
    for start in range(0, notes, 1000):
        block = scores[start : start + 1000]
        rng.standard_normal(out=block, dtype=np.float32)
        block += prior
        row, column = y[start : start + 1000].nonzero()
        block[row, column] += 4
    return scores


def ours(notes: int, codes: int, repeats: int, seed: int) -> dict[str, float]:
    """Seconds of tuning, of every metric and of the resamples; the metrics."""
    rng = np.random.default_rng(seed)
    y = draw_targets(notes, codes, rng)
    scores = draw_scores(y, rng)
    subjects = np.random.default_rng(seed).integers(0, int(notes / NOTES_A_SUBJECT), notes)
    before = peak_memory()
    began = time.process_time()
    found = evaluate_multilabel(y, scores, 0.0)
    evaluated = time.process_time()
    peak = peak_memory()
    tuned = tune_threshold(y, scores)
    ended = time.process_time()
    resample_metrics(found, Resamples(subjects, repeats, seed))
    resampled = time.process_time()
    return found.metrics | {
        "seconds": evaluated - began,
        "tune": ended - evaluated,
        "resample": resampled - ended,
        "threshold": tuned.value,
        "tuned": tuned.f1_micro,
        "before": before,
        "peak": peak,
        "peak_at_end": peak_memory(),
    }


def peer(notes: int, codes: int, seed: int) -> dict[str, float]:
    """Seconds of the same by scikit-learn, and its metrics."""
    rng = np.random.default_rng(seed)
    y = draw_targets(notes, codes, rng)
    scores = draw_scores(y, rng)
    before = peak_memory()
    began = time.process_time()
    present = np.unique(y.indices)
    if len(present) < codes:
        # Rows first in memory: scikit-learn copies the whole matrix once a column if it is not.
        y, scores = y[:, present], scores.take(present, axis=1)
    found: dict[str, float] = {}
    predicted = csr_matrix(scores > 0)
    for average in AVERAGES:
        values = precision_recall_fscore_support(y, predicted, average=average, zero_division=0)
        names = ("precision", "recall", "f1")
        found |= {f"{n}_{average}": float(v) for n, v in zip(names, values[:3], strict=True)}
    decided = time.process_time()
    dense = y.toarray()
    for average in AVERAGES:
        found[f"auc_{average}"] = float(roc_auc_score(dense, scores, average=average))
    areas = time.process_time()
    found["map"] = float(
        np.mean([average_precision_score(t, s) for t, s in zip(dense, scores, strict=True)])
    )
    ended = time.process_time()
    return found | {
        "seconds": ended - began,
        "decisions": decided - began,
        "areas": areas - decided,
        "ranking": ended - areas,
        "before": before,
        "peak": peak_memory(),
    }


def split(subjects: int, codes: int, seed: int) -> dict[str, float]:
    """Seconds of a stratified split, and how many common codes held-out lacks."""
    rng = np.random.default_rng(seed)
    notes = int(subjects * NOTES_A_SUBJECT)
    who = np.concatenate([np.arange(subjects), rng.integers(0, subjects, notes - subjects)])
    y = draw_targets(notes, codes, rng)
    before = peak_memory()
    began = time.process_time()
    frame = stratified_split(who, y)
    ended = time.process_time()
    held_out = (frame["split"] == "held_out").to_numpy()[who]
    common = np.bincount(y.indices, minlength=codes) >= 10
    missing = common & (np.bincount(y[held_out].indices, minlength=codes) == 0)
    return {
        "seconds": ended - began,
        "pairs": y.nnz,
        "held_out": held_out.mean(),
        "missing": missing.sum() / common.sum(),
        "before": before,
        "peak": peak_memory(),
    }


def peak_memory() -> int:
    """Bytes that this process held at most (Linux). getrusage would count the parent's as well."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def alone(
    context: SpawnContext, run: Callable[..., dict[str, float]], *args: int
) -> dict[str, float]:
    """Result of a call in a process of its own."""
    with context.Pool(1) as pool:
        return pool.apply(run, args)


def print_metrics(options: argparse.Namespace, context: SpawnContext) -> None:
    """Time, memory and agreement of the metrics."""
    size = (options.notes, options.codes)
    m = alone(context, ours, *size, options.repeats, options.seed)
    print(
        f"metrics of {options.notes:,} notes x {options.codes:,} codes: {m['seconds']:.1f} s, peak "
        f"{m['peak'] / 2**30:.2f} GiB ({m['before'] / 2**30:.2f} GiB before, of which scores "
        f"{options.notes * options.codes * 4 / 2**30:.2f}); "
        f"{m['peak'] / 2**30 / LIMIT_GIB:.2f} of the limit of {LIMIT_GIB:.0f} GiB"
    )
    print(
        f"  exact threshold: {m['tune']:.1f} s (micro-F1 {m['f1_micro']:.4f} at 0, "
        f"{m['tuned']:.4f} at {m['threshold']:.3f}); {options.repeats:,} subject resamples: "
        f"{m['resample']:.1f} s; peak of all {m['peak_at_end'] / 2**30:.2f} GiB"
    )
    if options.without_peer:
        return
    p = alone(context, peer, *size, options.seed)
    print(
        f"scikit-learn: {p['seconds']:.1f} s (decisions {p['decisions']:.1f}, areas "
        f"{p['areas']:.1f}, average precision {p['ranking']:.1f}), peak "
        f"{p['peak'] / 2**30:.2f} GiB ({p['before'] / 2**30:.2f} GiB before)"
    )
    shared = [name for name in m if name.endswith(AVERAGES) and name in p] + ["map"]
    worst = max(shared, key=lambda name: abs(m[name] - p[name]))
    print(
        f"ratio: {p['seconds'] / m['seconds']:.1f} times as fast (target {LIMIT_RATIO:.0f}); "
        f"{len(shared)} metrics agree to {abs(m[worst] - p[worst]):.1e}"
    )


def print_split(options: argparse.Namespace, context: SpawnContext) -> None:
    """Time and memory of a stratified split."""
    m = alone(context, split, options.subjects, options.codes, options.seed)
    print(
        f"stratified split of {options.subjects:,} subjects with {m['pairs']:,} codes of "
        f"{options.codes:,}: {m['seconds']:.1f} s, {m['seconds'] / LIMIT_SPLIT_SECONDS:.2f} of the "
        f"limit of {LIMIT_SPLIT_SECONDS:.0f} s, peak {m['peak'] / 2**30:.2f} GiB "
        f"({m['before'] / 2**30:.2f} GiB before)"
    )
    print(
        f"  held-out has {m['held_out']:.1%} of the notes and lacks {m['missing']:.2%} of the "
        "codes with at least 10"
    )


#: Training throughput of the models is to join here: a function of the same kind, under its name.
PARTS: dict[str, Callable[[argparse.Namespace, SpawnContext], None]] = {
    "metrics": print_metrics,
    "split": print_split,
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=list(PARTS), help="all by default")
    parser.add_argument("--notes", type=int, default=20_000)
    parser.add_argument("--codes", type=int, default=8_000)
    parser.add_argument("--subjects", type=int, default=100_000, help="of the split")
    parser.add_argument("--repeats", type=int, default=1_000, help="subject resamples")
    parser.add_argument("--without-peer", action="store_true", help="leave scikit-learn out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in options.part or PARTS:
        PARTS[name](options, context)


if __name__ == "__main__":
    main()
