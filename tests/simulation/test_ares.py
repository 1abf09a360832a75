"""Risk over time on a model whose risks are known in closed form.

The toy decoder's next token depends on whether the marker, `LAB//2`, was seen: each step ends the
stay by death or discharge, admits to the ICU, lets a day pass or records a lab. So the risk of
death is P(death) / (P(death) + P(discharge)), and that of staying n more days
(P(day) / (P(day) + P(death) + P(discharge)))^n.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.evaluation import RiskCurves
from wardround.models.decoder import DecoderConfig
from wardround.simulation import Clock
from wardround.simulation.ares import _Risk, difference, remaining, risk_curves
from wardround.simulation.predictions import along
from wardround.simulation.risk import Reading, ratio
from wardround.simulation.tasks import DAY, load_timeline_task
from wardround.views.timeline import ALWAYS, NEVER, Context, Timelines, Vocabulary

NAMES = (
    *("TIMELINE_END", "GENDER//F", "HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY"),
    *("HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME", "MEDS_DEATH", "ICU_ADMISSION"),
    *("LAB//1//mg/dL", "LAB//2//mg/dL", "Q1", "Q10", "=1d-2d", "INSURANCE//MEDICARE"),
)
VOCABULARY = Vocabulary(NAMES)
MARKER = VOCABULARY.id("LAB//2//mg/dL")
CALM = {"MEDS_DEATH": 0.02, "HOSPITAL_DISCHARGE": 0.18, "ICU_ADMISSION": 0.05, "=1d-2d": 0.3}
MARKED = {"MEDS_DEATH": 0.3, "HOSPITAL_DISCHARGE": 0.05, "ICU_ADMISSION": 0.05, "=1d-2d": 0.3}
START = datetime(2180, 3, 2, 14, 5)
LAB, MARK = ["LAB//1//mg/dL", "Q1"], ["LAB//2//mg/dL", "Q10"]
SUBJECT, OTHER = 7, 9


class Toy(nn.Module):
    """A decoder that knows how often each token was seen, through attention alone.

    Scores of 0 give each seen token the same weight: the mean of their one-hot codes, times their
    number (the position), is their counts.
    """

    def __init__(self) -> None:
        super().__init__()
        n = len(NAMES)
        self.sizes = DecoderConfig(
            n, context=256, layers=1, heads=1, width=n, hidden=1, dropout=0, positions="learned"
        )
        self.embedding = nn.Embedding.from_pretrained(torch.eye(n))
        self.position = nn.Embedding(256, n)
        self.calm, self.marked = _logits(CALM), _logits(MARKED)

    def hidden(self, tokens: Tensor, *, positions: Any = None, attend: Any = None) -> Tensor:
        if positions is None:
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        seen = self.embedding(tokens)[:, None]
        mean = attend(0, torch.zeros_like(seen), torch.zeros_like(seen), seen)[:, 0]
        return mean * (positions[..., None] + 1)

    def score(self, hidden: Tensor) -> Tensor:
        marked = hidden[..., MARKER, None] > 0.5
        return torch.where(marked, self.marked, self.calm)


def _logits(chances: dict[str, float]) -> Tensor:
    chance = torch.zeros(len(NAMES))
    for name, value in chances.items():
        chance[VOCABULARY.id(name)] = value
    chance[VOCABULARY.id("LAB//1//mg/dL")] = 1 - chance.sum()
    return chance.log().clamp(min=-1e4)


def death(chances: dict[str, float]) -> float:
    return chances["MEDS_DEATH"] / (chances["MEDS_DEATH"] + chances["HOSPITAL_DISCHARGE"])


def staying(chances: dict[str, float], days: int) -> float:
    ends = chances["MEDS_DEATH"] + chances["HOSPITAL_DISCHARGE"]
    return (chances["=1d-2d"] / (chances["=1d-2d"] + ends)) ** days


Group = tuple[float, list[list[str]]]  # days since the start, units

STAY: list[Group] = [
    (-100, [LAB]),
    (0, [["HOSPITAL_ADMISSION", "ADMISSION_TYPE//EMERGENCY"], ["INSURANCE//MEDICARE"]]),
    (1.5, [LAB, LAB]),
    (3.5, [LAB, MARK, LAB]),
    (5.5, [LAB]),
    (7.5, [["ICU_ADMISSION"]]),
    (12.5, [LAB, LAB]),
    (16.5, [LAB]),
    (17.5, [["HOSPITAL_DISCHARGE", "DISCHARGE_LOCATION//HOME"], LAB]),
    (400, [LAB]),
]
MARK_TIME = START + timedelta(days=3.5)
ICU_TIME = START + timedelta(days=7.5)
END = START + timedelta(days=17.5)


def micros(days: float) -> int:
    time = START + timedelta(days=days)
    return int(np.datetime64(time, "us").astype(np.int64))


def timelines_of(stay: list[Group], *, end: bool = True) -> Timelines:
    """The stay of subject 7, after another subject's record that is all markers."""
    rows: list[tuple[str, int, int]] = [(name, micros(0), -5) for name in MARK * 3]
    other = len(rows)
    event = 0
    for number, (days, units) in enumerate(stay):
        if number:
            rows.append(("=1d-2d", micros(days), -1))
        for unit in units:
            rows += [(name, micros(days), event) for name in unit]
            event += 1
    if end:
        rows.append(("TIMELINE_END", NEVER, -1))
    names, times, events = zip(*rows, strict=True)
    context = Context(
        rows=np.full((2, 1), VOCABULARY.id("GENDER//F")),
        times=np.full(2, ALWAYS),
        offsets=np.arange(3),
        births=np.full(2, ALWAYS),
        ages=np.empty((2, 0), np.int64),
    )
    return Timelines(
        VOCABULARY,
        np.array([VOCABULARY.id(name) for name in names], np.uint16),
        np.array(times),
        np.array(events),
        np.array([0, other, len(rows)]),
        np.array([3, SUBJECT]),
        context,
    )


