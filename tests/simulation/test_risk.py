"""Risks read from futures, against a Markov chain whose risks are known to the last digit."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from wardround.errors import WardroundError
from wardround.evaluation import wilson_interval
from wardround.models.decoder import Decoder, DecoderConfig
from wardround.simulation import Clock, Futures, risk
from wardround.simulation.risk import (
    Sampling,
    count_answers,
    estimate_risks,
    ratio,
    read_classes,
)
from wardround.simulation.tasks import EXCLUDED, TimelineTask, group_tasks
from wardround.views.timeline import NEVER, Timelines, Vocabulary

TOKENS = (
    "HOSPITAL_ADMISSION",
    "HOSPITAL_DISCHARGE",
    "ICU_ADMISSION",
    "MEDS_DEATH",
    "SOFA",
    "Q1",
    "Q2",
    "Q3",
    "=1h",
    "=1d",
    "TIMELINE_END",
)
V = len(TOKENS)
VOCABULARY = Vocabulary(TOKENS)
HOURS = np.zeros(V, int)
HOURS[[8, 9]] = 1, 24
CLOCK = Clock(HOURS * 3600.0)
START = datetime(2150, 6, 15)


def transitions() -> np.ndarray:
    """P(next token | token): mostly time that passes, now and then an event."""
    chances = {
        "HOSPITAL_ADMISSION": 0.01,
        "HOSPITAL_DISCHARGE": 0.08,
        "ICU_ADMISSION": 0.06,
        "MEDS_DEATH": 0.03,
        "SOFA": 0.02,
        "Q1": 0.2,
        "Q2": 0.2,
        "Q3": 0.1,
        "=1h": 0.15,
        "=1d": 0.1,
        "TIMELINE_END": 0.05,
    }
    table = np.tile(list(chances.values()), (V, 1))
    table[TOKENS.index("Q3"), TOKENS.index("MEDS_DEATH")] = 0.3  # it goes badly
    table[TOKENS.index("ICU_ADMISSION"), TOKENS.index("MEDS_DEATH")] = 0.2
    table[TOKENS.index("SOFA")] = 1e-6
    table[TOKENS.index("SOFA"), 5:8] = 0.2, 0.3, 0.4
    return table / table.sum(axis=1, keepdims=True)


class Markov(Decoder):
    """A decoder that sees the last token alone and follows a table."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__(
            DecoderConfig(V, context=32, layers=1, heads=2, width=16, hidden=8, positions="rotary")
        )
        with torch.no_grad():
            self.embedding.weight.zero_()[:V, :V] = torch.eye(V)
            for block in self.blocks:
                block.attention.out.weight.zero_()
                block.contract.weight.zero_()
            streams = self.norm(self.embedding.weight[:V])
            solved = torch.linalg.pinv(streams.double()) @ torch.tensor(table).log()
            self.head = nn.Parameter(solved.float())
        self.eval()

    def score(self, hidden: Tensor) -> Tensor:
        return hidden @ self.head


TABLE = transitions()
MODEL = Markov(TABLE)


def task(name: str, **rules: Any) -> TimelineTask:
    start = {"stay": "hospital", "edge": "start"}
    fields = {"name": name, "title": name, "start": start, "horizon": "60h", **rules}
    return TimelineTask.model_validate(fields)


MORTALITY = task("mortality", event="MEDS_DEATH", competing="HOSPITAL_DISCHARGE")
ICU = task("icu", event="ICU_ADMISSION", competing=["HOSPITAL_DISCHARGE", "MEDS_DEATH"])
LONG = task(
    "long", competing=["HOSPITAL_DISCHARGE", "MEDS_DEATH"], at_horizon="event", horizon="30h"
)
COMPOSITE = task(
    "composite",
    event=["ICU_ADMISSION", "MEDS_DEATH"],
    competing="HOSPITAL_DISCHARGE",
    at_horizon="event",
    horizon="30h",
)
READMISSION = task(
    "readmission",
    event="HOSPITAL_ADMISSION",
    competing="MEDS_DEATH",
    ends_unresolved="negative",
)
RISKS = [MORTALITY, ICU, LONG, COMPOSITE, READMISSION]
DAYS = task("days", kind="time", event=["HOSPITAL_DISCHARGE", "MEDS_DEATH"])


