"""The results contract as text and back."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from wardround.evaluation import (
    Estimate,
    FlowStep,
    Importance,
    Reported,
    Resamples,
    Results,
    SplitCount,
    StageTiming,
    TaskResult,
    choose_thresholds,
    evaluate_binary,
    paired_comparison,
)


@pytest.fixture(scope="module")
def results() -> Results:
    """Everything filled, from a real evaluation with undefined numbers in it."""
    rng = np.random.default_rng(0)
    y, p, other = rng.random(300) < 0.3, rng.random(300), rng.random(300)
    resamples = Resamples(np.arange(300) // 3, 40)
    model = evaluate_binary(
        "gb",
        "Gradient boosting",
        y,
        p,
        resamples,
        thresholds=choose_thresholds(y, p),
        subgroups=pl.DataFrame({"who": ["few"] * 5 + ["many"] * 290 + [None] * 5}),
        importance=[Importance(feature="age", value=0.2)],
        importance_kind="permutation",
        note="α ≥ β",
    )
    nobody = evaluate_binary("none", "Nobody", np.zeros(300, bool), p, resamples)
    task = TaskResult(
        name="t",
        title="T",
        description="d",
        flow=[FlowStep(step="all", rows=300, subjects=100)],
        splits=[SplitCount(split="held_out", subjects=100, rows=300, positives=int(y.sum()))],
        models=[model],
        controls=[nobody],
        comparisons=[paired_comparison(y, p, other, resamples, first="gb", second="x")],
        notes=["n"],
    )
    return Results(
        tasks=[task],
        reported=[Reported(task="t", model="gb", metric="auroc", value=0.8, source="table 2")],
        data={"rows": 300, "files": {"a": [1, 2]}},
        config={"seed": 0, "models": ["gb"], "limit": None},
        environment={"python": "3"},
        stages=[StageTiming(name="fit", seconds=1.5, peak_mb=10.25, skipped=False)],
    )


def test_text_and_back_is_the_same(results: Results) -> None:
    text = results.to_json()
    again = Results.from_json(text)
    assert again == results and again.to_json() == text
    assert "NaN" not in text and "Infinity" not in text


def test_undefined_numbers_are_null(results: Results) -> None:
    task = json.loads(results.to_json())["tasks"][0]
    empty = {"value": None, "low": None, "high": None}
    assert task["controls"][0]["metrics"]["auroc"] == empty
    assert task["controls"][0]["curves"] is None
    assert task["models"][0]["subgroups"][0]["metrics"]["auprc"] == empty


def test_foreign_text_is_refused(results: Results) -> None:
    extended = json.loads(results.to_json()) | {"colour": "red"}
    for text in ("", "[]", "{}", json.dumps(extended)):
        with pytest.raises(ValueError):
            Results.from_json(text)


def test_results_cannot_be_changed() -> None:
    number = Estimate(value=0.5)
    with pytest.raises(ValueError, match="frozen"):
        number.value = 0.9  # type: ignore[misc]