TASKS = [load_timeline_task(n) for n in ("hospital-mortality", "icu-admission", "prolonged-stay")]
CLOCK = Clock(np.where(np.array(NAMES) == "=1d-2d", DAY, 0.0))


def curves_of(timelines: Timelines | None = None, **how: Any) -> RiskCurves:
    how = {"futures": 40, "device": "cpu", "stay": (START, END), "tasks": TASKS} | how
    return risk_curves(
        Toy(), timelines_of(STAY) if timelines is None else timelines, SUBJECT, clock=CLOCK, **how
    )


@pytest.fixture(scope="module")
def curves() -> RiskCurves:
    return curves_of(descriptions={"LAB//RESULT//2//mg/dL": "Lactate"})


def risks(curves: RiskCurves, task: str) -> dict[float, float | None]:
    """Risk by days since the start."""
    return {
        (point.time - START).total_seconds() / DAY: point.risk.value
        for point in curves.curve(task).points
    }


@pytest.mark.parametrize("estimator", ["survival", "count"])
def test_a_curve_jumps_at_the_marker_and_nowhere_else(estimator):
    curves = curves_of(estimator=estimator, futures=400)
    found = risks(curves, "hospital-mortality")
    assert list(found) == [0, 1.5, 3.5, 5.5, 7.5, 12.5, 16.5]
    spread = 0.003 if estimator == "survival" else 0.06
    for days, risk in found.items():
        expected = death(CALM if days < 3.5 else MARKED)
        assert risk == pytest.approx(expected, abs=spread), days
    for point in curves.curve("hospital-mortality").points:
        assert point.risk.low <= point.risk.value <= point.risk.high
        assert point.futures == 400
    first, *others = curves.movers_of("hospital-mortality")
    jump = death(MARKED) - death(CALM)
    assert first.change.low - 1e-6 <= jump <= first.change.high + 1e-6
    assert all(other.change.low <= 0 <= other.change.high for other in others)


def test_the_marker_is_ranked_first_with_its_change(curves):
    first, *others = curves.movers_of("hospital-mortality")
    assert first.tokens == MARK
    assert first.label == "Lactate (mg/dL), decile 10 of 10"
    assert (first.kind, first.time) == ("lab", MARK_TIME)
    jump = death(MARKED) - death(CALM)
    assert first.change.value == pytest.approx(jump, abs=0.01)
    assert all(abs(other.change.value) < 0.01 for other in others)
    # Out of the middle of what the model reads at the next later time.
    assert first.ablated_at == START + timedelta(days=5.5)
    assert first.ablation.value == pytest.approx(jump, abs=0.01)
    assert first.agrees