def exact(question: TimelineTask, last: str, horizon: int) -> tuple[float, dict[float, float]]:
    """Risk of a task after a token, by following all probability; and that of each event's hour."""
    event = {TOKENS.index(name) for name in question.event}
    competing = {TOKENS.index(name) for name in question.competing}
    mass = np.zeros((V, horizon + 1))
    mass[TOKENS.index(last), 0] = 1
    happened: dict[float, float] = {}
    denied = there = ended = 0.0
    while mass.sum() > 1e-12:
        following = np.zeros_like(mass)
        for token in range(V):
            flow = TABLE[:, token] @ mass
            moved = np.zeros(horizon + 1)
            moved[HOURS[token] :] = flow[: horizon + 1 - HOURS[token]]
            there += flow.sum() - moved.sum()
            if token in event:
                for hour, chance in enumerate(moved):
                    happened[hour] = happened.get(hour, 0) + chance
            elif token in competing and question.at_horizon == "event":
                denied += moved[:-1].sum()  # who leaves at the horizon was there
                there += moved[-1]
            elif token in competing:
                denied += moved.sum()
            elif TOKENS[token] == "TIMELINE_END":
                ended += moved.sum()
            else:
                following[token] = moved
        mass = following
    yes = sum(happened.values()) + (there if question.at_horizon == "event" else 0)
    if question.ends_unresolved == "negative":
        return float(yes), happened
    return float(yes / (yes + denied)), happened


def timelines(subjects: int, last: str = "Q1", length: int = 6) -> Timelines:
    """Records of as many subjects, of lengths that differ, each ending in a token."""
    rng = np.random.default_rng(0)
    tokens: list[int] = []
    times: list[int] = []
    offsets = [0]
    first = int(np.datetime64(START, "us").astype(np.int64))
    for number in range(subjects):
        n = length + number % 5
        tokens += [*rng.integers(5, 8, n), TOKENS.index(last), TOKENS.index("TIMELINE_END")]
        times += [first - 1_000_000 * (n - i) for i in range(n)] + [first, NEVER]
        offsets.append(len(tokens))
    return Timelines(
        VOCABULARY,
        np.array(tokens, np.uint16),
        np.array(times),
        np.arange(len(tokens)),
        np.array(offsets),
        np.arange(subjects) + 100,
    )


def cohort(subjects: int, elapsed: float = 0.0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject_id": np.arange(subjects) + 100,
            "prediction_time": [START] * subjects,
            "elapsed": [elapsed] * subjects,
        }
    ).with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))


def risks(tasks: list[TimelineTask], subjects: int = 1, **how: Any) -> dict[str, pl.DataFrame]:
    rows = cohort(subjects, how.pop("elapsed", 0.0))
    return estimate_risks(MODEL, timelines(subjects), rows, tasks, CLOCK, device="cpu", **how)


def test_the_toy_follows_its_table() -> None:
    with torch.no_grad():
        scores = MODEL(torch.arange(V)[:, None])[:, 0].softmax(-1).numpy()
    assert np.abs(scores - TABLE).max() < 1e-5


# Estimators -------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["count", "survival"])
def test_both_estimators_are_unbiased(estimator: Any) -> None:
    found = risks(RISKS, futures=3000, estimator=estimator)
    for question in RISKS:
        truth, _ = exact(question, "Q1", int(question.horizon / 3600))
        row = found[question.name].row(0, named=True)
        assert abs(row["risk"] - truth) < 4 * row["standard_error"], question.name
        assert row["low"] < row["risk"] < row["high"]
        assert 0 < row["standard_error"] < 0.02


def test_survival_spreads_less_where_paths_end_often() -> None:
    counted = risks([MORTALITY, READMISSION], futures=500)
    weighed = risks([MORTALITY, READMISSION], futures=500, estimator="survival")
    for name in ("mortality", "readmission"):
        ours, theirs = (table[name]["standard_error"][0] for table in (weighed, counted))
        assert ours < 0.8 * theirs


