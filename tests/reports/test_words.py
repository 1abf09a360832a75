"""Numbers as text, and the sentences of a report, against cases by hand."""

from __future__ import annotations

import pytest

from wardround.evaluation import Estimate, SplitCount
from wardround.reports import words

from .conftest import between, make_model


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (words.number(0.81249), "0.812"),
        (words.number(2, 1), "2.0"),
        (words.number(None), "–"),
        (words.percent(0.0), "0.0 %"),
        (words.percent(0.0994), "9.9 %"),
        (words.percent(0.0996), "10 %"),
        (words.percent(0.256), "26 %"),
        (words.percent(1), "100 %"),
        (words.percent(None), "–"),
        (words.interval(between(0.5, 0.41, 0.6)), "0.410 to 0.600"),
        (words.interval(between(0.5)), ""),
        (words.interval(between(0.5, None, 0.6)), ""),
        (words.duration(0.04), "0.0 s"),
        (words.duration(89), "89.0 s"),
        (words.duration(90), "1.5 min"),
        (words.duration(5400), "1.5 h"),
        (words.p_value(0), "< 0.002"),
        (words.p_value(0.002), "0.002"),
        (words.p_value(None), "–"),
        (words.metric_label("auroc"), "AUROC"),
        (words.metric_label("time_to_event"), "time to event"),
    ],
)
def test_numbers_as_people_write_them(found, text):
    assert found == text


def test_a_verdict_in_full(make_task):
    assert words.verdict(make_task()) == [
        "325 of 1,300 held-out visits (25 %, 900 patients) had the outcome.",
        "Gradient boosting, chosen on tuning data, ranks one with the outcome above one without it "
        "in 81 % of pairs (95 % interval 0.701 to 0.903).",
        "At its threshold (Youden's index) it flags 33 % of visits, finds 75 % of the outcomes, "
        "and 40 % of its flags are right.",
        "Its risks are too extreme (calibration slope 0.61, 0.400 to 0.820): read them as a "
        "ranking.",
        "Trained on shuffled outcomes, models reach an AUROC of 0.503: chance, as it must be.",
    ]


def test_the_leader_is_the_first_of_the_comparisons(make_task):
    task = make_task()
    assert words.leader(task).name == "boosting"
    assert words.leader(make_task(comparisons=[])) is None
    assert words.leader(make_task(models=task.models[1:])) is None


def test_nothing_held_out_is_said_first(make_task):
    nobody = ["No held-out rows: nothing was measured."]
    assert words.verdict(make_task(splits=[])) == nobody
    empty = SplitCount(split="held_out", subjects=0, rows=0, positives=0)
    assert words.verdict(make_task(splits=[empty])) == nobody


def test_models_that_cannot_be_compared(make_task):
    one_class = SplitCount(split="held_out", subjects=90, rows=100, positives=0)
    assert words.verdict(make_task(comparisons=[], splits=[one_class])) == [
        "0 of 100 held-out visits (0.0 %, 90 patients) had the outcome.",
        "That does not allow models to be compared.",
    ]


@pytest.mark.parametrize(
    ("slope", "said"),
    [
        (between(0.9, 0.7, 1.1), "Its calibration slope, 0.90, is compatible with 1."),
        (between(-1.6, -4.0, 1.5), "too few to judge its calibration (slope -1.60, -4.000 to 1.5"),
        (between(1.4, 1.2, 1.6), "too timid (calibration slope 1.40"),
        (between(0.5, 0.3, 0.7), "too extreme (calibration slope 0.50"),
        (between(0.5), None),
        (between(None), None),
    ],
)
def test_calibration(make_task, slope, said):
    boosting = make_task().models[0]
    changed = boosting.model_copy(
        update={"metrics": {**boosting.metrics, "calibration_slope": slope}}
    )
    sentences = " ".join(words.verdict(make_task(models=[changed])))
    assert (said in sentences) if said else ("alibration" not in sentences)


@pytest.mark.parametrize(
    ("auroc", "said"),
    [
        (between(0.529, 0.52, 0.54), "chance, as it must be"),
        (between(0.58, 0.44, 0.7), "within the spread of chance at this size"),
        (between(0.36, 0.2, 0.6), "within the spread of chance at this size"),
        (
            between(0.58, 0.55, 0.61),
            "not chance: rows and outcomes are out of step",
        ),
        (between(0.42, 0.4, 0.44), "not chance"),
        (between(0.6), "not chance"),
        (between(None), "No shuffled control was run."),
    ],
)
def test_the_shuffled_control_is_judged(make_task, auroc: Estimate, said):
    control = make_model("shuffled_labels", "Labels shuffled", auroc)
    assert said in words.verdict(make_task(controls=[control]))[-1]


def test_another_control_is_not_taken_for_the_shuffled_one(make_task):
    control = make_model("visit_split", "Visits split", between(0.5))
    assert words.verdict(make_task(controls=[control]))[-1] == "No shuffled control was run."


def test_what_is_undefined_is_left_out(make_task):
    bare = make_model("boosting", "Gradient boosting", between(None))
    nameless = bare.model_copy(update={"metrics": {}})
    for model in (bare, nameless):
        assert len(words.verdict(make_task(models=[model], controls=[]))) == 2
    no_flags = make_task().models[0].operating_points[0].model_copy(update={"ppv": between(None)})
    silent = make_task().models[0].model_copy(update={"operating_points": [no_flags]})
    assert "threshold" not in " ".join(words.verdict(make_task(models=[silent])))