def test_an_ablation_at_the_last_point(curves):
    last = curves_of(ablate_at="last")
    assert last.movers_of("hospital-mortality")[0].ablated_at == START + timedelta(days=16.5)
    assert last.movers_of("icu-admission")[0].ablated_at == START + timedelta(days=5.5)
    ablation = last.movers_of("icu-admission")[0].ablation
    assert ablation.low <= 0.05 / 0.4 - 0.05 / 0.25 <= ablation.high < 0
    without = curves_of(ablate_at=None)
    assert all(mover.ablation is None for mover in without.movers)
    assert curves_of(movers=0).movers == []


def test_a_curve_ends_before_its_answer_is_on_record(curves):
    icu = curves.curve("icu-admission")
    assert list(risks(curves, "icu-admission")) == [0, 1.5, 3.5, 5.5]
    assert icu.settled == ICU_TIME
    assert icu.note.endswith("ICU admission.")
    first, last = icu.points[0].risk, icu.points[-1].risk
    assert first.low <= 0.05 / 0.25 <= first.high
    assert last.low <= 0.05 / 0.4 <= last.high
    death_curve = curves.curve("hospital-mortality")
    assert death_curve.settled == END
    assert death_curve.points[-1].time < END
    assert [row.label for row in curves.outcomes] == ["ICU admission", "Discharge"]


def test_points_are_those_of_a_cohort_followed_along(curves):
    """The rule by which whole cohorts are followed, written apart, finds the same times."""
    timelines = timelines_of(STAY)
    start = pl.DataFrame(
        {
            "subject_id": [SUBJECT],
            "prediction_time": pl.Series([START], dtype=pl.Datetime("us")),
            "boolean_value": [False],
            "token_index": [timelines.end_of(1, START)],
            "elapsed": [0.0],
        }
    )
    for task in TASKS:
        followed = along(task, start, timelines)["prediction_time"].to_list()
        found = [point.time for point in curves.curve(task.name).points]
        # Beyond the horizon of a long stay only a curve goes on, with the late cut-off.
        assert found[: len(followed)] == followed
        assert all(
            time >= START + timedelta(seconds=task.horizon) for time in found[len(followed) :]
        )


def test_what_is_left_of_a_long_stay(curves):
    found = risks(curves_of(futures=2000, estimator="count"), "prolonged-stay")
    assert list(found) == [0, 1.5, 3.5, 5.5, 7.5, 12.5], "after day 15 there is no cut-off"
    # Days until the clock reaches 10 d - elapsed; from day 10 on, 15 d - elapsed.
    for days, chances, left in [
        (0, CALM, 10),
        (1.5, CALM, 9),
        (3.5, MARKED, 7),
        (5.5, MARKED, 5),
        (7.5, MARKED, 3),
        (12.5, MARKED, 3),
    ]:
        assert found[days] == pytest.approx(staying(chances, left), abs=0.04), days
    survival = risks(curves, "prolonged-stay")
    for days, chances, left in [(1.5, CALM, 9), (7.5, MARKED, 3), (12.5, MARKED, 3)]:
        assert survival[days] == pytest.approx(staying(chances, left), abs=0.05), days
    assert "cut-off is 15 days" in curves.curve("prolonged-stay").note


def test_the_rule_of_remaining_time():
    mortality, _, prolonged = TASKS
    assert remaining(prolonged, 0) == 10 * DAY
    assert remaining(prolonged, 9.75 * DAY) == 0.25 * DAY
    assert remaining(prolonged, 10 * DAY) == 5 * DAY
    assert remaining(prolonged, 14 * DAY) == DAY
    assert remaining(prolonged, 15 * DAY) is None
    assert remaining(mortality, 20 * DAY) == mortality.horizon - 20 * DAY
    assert remaining(mortality, mortality.horizon) is None


@pytest.mark.parametrize("days", [0, 1.5, 3.5, 5.5, 7.5, 12.5])
def test_nothing_later_changes_a_point(curves, days):
    """Neither the rest of the record, nor whether it is there and not to be read."""
    known = [group for group in STAY if group[0] <= days]
    until = START + timedelta(days=days)
    running = curves_of(timelines_of(known, end=False), stay=(START, None))
    hidden = curves_of(until=until)
    for task in TASKS:
        now, then = running.curve(task.name), hidden.curve(task.name)
        assert now.points == then.points
        assert now.settled == then.settled
        whole = [p for p in curves.curve(task.name).points if p.time <= until]
        assert [p.risk.value for p in whole] == pytest.approx([p.risk.value for p in then.points])
    assert (hidden.end, hidden.until) == (None, until)
    assert hidden.events == running.events
    assert hidden.outcomes == running.outcomes
    assert hidden.movers == running.movers
    assert all(row.time <= until for row in [*hidden.events, *hidden.outcomes])


