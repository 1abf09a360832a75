"""Splitting subjects so that every code keeps its share of each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, spmatrix

from wardround.errors import WardroundError
from wardround.store import SPLITS, atomic_write

#: Shares of train, tuning and held_out of Edin et al. (2023).
CODING_FRACTIONS = (0.75, 0.10, 0.15)


def stratified_split(
    subjects: np.ndarray,
    labels: spmatrix,
    *,
    fractions: Sequence[float] = CODING_FRACTIONS,
    seed: int = 10,
    paper_compat: bool = False,
) -> pl.DataFrame:
    """Assign subjects to splits by iterative stratification (Sechidis et al. 2011).

    The split of a subject depends on all subjects and codes, unlike that of
    `wardround.store.split_subjects`: more documents may move everybody.

    A subject's labels are the codes of all its documents with repeats: a code that three
    admissions have counts three times in what a split wants, and in what is left to hand out. Held
    out is taken first, with its share of all; tuning next, with its share of the rest (10 / 85 by
    default); train keeps what remains. At each step the code with the fewest occurrences left has
    its subjects handed out, each to the side that wants the code most; if both want it alike to
    the one with more room for subjects; if that is alike, too, by lot. Subjects without a code
    come last and fill the room that is left.

    Args:
        subjects: (documents,) int64 subject of each document.
        labels: (documents, codes) sparse, bool or counts.
        fractions: shares of train, tuning and held_out, of labels and of subjects; must add up
            to 1.
        seed: of the order of subjects and of lots.
        paper_compat: room for subjects starts at the number of codes times the share, as in the
            published script, where it ought to be the number of subjects. Only decides ties.

    Returns:
        `subject_id`, `split` (train, tuning, held_out), one row a subject, sorted.

    Raises:
        WardroundError: lengths differ, a count is negative, or fractions are no shares.
    """
    ids = np.asarray(subjects)
    matrix = csr_matrix(labels, dtype=np.int64)
    if ids.ndim != 1 or len(ids) != matrix.shape[0]:
        raise WardroundError(
            f"there are {ids.size} subjects for {matrix.shape[0]} documents; give one for each"
        )
    if matrix.nnz and matrix.data.min() < 0:
        raise WardroundError("labels hold a negative count; give a code's occurrences, 0 or more")
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise WardroundError(
            f"split fractions must be {len(SPLITS)} shares that add up to 1, got {list(fractions)}"
        )
    distinct, row = np.unique(ids, return_inverse=True)
    by_subject = csr_matrix(
        (np.ones(len(ids), np.int64), (row, np.arange(len(ids)))), shape=(len(distinct), len(ids))
    )
    counts = (by_subject @ matrix).tocsr()
    counts.eliminate_zeros()
    rng = np.random.default_rng(seed)
    split = np.zeros(len(distinct), np.int64)
    left = np.arange(len(distinct))
    remaining_share = 1.0
    for number in (2, 1):
        if not len(left) or fractions[number] <= 0:
            continue
        share = min(1.0, fractions[number] / remaining_share)
        chosen = _take(counts[left], share, rng, paper_compat)
        split[left[chosen]] = number
        left = left[~chosen]
        remaining_share -= fractions[number]
    names = np.array(SPLITS, dtype=object)[split]
    return pl.DataFrame(
        {
            "subject_id": pl.Series(distinct.astype(np.int64)),
            "split": pl.Series(names, dtype=pl.String),
        }
    )


def _take(
    counts: csr_matrix, share: float, rng: np.random.Generator, paper_compat: bool
) -> np.ndarray:
    """Mask of the examples that make up a share of every label.

    Choices for a label's examples depend on the wants of this label alone. They are therefore made
    one by one on plain numbers, and what they mean for other labels is booked once a label.

    Args:
        counts: (examples, labels) occurrences.
        share: of the part that is taken; the other keeps the rest.
    """
    if share > 1 - 1e-9:
        return np.ones(counts.shape[0], bool)
    order = rng.permutation(counts.shape[0])
    counts = counts[order]
    examples, labels = counts.shape
    by_label = counts.tocsc()  # the inverted index
    by_label.sort_indices()
    total = np.asarray(counts.sum(axis=0)).ravel()
    taken, remaining = np.zeros(labels, np.int64), total.copy()
    lengths = np.diff(counts.indptr)
    side = np.full(examples, -1, np.int8)  # 1 taken, 0 kept, -1 to come
    size = labels if paper_compat else examples
    room = [size * (1 - share), size * share]
    unseen = np.iinfo(np.int64).max
    key = np.where(remaining > 0, remaining, unseen)
    while labels:
        label = int(np.argmin(key))
        if key[label] == unseen:
            break
        column = slice(by_label.indptr[label], by_label.indptr[label + 1])
        members, weight = by_label.indices[column], by_label.data[column]
        waiting = side[members] < 0
        members, weight = members[waiting], weight[waiting]
        # Wants come from whole counts, so that no order of subtractions can blur a tie.
        given = [int(total[label] - remaining[label] - taken[label]), int(taken[label])]
        goal = [float(total[label] * (1 - share)), float(total[label] * share)]
        for example, occurrences in zip(members.tolist(), weight.tolist(), strict=True):
            which = _choose(goal[0] - given[0], goal[1] - given[1], room, rng)
            side[example] = which
            given[which] += occurrences
            room[which] -= 1
        # All label counts of the examples that were handed out, booked at once.
        begin, length = counts.indptr[members], lengths[members]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        entries = np.repeat(begin, length) + within
        codes, amount = counts.indices[entries], counts.data[entries]
        np.subtract.at(remaining, codes, amount)
        np.add.at(taken, codes, amount * np.repeat(side[members], length))
        key[codes] = np.where(remaining[codes] > 0, remaining[codes], unseen)
    for example in np.flatnonzero(side < 0).tolist():
        which = _choose(0.0, 0.0, room, rng)
        side[example] = which
        room[which] -= 1
    chosen = np.empty(examples, bool)
    chosen[order] = side == 1
    return chosen


def _choose(keep: float, take: float, room: list[float], rng: np.random.Generator) -> int:
    """Which side wants it more, or has more room; by lot if neither. Sums may be off by 1e-9."""
    for difference in (take - keep, room[1] - room[0]):
        if abs(difference) > 1e-9:
            return int(difference > 0)
    return int(rng.integers(2))


def write_splits(splits: pl.DataFrame, path: Path) -> None:
    """Write splits as a MEDS `subject_splits.parquet`, whole or not at all.

    A file of a run's own: the store's shards are named by the split that it was made with, and
    its fingerprint vouches for that, so a store's own file is not replaced.

    Args:
        splits: as `stratified_split` gives them.
        path: of the file.

    Raises:
        WardroundError: the path lies in a patient store.
    """
    path = Path(path)
    if (path.parent.parent / "provenance.json").is_file():
        raise WardroundError(
            f"{path} belongs to a patient store, whose splits are sealed by its fingerprint; "
            "write the splits to the run's folder"
        )
    with atomic_write(path) as temporary:
        splits.select("subject_id", "split").write_parquet(temporary)


def read_splits(path: Path) -> pl.DataFrame:
    """Read `subject_id`, `split` as `write_splits` or another MEDS tool wrote them.

    Raises:
        WardroundError: no such table, a split that is not of MEDS, or a subject in two of them.
    """
    try:
        frame = pl.read_parquet(path, glob=False).select(
            pl.col("subject_id").cast(pl.Int64), pl.col("split").cast(pl.String)
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise WardroundError(f"{path} holds no table of subject_id and split: {reason}") from error
    strange = frame.filter(~pl.col("split").is_in(SPLITS) | pl.col("split").is_null())
    if len(strange):
        subject, split = strange.row(0)
        raise WardroundError(
            f"{path}: subject {subject} is in split {split!r}; splits are {', '.join(SPLITS)}"
        )
    twice = frame.filter(pl.col("subject_id").is_duplicated())
    if len(twice):
        raise WardroundError(
            f"{path}: subject {twice['subject_id'][0]} has several rows; give each subject one"
        )
    return frame.sort("subject_id")