@pytest.mark.parametrize("estimator", ["count", "survival"])
def test_intervals_cover_and_standard_errors_tell_the_spread(estimator: Any) -> None:
    found = risks([MORTALITY, LONG], 120, futures=32, estimator=estimator)
    for question in (MORTALITY, LONG):
        truth, _ = exact(question, "Q1", int(question.horizon / 3600))
        table = found[question.name]
        covered = ((table["low"] <= truth) & (truth <= table["high"])).mean()
        assert covered >= 0.88
        assert table["risk"].mean() == pytest.approx(truth, abs=0.03)
        assert table["risk"].std() == pytest.approx(table["standard_error"].mean(), rel=0.25)


def test_counting_has_the_binomial_error_and_wilsons_interval() -> None:
    events = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    found = ratio(events, np.ones(10), counted=True)
    assert found.estimate == 0.3 and found.standard_error == pytest.approx(np.sqrt(0.3 * 0.7 / 10))
    assert (found.low, found.high) == pytest.approx(wilson_interval(3, 10), abs=1e-5)
    some = ratio(events, np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]), counted=True)
    assert (some.estimate, some.unresolved) == (0.75, pytest.approx(0.6))
    never = ratio(np.zeros(32), np.ones(32), counted=True)
    assert never.estimate == never.standard_error == never.low == 0
    assert never.high == pytest.approx(wilson_interval(0, 32)[1], abs=1e-5)
    silent = ratio(np.zeros(4), np.zeros(4), counted=True)
    assert silent.estimate is silent.low is None and silent.half_width == np.inf


def test_paths_given_up_are_excluded_whatever_the_task_makes_of_the_rest() -> None:
    (group,) = group_tasks([READMISSION], VOCABULARY)
    futures = Futures(
        first=np.array([[5.0, np.inf, 5.0], [np.inf] * 3, [np.inf] * 3, [np.inf] * 3]),
        clock=np.array([5.0, 9.0, 9.0, 9e9]),
        reason=np.array([0, 0, 2, 1], np.int8),
        steps=np.ones(4, int),
    )
    answers = count_answers(group, 0, futures, READMISSION.horizon)
    assert answers.tolist() == [1, 0, EXCLUDED, 0]
    # With less time left, the event comes after it, and no path was given up before.
    assert count_answers(group, 0, futures, 4.0).tolist() == [0, 0, 0, 0]
    short = risks([READMISSION], max_tokens=2, futures=400)["readmission"]
    assert short["unresolved"][0] > 0.5


def test_time_to_discharge() -> None:
    row = risks([DAYS], futures=4000)["days"].row(0, named=True)
    _, hours = exact(DAYS, "Q1", 60)
    chance = np.array(list(hours.values())) / sum(hours.values())
    days = np.array(list(hours)) / 24
    assert abs(row["mean"] - days @ chance) < 4 * row["standard_error"]
    median = days[np.searchsorted(np.cumsum(chance), 0.5)]
    assert row["median"] == pytest.approx(median, abs=0.1)
    assert row["q05"] <= row["q25"] <= row["median"] <= row["q75"] <= row["q95"]
    assert 0 < row["unresolved"] < 1


# Rounds, groups, horizons -----------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["count", "survival"])
def test_rounds_go_on_until_the_interval_is_narrow(estimator: Any) -> None:
    how: dict[str, Any] = {"futures": 20, "estimator": estimator}
    aim = {"count": 0.06, "survival": 0.03}[estimator]
    table = risks([MORTALITY, DAYS], 12, half_width=aim, max_futures=600, **how)["mortality"]
    width = (table["high"] - table["low"]) / 2
    assert ((width <= aim) | (table["futures"] == 600)).all()
    assert table["futures"].n_unique() > 1 and (table["futures"] % 20 == 0).all()
    # The rounds are the first futures of one long run.
    used = int(table["futures"][3])
    whole = risks([MORTALITY], 12, **(how | {"futures": used}))["mortality"]
    assert whole["risk"][3] == pytest.approx(table["risk"][3], abs=1e-6)