def test_points_by_unit_and_few_points():
    by_unit = curves_of(resolution="unit")
    at_marker = [p for p in by_unit.curve("hospital-mortality").points if p.time == MARK_TIME]
    expected = [death(CALM), death(MARKED), death(MARKED)]
    assert [p.risk.value for p in at_marker] == pytest.approx(expected, abs=0.01)
    few = curves_of(max_points=3)
    assert list(risks(few, "hospital-mortality")) == [0, 5.5, 16.5]
    assert few.movers_of("hospital-mortality")[0].tokens == MARK, "found between two points"
    assert len(few.events) == len(by_unit.events), "the strip is whole"
    assert list(risks(curves_of(max_points=1), "hospital-mortality")) == [0]


def test_events_are_those_of_the_stay(curves):
    assert [(e.time - START).total_seconds() / DAY for e in curves.events] == [
        *(0, 1.5, 1.5, 3.5, 3.5, 3.5, 5.5, 7.5, 12.5, 12.5, 16.5)
    ]
    assert curves.events[0].label == "Hospital admission (emergency, medicare)"
    assert curves.events[7].label == "ICU admission"


def test_a_stay_of_one_point_and_one_settled_from_the_start():
    short = [STAY[0], STAY[1], (2.0, [["MEDS_DEATH"], ["HOSPITAL_DISCHARGE"]])]
    curves = curves_of(timelines_of(short), stay=(START, START + timedelta(days=2)))
    assert [len(curve.points) for curve in curves.curves] == [1, 1, 1]
    assert curves.movers == []
    assert {row.label for row in curves.outcomes} == {"Death", "Discharge"}
    at_once = [STAY[0], (0, [["HOSPITAL_DISCHARGE"], *STAY[1][1], ["ICU_ADMISSION"]]), STAY[2]]
    curves = curves_of(timelines_of(at_once), stay=(START, None))
    assert curves.curve("icu-admission").points == []
    assert curves.curve("icu-admission").settled == START
    # The discharge of that second is the stay's before.
    assert len(curves.curve("hospital-mortality").points) == 2


def test_a_difference_is_newcombes_interval():
    """56/70 against 48/80: Newcombe 1998, table II, method 10."""

    def share(events: int, n: int) -> _Risk:
        answers = np.arange(n) < events
        return _Risk(ratio(answers, np.ones(n), counted=True), np.zeros(1))

    found = difference(share(56, 70), share(48, 80))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_paths_of_the_same_random_numbers_narrow_a_difference():
    reading = Reading(0.5, 0.05, 0.4, 0.6, 100, 0.0)
    off = np.random.default_rng(0).normal(size=100)
    one = _Risk(reading, off)
    apart = difference(one, _Risk(reading, np.roll(off, 1)))
    assert difference(one, one).low == pytest.approx(0, abs=1e-6)
    assert apart.low == pytest.approx(-np.hypot(0.1, 0.1), rel=0.2)
    nothing = _Risk(Reading(None, None, None, None, 100, 1.0), np.zeros(100))
    assert difference(one, nothing).value is None


def test_what_cannot_be_asked_is_refused():
    number = load_timeline_task("length-of-stay")
    for how, said in [
        ({"tasks": [number]}, "kind time"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "share a name"),
        ({"max_points": 0}, "max_points"),
        ({"half_width": 0.1}, "half_width"),
        ({"until": START - timedelta(days=1)}, "begins"),
    ]:
        with pytest.raises(WardroundError, match=said):
            curves_of(**how)
    with pytest.raises(WardroundError, match="subject 9"):
        risk_curves(Toy(), timelines_of(STAY), OTHER, (START, END), TASKS, CLOCK)


def test_the_same_seed_gives_the_same_curves(curves):
    again = curves_of(descriptions={"LAB//RESULT//2//mg/dL": "Lactate"}, slots=17)
    assert [c.points for c in again.curves] == [c.points for c in curves.curves]
    other = curves_of(seed=1)
    assert [c.points for c in other.curves] != [c.points for c in curves.curves]
