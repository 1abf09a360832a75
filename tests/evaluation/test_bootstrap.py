"""The bootstrap of subjects: beside a loop that repeats rows, and on data whose truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from wardround.evaluation import (
    Estimate,
    Resamples,
    auroc,
    calibration,
    estimate,
    evaluate_binary,
    operating_point,
    paired_comparison,
    shuffle_labels,
)

Data = tuple[np.ndarray, np.ndarray, np.ndarray]


def clustered(rng: np.random.Generator, subjects: int, visits: int, between: float = 1.5) -> Data:
    """Subjects, outcomes and probabilities; its rows share their risk."""
    who = np.repeat(np.arange(subjects), visits)
    n = len(who)
    share = rng.normal(0, np.sqrt(between), subjects)[who]
    own = rng.normal(0, np.sqrt(between), subjects)[who]  # of the outcome, and no model sees it
    p = expit(-1 + share + rng.normal(0, 0.3, n))
    y = rng.random(n) < expit(-1 + share + own)
    return who, y, p


def rows_of(resamples: Resamples, number: int) -> np.ndarray:
    """Row numbers of a resample, each as often as its subject was drawn."""
    return np.repeat(np.arange(len(resamples.rows)), resamples.counts[number][resamples.rows])


@pytest.fixture(scope="module")
def uneven() -> Data:
    """60 subjects of 1 to 9 rows in random order, with tied scores."""
    rng = np.random.default_rng(7)
    who = np.repeat(1_000 - 7 * np.arange(60), rng.integers(1, 10, 60))
    who = rng.permutation(who)
    share = rng.normal(0, 1, 1_001)[who]
    p = np.round(expit(share + rng.normal(0, 1, len(who))), 2)
    return who, rng.random(len(who)) < expit(share), p


def test_a_resample_draws_as_many_subjects_as_there_are(uneven: Data) -> None:
    who, _, _ = uneven
    resamples = Resamples(who, 400, seed=2)
    assert len(resamples) == 400 and resamples.counts.shape == (400, 60)
    assert (resamples.counts.sum(axis=1) == 60).all()
    assert (np.unique(who)[resamples.rows] == who).all()
    # With replacement: 1/e of the subjects are left out of a resample, and none of them always.
    assert abs((resamples.counts == 0).mean() - np.exp(-1)) < 0.02
    assert (abs(resamples.counts.mean(axis=0) - 1) < 0.25).all()


def test_resamples_equal_a_loop_over_repeated_rows(uneven: Data) -> None:
    who, y, p = uneven
    resamples = Resamples(who, 60, seed=1)
    areas, precisions = resamples.areas(y, p)
    expected: dict[str, list[float]] = {}
    for number in range(60):
        rows = rows_of(resamples, number)
        again, risk = y[rows], p[rows]
        assert areas[number] == pytest.approx(roc_auc_score(again, risk), abs=1e-12)
        assert precisions[number] == pytest.approx(average_precision_score(again, risk), abs=1e-12)
        tn, fp, fn, tp = confusion_matrix(again, risk >= 0.4).ravel()
        found = calibration(again, risk)
        for name, value in {
            "auroc": areas[number],
            "auprc": precisions[number],
            "brier": brier_score_loss(again, risk),
            "calibration_intercept": found.intercept,
            "calibration_slope": found.slope,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "alert_rate": (tp + fp) / len(rows),
        }.items():
            expected.setdefault(name, []).append(value)
    result = evaluate_binary("m", "M", y, p, resamples, thresholds={"fixed": 0.4})
    point = result.operating_points[0]
    for name, draws in expected.items():
        found = result.metrics[name] if name in result.metrics else getattr(point, name)
        low, high = np.percentile(draws, [2.5, 97.5])
        # Resamples are calibrated on groups of near-equal log-odds, which is not quite the same.
        near = 2e-3 if name.startswith("calibration") else 1e-9
        assert (found.low, found.high) == pytest.approx((low, high), abs=near), name
        assert low <= found.value <= high, name


def test_ece_has_a_value_and_no_interval(uneven: Data) -> None:
    """Percentiles of a sum of absolute gaps lie above the value itself."""
    who, y, p = uneven
    found = evaluate_binary("m", "M", y, p, Resamples(who, 60)).metrics["ece"]
    assert found.value is not None and found.low is None and found.high is None


def test_asking_twice_gives_the_same_and_another_model_another(uneven: Data) -> None:
    who, y, p = uneven
    resamples = Resamples(who, 30)
    first, again = resamples.areas(y, p)[0], resamples.areas(y, p.copy())[0]
    assert (first == again).all()
    assert not (resamples.areas(y, p[::-1])[0] == first).all()
    assert not (resamples.areas(~y, p)[0] == first).all()


def test_calibration_on_groups_of_log_odds_moves_no_second_decimal() -> None:
    rng = np.random.default_rng(3)
    who, y, p = clustered(rng, 700, 3)
    resamples = Resamples(who, 40, seed=0)
    loop = [calibration(y[rows], p[rows]) for rows in (rows_of(resamples, i) for i in range(40))]
    found = evaluate_binary("m", "M", y, p, resamples, curves=False).metrics
    for name, draws in {
        "calibration_intercept": [c.intercept for c in loop],
        "calibration_slope": [c.slope for c in loop],
    }.items():
        ends = np.percentile(draws, [2.5, 97.5])
        assert (found[name].low, found[name].high) == pytest.approx(ends, abs=4e-3), name


def test_sums_weigh_rows_by_their_subject(uneven: Data) -> None:
    who, _, _ = uneven
    values = np.random.default_rng(0).normal(size=(len(who), 3))
    resamples = Resamples(who, 5)
    expected = [values[rows_of(resamples, i)].sum(axis=0) for i in range(5)]
    np.testing.assert_allclose(resamples.sums(values), expected)
    np.testing.assert_allclose(resamples.sums(csr_matrix(values)), expected)


def test_blocks_of_resamples_do_not_show(uneven: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    who, y, p = uneven
    resamples = Resamples(who, 25)
    whole = resamples.areas(y, p)
    monkeypatch.setattr("wardround.evaluation.bootstrap.BLOCK", 3 * len(y))
    np.testing.assert_array_equal(resamples.areas(y, p), whole)


def test_same_seed_same_numbers(uneven: Data) -> None:
    who, y, p = uneven
    first, again, other = (
        evaluate_binary("m", "M", y, p, Resamples(who, 100, seed=s)) for s in (5, 5, 6)
    )
    assert first == again
    assert first.metrics["auroc"].value == other.metrics["auroc"].value
    assert first.metrics["auroc"].low != other.metrics["auroc"].low


def test_intervals_cover_the_truth_where_rows_of_a_subject_correlate() -> None:
    """About 95 of 100 intervals of subjects hold the true value; far fewer of rows do."""
    rng = np.random.default_rng(12)
    _, y, p = clustered(rng, 300_000, 1)
    truth = {"auroc": auroc(y, p), "alert_rate": float((p >= 0.3).mean())}
    held = {"subject": dict.fromkeys(truth, 0), "row": dict.fromkeys(truth, 0)}
    width = {"subject": dict.fromkeys(truth, 0.0), "row": dict.fromkeys(truth, 0.0)}
    worlds = 300
    for world in range(worlds):
        who, y, p = clustered(rng, 150, 6)
        for by, ids in (("subject", who), ("row", np.arange(len(who)))):
            resamples = Resamples(ids, 300, seed=world)
            point = operating_point(y, p, resamples, rule="fixed", threshold=0.3)
            found = {
                "auroc": estimate(auroc(y, p), resamples.areas(y, p)[0]),
                "alert_rate": point.alert_rate,
            }
            for name, interval in found.items():
                held[by][name] += interval.low <= truth[name] <= interval.high
                width[by][name] += interval.high - interval.low
    for name in truth:
        assert 0.915 <= held["subject"][name] / worlds <= 0.98, (name, held)
        assert held["row"][name] / worlds < 0.85, (name, held)
        assert width["subject"][name] > 1.35 * width["row"][name], (name, width)


def test_subjects_of_one_row_are_rows() -> None:
    rng = np.random.default_rng(0)
    _, y, p = clustered(rng, 500, 1)
    by_subject = Resamples(rng.permutation(500), 300, seed=0).areas(y, p)[0]
    by_row = Resamples(np.arange(500), 300, seed=1).areas(y, p)[0]
    assert by_subject.std() == pytest.approx(by_row.std(), rel=0.15)


def test_a_restriction_keeps_the_draws(uneven: Data) -> None:
    who, y, p = uneven
    mask = np.random.default_rng(0).random(len(y)) < 0.5
    resamples = Resamples(who, 30)
    part = resamples.restricted_to(mask)
    areas, precisions = part.areas(y[mask], p[mask])
    for number in range(30):
        rows = rows_of(resamples, number)
        rows = rows[mask[rows]]
        assert areas[number] == pytest.approx(roc_auc_score(y[rows], p[rows]), abs=1e-12)
        expected = average_precision_score(y[rows], p[rows])
        assert precisions[number] == pytest.approx(expected, abs=1e-12)


def test_subgroups_are_measured_on_their_own_rows(uneven: Data) -> None:
    who, y, p = uneven
    rng = np.random.default_rng(1)
    sex = pl.Series(rng.choice(["F", "M"], len(y)))
    few = pl.Series([None] * (len(y) - 9) + ["rare"] * 9)
    y = y.copy()
    y[(sex == "F").to_numpy()] &= rng.random((sex == "F").sum()) < 0.7
    resamples = Resamples(who, 40)
    groups = pl.DataFrame({"sex": sex, "ward": few})
    rows = evaluate_binary("m", "M", y, p, resamples, subgroups=groups).subgroups
    assert [(r.attribute, r.group) for r in rows] == [("sex", "F"), ("sex", "M"), ("ward", "rare")]
    for row in rows[:2]:
        mask = (sex == row.group).to_numpy()
        assert (row.rows, row.positives) == (mask.sum(), y[mask].sum())
        assert row.metrics["auroc"].value == pytest.approx(roc_auc_score(y[mask], p[mask]))
        draws = resamples.restricted_to(mask).areas(y[mask], p[mask])[0]
        assert row.metrics["auroc"].low == pytest.approx(np.percentile(draws, 2.5))
    assert rows[2].rows == 9 and rows[2].metrics["auroc"] == Estimate(value=None)


def test_a_group_of_one_class_is_undefined_not_an_error(uneven: Data) -> None:
    who, y, p = uneven
    groups = pl.DataFrame({"sick": np.where(y, "yes", "no")})
    found = evaluate_binary("m", "M", y, p, Resamples(who, 30), subgroups=groups).subgroups
    assert [row.metrics["auroc"].value for row in found] == [None, None]


@pytest.mark.parametrize("metric", ["auroc", "auprc"])
def test_identical_models_do_not_differ(uneven: Data, metric: str) -> None:
    who, y, p = uneven
    found = paired_comparison(
        y, p, p.copy(), Resamples(who, 100), first="a", second="b", metric=metric
    )
    assert found.difference == Estimate(value=0, low=0, high=0)
    assert found.p_value == 1


@pytest.mark.parametrize("metric", ["auroc", "auprc"])
def test_a_better_model_is_found_to_be_better(metric: str) -> None:
    rng = np.random.default_rng(2)
    who, y, p = clustered(rng, 400, 3)
    worse = expit(0.3 * np.log(p / (1 - p)) + rng.normal(0, 1, len(p)))
    resamples = Resamples(who, 400)
    found = paired_comparison(y, p, worse, resamples, first="a", second="b", metric=metric)
    assert found.p_value == pytest.approx(2 / 401) and found.difference.low > 0
    turned = paired_comparison(y, worse, p, resamples, first="b", second="a", metric=metric)
    assert turned.difference.value == pytest.approx(-found.difference.value)
    assert turned.difference.high == pytest.approx(-found.difference.low)
    assert turned.p_value == found.p_value


def test_p_values_of_equal_models_are_rarely_small() -> None:
    """Two noisy readings of one risk: a p below 0.05 in about 5 of 100 worlds."""
    rng = np.random.default_rng(9)
    small = 0
    for world in range(200):
        who, y, p = clustered(rng, 100, 3)
        x = np.log(p / (1 - p))
        first, second = (expit(x + rng.normal(0, 1, len(x))) for _ in range(2))
        resamples = Resamples(who, 150, seed=world)
        found = paired_comparison(y, first, second, resamples, first="a", second="b")
        small += found.p_value < 0.05
    assert 2 <= small <= 20


def test_pairing_is_tighter_than_two_intervals() -> None:
    rng = np.random.default_rng(2)
    who, y, p = clustered(rng, 300, 3)
    near = np.clip(p + rng.normal(0, 0.01, len(p)), 0, 1)
    resamples = Resamples(who, 200)
    paired = paired_comparison(y, p, near, resamples, first="a", second="b").difference
    alone = evaluate_binary("a", "A", y, p, resamples, curves=False).metrics["auroc"]
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)


def test_shuffling_keeps_prevalence_and_destroys_signal() -> None:
    rng = np.random.default_rng(0)
    _, y, p = clustered(rng, 4_000, 3)
    before = y.copy()
    shuffled = shuffle_labels(y, np.random.default_rng(1))
    assert (y == before).all(), "the caller's labels stay"
    assert shuffled.sum() == y.sum() and shuffled.dtype == y.dtype
    assert auroc(y, p) > 0.7 and abs(auroc(shuffled, p) - 0.5) < 0.02


def test_without_repeats_there_are_values_and_no_intervals(uneven: Data) -> None:
    who, y, p = uneven
    none = Resamples(who, 0)
    found = evaluate_binary("m", "M", y, p, none, thresholds={"fixed": 0.5})
    point = found.operating_points[0]
    for interval in (*found.metrics.values(), point.sensitivity, point.alert_rate):
        assert interval.value is not None and interval.low is None and interval.high is None
    assert paired_comparison(y, p, p, none, first="a", second="b").p_value is None


def test_an_outcome_too_rare_to_resample_has_no_interval() -> None:
    y = np.zeros(200, bool)
    draws = np.append(np.full(60, 0.7), np.full(140, np.nan))
    assert estimate(0.7, draws) == Estimate(value=0.7)
    draws[:110] = 0.7
    assert estimate(0.7, draws) == Estimate(value=0.7, low=0.7, high=0.7)
    assert estimate(np.nan, draws) == Estimate(value=None)
    found = evaluate_binary("m", "M", y, np.full(200, 0.1), Resamples(np.arange(200), 50))
    assert found.metrics["auroc"] == Estimate(value=None) and found.curves is None
    assert found.metrics["calibration_slope"] == Estimate(value=None)
    assert found.metrics["brier"].value == pytest.approx(0.01)