def test_rounds_stop_at_the_limit() -> None:
    table = risks([MORTALITY], half_width=0.001, futures=30, max_futures=70)["mortality"]
    assert table["futures"].to_list() == [70]


@pytest.mark.parametrize("estimator", ["count", "survival"])
def test_tasks_read_together_are_as_read_alone(estimator: Any) -> None:
    """Counting gives the very same: paths of one seed run alike until the first of them ends."""
    together = risks([*RISKS, DAYS], 5, futures=200, estimator=estimator)
    for question in RISKS:
        (alone,) = risks([question], 5, futures=200, estimator=estimator).values()
        both = together[question.name]
        if estimator == "count":
            assert both.equals(alone)
        gap = (both["risk"] - alone["risk"]).abs()
        error = (both["standard_error"] ** 2 + alone["standard_error"] ** 2) ** 0.5
        assert (gap <= 4 * error).all()
    assert together["days"].equals(risks([DAYS], 5, futures=200)["days"])


@pytest.mark.parametrize("estimator", ["count", "survival"])
def test_elapsed_time_is_taken_off_the_horizon(estimator: Any) -> None:
    hours = 20 * 3600.0
    tables = risks([MORTALITY, LONG], futures=3000, estimator=estimator,
                   elapsed=hours)  # fmt: skip
    for question in (MORTALITY, LONG):
        truth, _ = exact(question, "Q1", int((question.horizon - hours) / 3600))
        row = tables[question.name].row(0, named=True)
        assert abs(row["risk"] - truth) < 4 * row["standard_error"]
    over = risks([MORTALITY, LONG, READMISSION], futures=100, estimator=estimator, elapsed=4e5)
    columns = ["risk", "standard_error", "futures", "unresolved"]
    assert over["long"].select(columns).row(0) == (1.0, 0.0, 0, 0.0)
    assert over["readmission"].select(columns).row(0) == (0.0, 0.0, 0, 0.0)
    assert over["mortality"].select(columns).row(0) == (None, None, 0, 1.0)


def test_a_prediction_does_not_depend_on_the_others() -> None:
    whole = risks([MORTALITY], 9, futures=50, chunk=4)["mortality"]
    rows = cohort(9)[[7, 2]]
    two = estimate_risks(
        MODEL, timelines(9), rows, [MORTALITY], CLOCK, futures=50, device="cpu", slots=7
    )["mortality"]
    assert two["risk"].to_list() == [whole["risk"][7], whole["risk"][2]]
    assert two["subject_id"].to_list() == [107, 102]
    other = risks([MORTALITY], 9, futures=50, seed=1)["mortality"]
    assert (other["risk"] != whole["risk"]).any()


def test_an_empty_cohort_and_wrong_questions() -> None:
    assert len(risks([MORTALITY], 0)["mortality"]) == 0
    sofa = task("sofa", kind="class", event=["Q1"], inject="SOFA")
    with pytest.raises(WardroundError, match="task sofa is of kind class"):
        risks([sofa])
    with pytest.raises(WardroundError, match="tasks share a name: icu, icu"):
        risks([ICU, ICU])
    with pytest.raises(WardroundError, match=r"max_futures \(50\) is less than a round"):
        Sampling(futures=100, max_futures=50, half_width=0.1)
    with pytest.raises(WardroundError, match="futures must be 1 or more, got 0"):
        Sampling(futures=0)
    with pytest.raises(WardroundError, match="half_width"):
        Sampling(half_width=0.7)
    stranger = cohort(1).with_columns(subject_id=pl.lit(7))
    with pytest.raises(WardroundError, match="subject 7 has no timeline"):
        estimate_risks(MODEL, timelines(1), stranger, [ICU], CLOCK)


