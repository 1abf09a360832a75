"""Multi-label metrics: worked by hand, beside scikit-learn, and on data whose truth is planted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.special import expit, logit
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from wardround.errors import WardroundError
from wardround.evaluation import Resamples
from wardround.evaluation.multilabel import (
    auc_micro,
    code_group_table,
    code_table,
    compare_multilabel,
    document_group_table,
    evaluate_multilabel,
    frequency_bands,
    frequency_prior,
    mcnemar,
    multilabel_estimates,
    part,
    quantile_bands,
    resample_metrics,
    tune_threshold,
)

# Four documents, five codes. Code E is in no document and document 4 has no code, so that a
# 3 x 4 part is measured. Predicted is what is above 0.5, in brackets:
#
#          A      B      C      D      E
#   1   [ .9*]  [.8 ]   .4*    .1   [.6]      * true
#   2   [ .7 ]  [.9*]   .2     .3    .1
#   3     .2      .1   [.6*]   .5*   .3
#   4   [ .8 ]    .1    .1     .1    .1
TARGETS = csr_matrix(np.array([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]))
SCORES = np.array(
    [
        [0.9, 0.8, 0.4, 0.1, 0.6],
        [0.7, 0.9, 0.2, 0.3, 0.1],
        [0.2, 0.1, 0.6, 0.5, 0.3],
        [0.8, 0.1, 0.1, 0.1, 0.1],
    ],
    np.float32,
)


def test_four_documents_and_five_codes_by_hand() -> None:
    found = evaluate_multilabel(TARGETS, SCORES, 0.5)
    assert found.documents.tolist() == [0, 1, 2] and found.codes.tolist() == [0, 1, 2, 3]
    # By code, TP FP FN: A 1 1 0, B 1 1 0, C 1 0 1, D 0 0 1. All: 3 2 2, and 5 true negatives.
    # Ranked by score: 1 is A* B C* D, 2 is B* A D C, 3 is C* D* A B.
    # AUC, pairs won: A 2 of 2, B 2 of 2, C (.4 and .6 over .2) 2 of 2, D .5 over .1 and .3.
    # Over all pairs, negatives .8 .7 .3 .2 .2 .1 .1: .9 and .9 win 7, .6 and .5 and .4 win 5.
    expected = {
        "precision_micro": 3 / 5,
        "recall_micro": 3 / 5,
        "f1_micro": 3 / 5,
        "fpr_micro": 2 / 7,
        "precision_macro": (1 / 2 + 1 / 2 + 1 + 0) / 4,
        "recall_macro": (1 + 1 + 1 / 2 + 0) / 4,
        "f1_macro": (2 / 3 + 2 / 3 + 2 / 3 + 0) / 4,
        "fpr_macro": (1 / 2 + 1 / 2 + 0 + 0) / 4,
        "exact_match_ratio": 0,
        "precision_at_5": (2 + 1 + 2) / 5 / 3,
        "precision_at_8": (2 + 1 + 2) / 8 / 3,
        "precision_at_15": (2 + 1 + 2) / 15 / 3,
        "recall_at_10": 1,
        "recall_at_15": 1,
        "r_precision": (1 / 2 + 1 + 1) / 3,
        "map": ((1 + 2 / 3) / 2 + 1 + 1) / 3,
        "auc_micro": (7 + 7 + 5 + 5 + 5) / 35,
        "auc_macro": 1,
        # Five codes, and the false A of document 4 counts: precision 1/3 1/2 1 0 0.
        "f1_macro_mullenbach": 2 * (11 / 30) * (1 / 2) / (11 / 30 + 1 / 2),
    }
    assert found.metrics == pytest.approx(expected)
    assert found.per_document["r_precision"].to_list() == [0.5, 1, 1]
    assert found.per_code["f1"].to_list() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    assert found.predictions.toarray().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]


def test_a_label_that_the_split_lacks_changes_the_legacy_macro_f1_only() -> None:
    y, s = TARGETS[:3, :4], SCORES[:3, :4]
    before = evaluate_multilabel(y, s, 0.5).metrics
    wide = csr_matrix((y.data, y.indices, y.indptr), shape=(3, 8))
    silent = np.hstack([s, np.full((3, 4), 0.05, np.float32)])
    after = evaluate_multilabel(wide, silent, 0.5).metrics
    assert after.pop("f1_macro_mullenbach") == pytest.approx(before.pop("f1_macro_mullenbach") / 2)
    assert after == before


def test_a_document_without_a_code_changes_nothing_but_the_legacy_precision() -> None:
    with_it, without = (evaluate_multilabel(TARGETS[:n], SCORES[:n], 0.5).metrics for n in (4, 3))
    assert with_it.pop("f1_macro_mullenbach") < without.pop("f1_macro_mullenbach")
    assert with_it == without


def test_equal_scores_rank_in_the_order_of_codes_and_share_their_average_precision() -> None:
    y = csr_matrix(np.eye(12, dtype=bool)[[0, 4, 5, 11]])
    found = evaluate_multilabel(
        csr_matrix(np.vstack([y.toarray(), np.ones((1, 12), bool)])),
        np.zeros((5, 12), np.float32),
        0.5,
    )
    assert found.per_document["precision_at_5"].to_list() == [0.2, 0.2, 0, 0, 1]
    assert found.per_document["recall_at_10"].to_list() == [1, 1, 1, 0, pytest.approx(10 / 12)]
    assert found.per_document["average_precision"].to_list() == pytest.approx([1 / 12] * 4 + [1])
    assert found.metrics["auc_micro"] == found.metrics["auc_macro"] == 0.5


def random_case(seed: int, n: int, m: int, levels: int) -> tuple[csr_matrix, np.ndarray]:
    """Targets with empty rows and columns, and scores of which many are equal."""
    rng = np.random.default_rng(seed)
    y = rng.random((n, m)) < rng.random(m) ** 2 * 0.6
    y[rng.random(n) < 0.1] = False
    y[0, 0] = True
    s = rng.integers(0, levels, (n, m)) + (rng.random((n, m)) < 0.5) * y
    return csr_matrix(y), (s / (levels + 1)).astype(np.float32)


def measured(y: csr_matrix, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense, without absent codes and documents that have none."""
    dense = y.toarray()
    rows, columns = dense.any(axis=1), dense.any(axis=0)
    return dense[rows][:, columns], s[rows][:, columns]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    levels=st.sampled_from([1, 3, 10, 1000]),
    at=st.floats(0, 1),
    block=st.sampled_from([1, 40, part.BLOCK]),
)
def test_agrees_with_scikit_learn(
    seed: int, n: int, m: int, levels: int, at: float, block: int
) -> None:
    y, s = random_case(seed, n, m, levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "BLOCK", block)  # one row at a time, a few, all
        found = evaluate_multilabel(y, s, at)
    Y, S = measured(y, s)
    P = np.float32(at) < S
    for name, score in {
        "f1": f1_score,
        "precision": precision_score,
        "recall": recall_score,
    }.items():
        for average in ("micro", "macro"):
            # A single column would be taken for a binary problem: two of them are the same mean.
            Y2, P2 = (np.hstack([Y, Y]), np.hstack([P, P])) if Y.shape[1] == 1 else (Y, P)
            expected = score(Y2, P2, average=average, zero_division=0)
            assert found.metrics[f"{name}_{average}"] == pytest.approx(expected, abs=1e-12)
    average_precision = [average_precision_score(a, b) for a, b in zip(Y, S, strict=True)]
    assert found.per_document["average_precision"].to_list() == pytest.approx(average_precision)
    assert found.metrics["map"] == pytest.approx(np.mean(average_precision))
    defined = np.flatnonzero(~Y.all(axis=0))
    areas = [roc_auc_score(Y[:, c], S[:, c]) for c in defined]
    assert found.per_code["auc"].drop_nulls().to_list() == pytest.approx(areas)
    for c, value in enumerate(found.per_code["average_precision"]):
        assert value == pytest.approx(average_precision_score(Y[:, c], S[:, c]))
    if len(areas):
        assert found.metrics["auc_macro"] == pytest.approx(np.mean(areas))
        assert found.metrics["auc_micro"] == pytest.approx(roc_auc_score(Y.ravel(), S.ravel()))
    else:
        assert math.isnan(found.metrics["auc_micro"]) and math.isnan(found.metrics["auc_macro"])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 12),
    m=st.integers(1, 30),
    levels=st.sampled_from([1, 3, 10, 1000]),
)
def test_top_k_agrees_with_a_stable_sort(seed: int, n: int, m: int, levels: int) -> None:
    y, s = random_case(seed, n, m, levels)
    found = evaluate_multilabel(y, s, 0.5).per_document
    Y, S = measured(y, s)
    for row, (true, score) in enumerate(zip(Y, S, strict=True)):
        ranked = true[np.argsort(-score, kind="stable")]
        got = found.row(row, named=True)
        for k in (5, 8, 15):
            assert got[f"precision_at_{k}"] == pytest.approx(ranked[:k].sum() / k)
        for k in (10, 15):
            assert got[f"recall_at_{k}"] == pytest.approx(ranked[:k].sum() / true.sum())
        assert got["r_precision"] == pytest.approx(ranked[: true.sum()].mean())


