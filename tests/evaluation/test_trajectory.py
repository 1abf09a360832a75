"""Risk curves as text and back, and what they say of themselves."""

from __future__ import annotations

from datetime import datetime

import pytest

from wardround.evaluation import Estimate, Mover, RiskCurve, RiskCurves, RiskPoint, StayEvent

START = datetime(2180, 3, 2, 14, 5)


def mover(change: float | None, ablation: float | None) -> Mover:
    return Mover(
        task="death",
        time=START,
        kind="lab",
        label="Creatinine",
        tokens=["LAB//50912//mg/dL", "Q9"],
        change=Estimate(value=change),
        ablation=None if ablation is None else Estimate(value=ablation),
    )


@pytest.fixture
def curves() -> RiskCurves:
    point = RiskPoint(
        time=START, risk=Estimate(value=0.1, low=0.05, high=0.2), standard_error=0.03, futures=100
    )
    return RiskCurves(
        subject_id=1,
        start=START,
        curves=[
            RiskCurve(task="death", title="Death", points=[point]),
            RiskCurve(task="icu", title="ICU", points=[], settled=START, note="α"),
        ],
        movers=[mover(0.2, 0.1)],
        events=[StayEvent(time=START, kind="lab", label="Creatinine")],
        data={"access": "open"},
    )


def test_text_and_back(curves):
    text = curves.to_json()
    again = RiskCurves.from_json(text)
    assert again == curves
    assert again.to_json() == text
    with pytest.raises(ValueError, match="extra"):
        RiskCurves.from_json(text.replace('"subject_id"', '"extra": 1, "subject_id"', 1))
    with pytest.raises(ValueError, match="kind"):
        RiskCurves.from_json(text.replace('"kind": "lab"', '"kind": "surprise"'))


def test_a_task_is_found_by_its_name(curves):
    assert curves.curve("icu").note == "α"
    assert [m.label for m in curves.movers_of("death")] == ["Creatinine"]
    assert curves.movers_of("icu") == []
    with pytest.raises(KeyError):
        curves.curve("readmission")


@pytest.mark.parametrize(
    ("change", "ablation", "agrees"),
    [
        (0.2, 0.1, True),
        (-0.2, -0.1, True),
        (0.2, -0.1, False),
        (0.2, None, None),
        (0.2, 0.0, None),
        (None, 0.1, None),
    ],
)
def test_an_ablation_agrees_by_its_sign(change, ablation, agrees):
    assert mover(change, ablation).agrees is agrees
