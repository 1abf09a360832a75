"""Time and memory of 1,000 subject resamples of every metric on 88,000 rows.

As many test rows as the ED triage benchmark has, of 60,000 subjects with 1 to some dozens of rows.
`evaluate_binary` (two areas, Brier, calibration intercept and slope, two operating points)
runs in a process of its own; beside it, in another, a loop that repeats the rows of the drawn
subjects and asks scikit-learn for the same numbers (it has no calibration intercept, which is
solved as ours is), timed on a few resamples and scaled.

    python benchmarks/bootstrap.py [--rows N] [--subjects N] [--repeats N] [--loop N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from wardround.evaluation import Resamples, choose_thresholds, evaluate_binary
from wardround.evaluation.metrics import logits, recalibrate_intercept

LIMIT_SECONDS = 10.0
ENDS = ("auroc", "auprc", "brier", "calibration_intercept", "calibration_slope")
BOUNDS = ("low", "high")


def draw(rows: int, subjects: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subjects, outcomes (about 6 %) and probabilities of rows; a subject's rows share a risk."""
    rng = np.random.default_rng(seed)
    extra = rng.choice(subjects, rows - subjects, p=_weights(subjects, rng))
    who = rng.permutation(np.concatenate([np.arange(subjects), extra]))
    share = rng.normal(0, 1, subjects)[who]
    p = expit(-3.6 + 1.2 * share + rng.normal(0, 0.7, rows))
    return who, rng.random(rows) < p, p


def _weights(subjects: int, rng: np.random.Generator) -> np.ndarray:
    """Few subjects come often."""
    weight = rng.pareto(1.5, subjects)
    return weight / weight.sum()


def ours(rows: int, subjects: int, repeats: int, seed: int) -> dict[str, float]:
    """Seconds of drawing resamples and of all metrics with their intervals."""
    who, y, p = draw(rows, subjects, seed)
    thresholds = choose_thresholds(y, p)
    before = peak_memory()
    began = time.perf_counter()
    resamples = Resamples(who, repeats, seed)
    drawn = time.perf_counter()
    result = evaluate_binary("m", "M", y, p, resamples, thresholds=thresholds)
    ended = time.perf_counter()
    ends = {f"{name} {end}": getattr(result.metrics[name], end) for name in ENDS for end in BOUNDS}
    return ends | {
        "draw": drawn - began,
        "evaluate": ended - drawn,
        "peak": peak_memory(),
        "before": before,
    }


def loop(rows: int, subjects: int, repeats: int, seed: int) -> dict[str, float]:
    """Seconds a resample of the plain way."""
    who, y, p = draw(rows, subjects, seed)
    thresholds = choose_thresholds(y, p)
    order = np.argsort(who, kind="stable")
    first = np.searchsorted(who[order], np.arange(subjects + 1))
    size = np.diff(first)
    rng = np.random.default_rng(seed)
    began = time.perf_counter()
    for _ in range(repeats):
        drawn = rng.integers(0, subjects, subjects)
        inside = np.arange(size[drawn].sum()) - np.repeat(
            np.cumsum(size[drawn]) - size[drawn], size[drawn]
        )
        take = order[np.repeat(first[drawn], size[drawn]) + inside]
        again, risk = y[take], p[take]
        roc_auc_score(again, risk)
        average_precision_score(again, risk)
        brier_score_loss(again, risk)
        x = logits(risk)
        LogisticRegression(C=np.inf).fit(x[:, None], again)
        recalibrate_intercept(x[None, :], again[None, :].astype(float), np.ones((1, len(x))))
        for threshold in thresholds.values():
            confusion_matrix(again, risk >= threshold)
    return {"seconds": (time.perf_counter() - began) / repeats, "peak": peak_memory()}


def peak_memory() -> int:
    """Bytes that this process held at most (Linux). getrusage would count the parent's as well."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=88_000)
    parser.add_argument("--subjects", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=1_000)
    parser.add_argument("--loop", type=int, default=10, help="resamples of the loop")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    size = (options.rows, options.subjects)
    with context.Pool(1) as pool:
        m = pool.apply(ours, (*size, options.repeats, options.seed))
    with context.Pool(1) as pool:
        peer = pool.apply(loop, (*size, options.loop, options.seed))
    seconds = m["draw"] + m["evaluate"]
    scaled = peer["seconds"] * options.repeats
    print(
        f"{options.repeats:,} resamples of {options.subjects:,} subjects with {options.rows:,} "
        f"rows, all metrics: {seconds:.1f} s ({m['draw']:.1f} s to draw), peak "
        f"{m['peak'] / 2**30:.2f} GiB ({m['before'] / 2**30:.2f} GiB before)"
    )
    print(
        f"scikit-learn in a loop: {peer['seconds'] * 1000:.0f} ms a resample ({options.loop} run), "
        f"{scaled:.0f} s for {options.repeats:,}, peak {peer['peak'] / 2**30:.2f} GiB"
    )
    print(f"ratio: {scaled / seconds:.1f} times as fast")
    print(f"of the limit: {seconds / LIMIT_SECONDS:.2f} of {LIMIT_SECONDS:.0f} s")
    for name in ENDS:
        print(f"  {name}: {m[f'{name} low']:.4f} to {m[f'{name} high']:.4f}")


if __name__ == "__main__":
    main()