def test_a_subset_of_codes_is_as_good_as_a_smaller_matrix() -> None:
    y, s = random_case(3, 40, 20, 50)
    mask = np.arange(20) % 3 > 0
    expected = evaluate_multilabel(y[:, mask], s[:, mask], 0.4).metrics
    assert evaluate_multilabel(y, s, 0.4, codes=mask).metrics == expected
    assert evaluate_multilabel(y, s, 0.4, codes=np.flatnonzero(mask)).metrics == expected
    tuned = tune_threshold(y[:, mask], s[:, mask])
    assert tune_threshold(y, s, codes=mask) == tuned


def test_areas_over_all_codes_are_the_published_ones() -> None:
    y, s = random_case(5, 30, 20, 9)
    y = csr_matrix(np.hstack([y.toarray(), np.zeros((30, 5), bool)]))
    s = np.hstack([s, np.zeros((30, 5), np.float32)])
    published = evaluate_multilabel(y, s, 0.5, paper_compat=True).metrics["auc_micro"]
    assert published == pytest.approx(roc_auc_score(y.toarray().ravel(), s.ravel()))
    assert published > evaluate_multilabel(y, s, 0.5).metrics["auc_micro"]
    assert auc_micro(y, s) == evaluate_multilabel(y, s, 0.5).metrics["auc_micro"]