# Cache ------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = risk.simulate

    def dies_at(limit: int) -> Any:
        def simulate(*values: Any, **how: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > limit:
                raise KeyboardInterrupt
            return real(*values, **how)

        return simulate

    how: dict[str, Any] = {"futures": 30, "chunk": 3, "cache": tmp_path / "kept"}
    monkeypatch.setattr(risk, "simulate", dies_at(2))
    with pytest.raises(KeyboardInterrupt):
        risks([MORTALITY, DAYS], 10, **how)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    calls = 0
    monkeypatch.setattr(risk, "simulate", dies_at(99))
    resumed = risks([MORTALITY, DAYS], 10, **how)
    assert calls == 2
    for name, table in risks([MORTALITY, DAYS], 10, futures=30).items():
        assert table.equals(resumed[name])
    calls = 0
    assert risks([MORTALITY, DAYS], 10, **how)["days"].equals(resumed["days"]) and calls == 0


@pytest.mark.parametrize("change", [{"seed": 1}, {"futures": 31}, {"elapsed": 60.0}, {}])
def test_what_was_kept_is_found_by_all_that_it_depends_on(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    risks([MORTALITY], 2, futures=30, cache=tmp_path)
    before = len(list(tmp_path.iterdir()))
    risks([MORTALITY], 2, **({"futures": 30, "cache": tmp_path} | change))
    assert len(list(tmp_path.iterdir())) - before == (1 if change else 0)


def test_other_weights_and_a_damaged_file(tmp_path: Path) -> None:
    first = risks([MORTALITY], 2, futures=30, cache=tmp_path)["mortality"]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert risks([MORTALITY], 2, futures=30, cache=tmp_path)["mortality"].equals(first)
    other = Markov(np.roll(TABLE, 1, axis=0))
    estimate_risks(
        other, timelines(2), cohort(2), [MORTALITY], CLOCK, futures=30, cache=tmp_path, device="cpu"
    )
    assert len(list(tmp_path.iterdir())) == 2


# Readout of classes -----------------------------------------------------------------------------


def test_a_class_is_read_from_the_next_token() -> None:
    sofa = task("sofa", kind="class", event=["Q1", "Q2", "Q3"], inject="SOFA")
    rows = cohort(3).with_columns(label=pl.Series(["Q1", "Q2", "Q3"]))
    found = read_classes(MODEL, timelines(3), rows, sofa, top=2, device="cpu")
    share = TABLE[TOKENS.index("SOFA"), 5:8]
    share = share / share.sum()
    assert found["ranked"].to_list() == [["Q3", "Q2"]] * 3
    assert found["probabilities"][1].to_list() == pytest.approx([share[2], share[1]], rel=1e-3)
    assert found["label_probability"].to_list() == pytest.approx(share.tolist(), rel=1e-3)
    assert found["expected"][0] == pytest.approx(share @ [1, 2, 3], rel=1e-3)
    assert found["mass"][0] > 0.99
    with pytest.raises(WardroundError, match="kind risk"):
        read_classes(MODEL, timelines(1), cohort(1), MORTALITY)


def test_windows_of_any_length_are_read_as_one_by_one() -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(V, context=24, layers=2, heads=2, width=16, hidden=32)).eval()
    plain = task("next", kind="class", event=["Q1", "Q2", "ICU_ADMISSION"])
    records = timelines(8, length=17)
    rows = cohort(8)
    found = read_classes(model, records, rows, plain, batch=3, top=3, device="cpu")
    assert found["expected"].null_count() == 8
    classes = np.array([2, 5, 6])  # in the vocabulary's order
    for number, (ranked, chances) in enumerate(found.select("ranked", "probabilities").iter_rows()):
        low, high = records.offsets[number], records.offsets[number + 1] - 1
        known = records.tokens[low:high]
        if len(known) > 21:  # a window of 24 moves by 6 and opens with 3 of them free
            known = known[6:]
        with torch.no_grad():
            scores = model(torch.from_numpy(known.astype(np.int64))[None])[0, -1].numpy()
        share = np.exp(scores[classes]) / np.exp(scores[classes]).sum()
        order = np.argsort(-share)
        assert ranked == [TOKENS[token] for token in classes[order]]
        assert chances == pytest.approx(share[order].tolist(), abs=1e-5)