def test_memory_mapped_scores_give_the_same(tmp_path: Path) -> None:
    y, s = random_case(1, 60, 25, 40)
    mapped = np.memmap(tmp_path / "scores", np.float32, "w+", shape=s.shape)
    mapped[:] = s
    mapped.flush()
    mapped = np.memmap(tmp_path / "scores", np.float32, "r", shape=s.shape)
    one, two = evaluate_multilabel(y, s, 0.5), evaluate_multilabel(y, mapped, 0.5)
    assert one.metrics == two.metrics and one.per_code.equals(two.per_code)
    assert tune_threshold(y, s) == tune_threshold(y, mapped)
    assert (mapped == s).all()  # sorting was done on copies


@pytest.mark.parametrize("where", [(1, 1), (2, 4), (3, 0)])
@pytest.mark.parametrize("tune", [False, True])
def test_missing_scores_are_refused(where: tuple[int, int], tune: bool) -> None:
    """A positive, a negative, and one of a code that every document has."""
    y = csr_matrix(np.array([[1, 1, 0, 0, 1], [1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [1, 0, 1, 0, 0]]))
    s = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    s[where] = np.nan
    with pytest.raises(WardroundError, match=rf"document {where[0]} \(row\) for code {where[1]} "):
        tune_threshold(y, s) if tune else evaluate_multilabel(y, s, 0.5)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(WardroundError, match="4 documents x 5 codes and scores 4 x 4"):
        evaluate_multilabel(TARGETS, SCORES[:, :4], 0.5)
    with pytest.raises(WardroundError, match=r"document 0 .* is 2; targets are 0 or 1"):
        evaluate_multilabel(TARGETS * 2, SCORES, 0.5)
    with pytest.raises(WardroundError, match="no document of the split has a code"):
        evaluate_multilabel(TARGETS, SCORES, 0.5, codes=np.array([4]))
    with pytest.raises(WardroundError, match="no document of the tuning split has a code"):
        tune_threshold(csr_matrix((3, 5)), SCORES[:3])
    with pytest.raises(WardroundError, match="mask of codes has 3 entries, not 5"):
        evaluate_multilabel(TARGETS, SCORES, 0.5, codes=np.ones(3, bool))
    with pytest.raises(WardroundError, match="columns from 0 to 4"):
        evaluate_multilabel(TARGETS, SCORES, 0.5, codes=np.array([5]))


# Thresholds


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([1, 3, 10, 1000]),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_the_exact_threshold_is_the_best_of_all(seed: int, levels: int, kind: type) -> None:
    y, s = random_case(seed, 12, 9, levels)
    s = s.astype(kind)
    found = tune_threshold(y, s)
    true = y.toarray()

    def f1_micro(threshold: float) -> float:
        predicted = s > threshold
        return 2 * (true & predicted).sum() / (true.sum() + predicted.sum())

    best = max(f1_micro(t) for t in [-1.0, *np.unique(s)])
    assert found.f1_micro == pytest.approx(best)
    assert f1_micro(found.value) == pytest.approx(best)


def test_the_published_grid_by_hand() -> None:
    """Strictly above, and the first of equals."""
    y = csr_matrix(np.array([[1, 0, 0], [1, 1, 0]]))
    s = np.array([[0.75, 0.5, 0.1], [1.0, 0.75, 0.5]], np.float32)
    found = tune_threshold(y, s, grid=5)  # 0, .25, .5, .75, 1: .5 keeps the three true ones
    assert (found.value, found.f1_micro) == (0.5, 1.0)
    assert tune_threshold(y, logit(np.clip(s, 0.01, 0.99)), grid=5, logits=True).value == 0
    exact = tune_threshold(y, s)
    assert exact.value == 0.625 and exact.f1_micro == 1
    with pytest.raises(WardroundError, match="say logits=True"):
        tune_threshold(y, 3 * s, grid=100)


def test_a_grid_agrees_with_a_loop() -> None:
    y, s = random_case(8, 30, 20, 1000)
    grid = np.linspace(0, 1, 100).astype(np.float32)
    f1 = [f1_score(y.toarray().ravel(), s.ravel() > t) for t in grid]
    found = tune_threshold(y, s, grid=100)
    assert found.f1_micro == pytest.approx(max(f1)) and found.value == grid[np.argmax(f1)]
    assert tune_threshold(y, s).f1_micro >= found.f1_micro


def calibrated(seed: int, n: int, m: int) -> tuple[csr_matrix, np.ndarray]:
    """Targets drawn from the logits."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-2.5, 2, (n, m)).astype(np.float32)
    return csr_matrix(rng.random((n, m)) < expit(z)), z


def test_a_shy_model_gets_a_lower_threshold() -> None:
    y, z = calibrated(0, 400, 50)
    tuning, test = slice(0, 200), slice(200, 400)
    shifted = expit(z - 1)
    for grid in (None, 100):
        found = tune_threshold(y[tuning], shifted[tuning], grid=grid)
        assert found.value < 0.5
        tuned = evaluate_multilabel(y[test], shifted[test], found.value).metrics["f1_micro"]
        assert tuned > evaluate_multilabel(y[test], shifted[test], 0.5).metrics["f1_micro"] + 0.02
    by_logit = tune_threshold(y[tuning], (z - 1)[tuning])
    assert expit(by_logit.value) == pytest.approx(
        tune_threshold(y[tuning], shifted[tuning]).value, abs=1e-3
    )


def test_codes_that_tuning_lacks_count_as_false_alarms_unless_filtered() -> None:
    y = csr_matrix(np.array([[1, 0], [1, 0], [0, 0]]))
    s = np.array([[0.9, 0.8], [0.3, 0.8], [0.1, 0.8]], np.float32)
    assert tune_threshold(y, s).value > 0.8  # one true alarm; 2 / 3
    assert tune_threshold(y, s, filter_codes=True).value < 0.3


# Tables


def test_tables_by_code_and_group_of_codes() -> None:
    found = evaluate_multilabel(TARGETS, SCORES, 0.5)
    table = code_table(found, ["A", "B", "C", "D", "E"])
    assert table["code"].to_list() == ["C", "A", "B", "D"]
    assert table.row(0, named=True) | {"auc": 1} == {
        "code": "C",
        "support": 2,
        "predicted": 1,
        "true_positives": 1,
        "false_positives": 0,
        "false_negatives": 1,
        "precision": 1,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "auc": 1,
        "average_precision": 1,
    }
    groups = code_group_table(found, ["I", "I", "II", "II", "III"])
    assert groups["group"].to_list() == ["I", "II"]
    assert groups["codes"].to_list() == [2, 2] and groups["support"].to_list() == [2, 3]
    assert groups["f1_micro"].to_list() == pytest.approx([2 * 2 / 6, 2 * 1 / 4])
    assert groups["f1_macro"].to_list() == pytest.approx([2 / 3, 1 / 3])
    assert code_group_table(found, [None, "x", None, None, None])["codes"].to_list() == [1]
    with pytest.raises(WardroundError, match="2 groups for 5 codes"):
        code_group_table(found, ["I", "II"])


def test_a_group_of_documents_is_as_good_as_a_split_of_its_own() -> None:
    y, s = random_case(11, 80, 15, 30)
    found = evaluate_multilabel(y, s, 0.4)
    groups = pl.Series(np.where(np.arange(80) % 4 == 0, "few", "many"))
    table = document_group_table(found, groups)
    assert table["group"].to_list() == ["few", "many"]
    for row in table.iter_rows(named=True):
        here = (groups == row["group"]).to_numpy()
        own = evaluate_multilabel(y[here], s[here], 0.4, codes=found.codes)
        assert row["documents"] == len(own.documents)
        for name in ("recall_micro", "f1_macro", "exact_match_ratio"):
            assert row[name] == pytest.approx(own.metrics[name])
    dense = found.per_document.filter(groups.gather(found.documents) == "few")
    assert table["map"][0] == pytest.approx(dense["average_precision"].mean())
    tp, predicted, support = (dense[k].sum() for k in ("true_positives", "predicted", "support"))
    assert table["f1_micro"][0] == pytest.approx(2 * tp / (predicted + support))


def test_bands() -> None:
    bands = frequency_bands(np.array([0, 1, 10, 11, 50, 51, 100, 101, 500, 501]))
    assert bands.to_list() == ["0"] + [
        band for band in ("1-10", "11-50", "51-100", "101-500") for _ in "ab"
    ] + [">500"]
    assert pl.DataFrame([bands]).sort("frequency")["frequency"].to_list() == bands.to_list()
    words = np.array([9, 1, 2, 3, 4, 4, 4, 100])
    assert quantile_bands(words, 2).to_list() == ["9-100", *(["1-4"] * 6), "9-100"]
    assert quantile_bands(np.array([5, 5, 5]), 4).to_list() == ["5"] * 3


def test_the_frequency_prior_ranks_codes_by_training_documents() -> None:
    prior = frequency_prior(TARGETS[:3], 2)
    assert prior.shape == (2, 5) and prior.dtype == np.float32 and prior.strides[0] == 0
    assert prior[1] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1 / 3, 0])
    found = evaluate_multilabel(TARGETS[:2], prior, 0.5)
    # C is certain, then A, B and D alike: document 1 has C and A, document 2 has B.
    assert found.per_document["r_precision"].to_list() == [1, 0]


# Intervals and comparisons


def test_resamples_agree_with_repeated_documents() -> None:
    y, s = random_case(21, 60, 12, 40)
    y = csr_matrix(np.vstack([y.toarray()[:59], np.zeros((1, 12), bool)]))
    subjects = np.random.default_rng(0).integers(0, 25, 60)
    resamples = Resamples(subjects, 8, 0)
    found = evaluate_multilabel(y, s, 0.4)
    draws = resample_metrics(found, resamples)
    for number in range(8):
        rows = np.repeat(np.arange(60), resamples.counts[number][resamples.rows])
        again = evaluate_multilabel(y[rows], s[rows], 0.4, codes=found.codes)
        assert len(again.documents) < len(rows)
        same = ["f1_macro", "recall_macro", "precision_macro", "recall_micro", "exact_match_ratio"]
        for name in same:
            assert draws[name][number] == pytest.approx(again.metrics[name]), name
        if len(again.codes) == len(found.codes):
            for name in set(draws) - set(same):
                assert draws[name][number] == pytest.approx(again.metrics[name]), name
    full = [
        len(evaluate_multilabel(y[r], s[r], 0.4).codes) == len(found.codes)
        for r in [np.repeat(np.arange(60), c[resamples.rows]) for c in resamples.counts]
    ]
    assert any(full)


def test_intervals_cover_the_truth() -> None:
    """Forty splits drawn from one hospital; subjects have several documents that resemble."""
    y, z = calibrated(7, 3000, 12)
    truth = evaluate_multilabel(y, z, -0.5).metrics
    inside = {name: 0 for name in ("f1_micro", "f1_macro", "map", "precision_at_5")}
    rng = np.random.default_rng(1)
    for trial in range(40):
        rows = rng.integers(0, 3000, 60).repeat(3)  # three equal documents a subject
        found = evaluate_multilabel(y[rows], z[rows], -0.5, areas=False)
        draws = resample_metrics(found, Resamples(np.arange(60).repeat(3), 200, trial))
        for name, value in multilabel_estimates(found, draws).items():
            if name in inside:
                assert value.low <= value.value <= value.high
                inside[name] += value.low <= truth[name] <= value.high
    assert min(inside.values()) >= 33  # 38 expected; of documents as subjects some 28


def two_models(seed: int = 2):
    y, z = calibrated(seed, 300, 20)
    rng = np.random.default_rng(seed)
    worse = np.where(rng.random(z.shape) < 0.5, z, rng.permutation(z))
    return y, *(evaluate_multilabel(y, scores, -0.5) for scores in (z, worse))


def test_mcnemar_counts_decisions_that_one_model_alone_gets_right() -> None:
    _, good, bad = two_models()
    found = mcnemar(good, bad)
    Y, A, B = (e.toarray() for e in (good.targets, good.predictions, bad.predictions))
    b, c = int(((A == Y) & (B != Y)).sum()), int(((A != Y) & (B == Y)).sum())
    assert (found.first_only, found.second_only) == (b, c)
    assert found.statistic == pytest.approx((abs(b - c) - 1) ** 2 / (b + c))
    assert found.p_value < 0.01 and mcnemar(bad, good).p_value == found.p_value
    assert mcnemar(good, good).p_value == 1
    mask = np.arange(20) < 3
    some = mcnemar(good, bad, codes=mask)
    here = mask[good.codes]
    assert some.first_only == int(((A == Y) & (B != Y))[:, here].sum())


def test_few_disagreements_are_tested_exactly() -> None:
    y = csr_matrix(np.ones((6, 1), bool))
    right, wrong = np.ones((6, 1), np.float32), np.zeros((6, 1), np.float32)
    found = mcnemar(evaluate_multilabel(y, right, 0.5), evaluate_multilabel(y, wrong, 0.5))
    assert (found.first_only, found.second_only) == (6, 0)
    assert found.p_value == pytest.approx(2 * 0.5**6)


def test_paired_differences() -> None:
    y, good, bad = two_models()
    resamples = Resamples(np.arange(300) // 2, 200, 0)
    draws = [resample_metrics(e, resamples) for e in (good, bad)]
    found = compare_multilabel(good, bad, *draws, names=("good", "bad"))
    assert [c.metric for c in found] == ["f1_micro", "f1_macro", "map"]
    for comparison in found:
        assert comparison.difference.low > 0 and comparison.p_value < 0.05
        expected = good.metrics[comparison.metric] - bad.metrics[comparison.metric]
        assert comparison.difference.value == pytest.approx(expected)
    other = evaluate_multilabel(y[:200], np.zeros((200, 20), np.float32), 0.5)
    with pytest.raises(WardroundError, match="same documents, codes and targets"):
        compare_multilabel(good, other, *draws, names=("good", "other"))
    with pytest.raises(WardroundError, match="300 documents were evaluated and 200 rows"):
        resample_metrics(good, Resamples(np.arange(200), 5))
