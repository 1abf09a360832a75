"""The page of a stay's risks: what is drawn, what is written, and what is kept out."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from wardround.evaluation import Estimate, Mover, RiskCurve, RiskCurves, RiskPoint, StayEvent
from wardround.reports import render_risk
from wardround.reports.risk import risk_figure

from .conftest import Html, plot

START = datetime(2180, 3, 2, 14, 5)
EVIL = "<script>alert(1)</script> & more"


def after(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def point(hours: float, value: float, half: float = 0.05) -> RiskPoint:
    risk = Estimate(value=value, low=max(value - half, 0), high=min(value + half, 1))
    return RiskPoint(time=after(hours), risk=risk, standard_error=half / 1.96, futures=100)


def mover(task: str, hours: float, label: str, change: float, **others: Any) -> Mover:
    return Mover(
        task=task,
        time=after(hours),
        kind="lab",
        label=label,
        tokens=["=2h-3h", "LAB//50912//mg/dL", "Q9"],
        change=Estimate(value=change, low=change - 0.1, high=change + 0.1),
        **others,
    )


@pytest.fixture
def make_curves() -> Callable[..., RiskCurves]:
    parts: dict[str, Any] = {
        "subject_id": 10000032,
        "stay_id": 29079034,
        "start": START,
        "end": after(72),
        "curves": [
            RiskCurve(
                task="hospital-mortality",
                title="Death in hospital",
                description="Before discharge.",
                points=[point(0, 0.03), point(5, 0.25), point(60, 0.1)],
            ),
            RiskCurve(
                task="icu-admission",
                title="ICU admission",
                points=[point(0, 0.4), point(5, 0.8)],
                settled=after(44),
                note="ICU admission 44 hours after the start",
            ),
            RiskCurve(task="composite", title="Settled", points=[], settled=START),
        ],
        "movers": [
            mover(
                "hospital-mortality",
                5,
                EVIL,
                0.22,
                ablation=Estimate(value=0.123, low=0.01, high=0.2),
                ablated_at=after(60),
            ),
            mover("hospital-mortality", 60, "Heart rate, decile 2 of 10", -0.15),
            mover("hospital-mortality", 5, "Furosemide", -0.12),
            mover("hospital-mortality", 0, "Within noise", 0.09),
        ],
        "events": [
            StayEvent(time=after(0), kind="transfer", label="Hospital admission"),
            StayEvent(time=after(5), kind="lab", label=EVIL),
            StayEvent(time=after(60), kind="vital sign", label="Heart rate, decile 2 of 10"),
        ],
        "outcomes": [
            StayEvent(time=after(44), kind="transfer", label="ICU admission"),
            StayEvent(time=after(72), kind="transfer", label="Death"),
            StayEvent(time=after(72), kind="transfer", label="Hospital discharge"),
        ],
        "estimator": "survival",
        "futures": 100,
        "model": "ethos-ares/3",
        "data": {"access": "synthetic", "source": "hospital"},
        "notes": ["After day ten the cut-off is day fifteen."],
    }
    return lambda **changes: RiskCurves(**(parts | changes))


@pytest.fixture
def render(tmp_path):
    def make(curves: RiskCurves) -> Html:
        render_risk(curves, tmp_path / "page.html")
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
        return read(tmp_path / "page.html")

    return make


def read(path: Path) -> Html:
    """A page, after checks that it stands alone."""
    page = Html(path.read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids)), "an id names one element"
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        link = attributes.get("href")
        assert link is None or (link.startswith("#") and link[1:] in page.ids), link
    return page


def figure_of(curves: RiskCurves) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return plot(risk_figure(curves, "figure"))


def test_every_number_stands_on_the_page(render, make_curves):
    page = render(make_curves())
    assert page.row("Death in hospital")[1:5] == [
        "3.0 %0.0 % to 8.0 %",
        "25 %20 % to 30 %",
        "5.0 h in",
        "10 %5.0 % to 15 %",
    ]
    assert page.row("ICU admission")[-1] == "ICU admission 44 hours after the start"
    assert page.row("Settled")[1:5] == ["–", "–", "", "–"]
    first = page.row("1")
    assert first[1] == "5.0 h in2180-03-02 19:05"
    assert first[2] == f"{EVIL}=2h-3h LAB//50912//mg/dL Q9"
    assert first[3:] == ["+22.0+12.0 to +32.0", "+12.3+1.0 to +20.0at day 2.5", "yes"]
    second = page.row("2")
    assert second[3:] == ["−15.0−25.0 to −5.0", "–", ""]
    grey = [attributes for tag, attributes in page.tags if tag == "tr" and "class" in attributes]
    assert len(grey) == 1, "the mover whose interval holds zero"
    for fact in ("10000032", "29079034", "2180-03-02 14:05", "ethos-ares/3", "100 futures"):
        assert fact in page.text
    assert "After day ten the cut-off is day fifteen." in page.text


def test_text_from_the_record_is_escaped(render, make_curves):
    scripts = [tag for tag, _ in render(make_curves(movers=[], events=[])).tags if tag == "script"]
    page = render(make_curves(model=EVIL, notes=[EVIL]))
    assert [tag for tag, _ in page.tags if tag == "script"] == scripts
    assert page.text.count(EVIL) == 4, "read back as text: a row, the model twice, a note"
    traces, _ = figure_of(make_curves())
    hovers = [text for trace in traces for text in trace.get("hovertext", [])]
    assert any("&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text for text in hovers)
    assert not any("<script>" in text for text in hovers)


def test_each_task_has_a_panel_with_its_band_line_and_marks(make_curves):
    traces, layout = figure_of(make_curves())
    low, high, line, marks = traces[:4]
    assert line["y"] == [0.03, 0.25, 0.1, 0.1]
    assert line["x"][-1].startswith("2180-03-05T14:05"), "the last risk holds to the stay's end"
    assert line["line"]["shape"] == "hv"
    assert (low["y"], high["y"]) == ([0.0, 0.2, 0.05, 0.05], [0.08, 0.3, 0.15, 0.15])
    assert high["fill"] == "tonexty"
    # What came at one time shares a mark, and the ranks are those of the table.
    assert marks["text"] == ["1, 3", "2"]
    assert marks["marker"]["symbol"] == ["triangle-up", "triangle-down"]
    assert "2. Heart rate, decile 2 of 10: −15.0 points (−25.0 to −5.0)" in marks["hovertext"][1]
    icu = traces[6]
    assert icu["yaxis"] == "y2"
    assert icu["x"][-1].startswith("2180-03-04T10:05"), "a settled risk ends where it was settled"
    assert layout["yaxis"]["domain"][0] > layout["yaxis2"]["domain"][1]
    titles = [note["text"] for note in layout["annotations"]]
    assert "<b>Death in hospital</b>" in titles
    assert "<b>Settled</b>" not in titles, "nothing to draw, no panel"


def test_points_without_an_answer_are_passed_over(render, make_curves):
    silent = RiskPoint(time=after(2), risk=Estimate(value=None), standard_error=None, futures=100)
    curve = RiskCurve(task="death", title="Death", points=[silent, point(5, 0.25)])
    curves = make_curves(curves=[curve], movers=[])
    traces, _ = figure_of(curves)
    assert traces[2]["y"] == [0.25, 0.25]
    assert render(curves).row("Death")[1:3] == ["–", "25 %20 % to 30 %"]
    mute = curve.model_copy(update={"points": [silent]})
    assert "nothing to draw" in render(make_curves(curves=[mute], movers=[])).text


def test_the_strip_and_the_outcomes_share_the_axis_of_time(make_curves):
    traces, layout = figure_of(make_curves())
    strip = traces[-1]
    axis = layout["yaxis3"]
    assert strip["yaxis"] == "y3"
    assert axis["ticktext"] == ["Stays, transfers", "Vital signs", "Lab results"]
    rows = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert strip["y"] == [rows["Stays, transfers"], rows["Lab results"], rows["Vital signs"]]
    assert all("xaxis" not in trace or trace["xaxis"] == "x" for trace in traces)
    lines = [shape["x0"][:16] for shape in layout["shapes"]]
    assert lines == ["2180-03-04T10:05", "2180-03-05T14:05"]
    assert "Death, Hospital discharge" in [note["text"] for note in layout["annotations"]]


def test_a_stay_of_one_point(render, make_curves):
    curve = RiskCurve(task="death", title="Death", points=[point(0, 0.2)])
    curves = make_curves(
        curves=[curve], movers=[], events=[], outcomes=[], end=None, until=START, stay_id=None
    )
    page = render(curves)
    assert "What moved the risks" not in page.text
    assert "Stay 2" not in page.text
    assert f"known after {START:%Y-%m-%d %H:%M}" in page.text
    traces, layout = figure_of(curves)
    assert traces[2]["mode"] == "markers"
    assert traces[2]["error_y"]["array"] == [0.05]
    low, high = (datetime.fromisoformat(edge) for edge in layout["xaxis"]["range"])
    assert low < START < high


def test_a_stay_settled_from_the_start(render, make_curves):
    settled = RiskCurve(task="death", title="Death", points=[], settled=START)
    page = render(make_curves(curves=[settled], movers=[]))
    assert "nothing to draw" in page.text


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ("synthetic", "no such person"),
        ("credentialed", "send it to nobody"),
        (None, "send it to nobody"),
        ("open", "not advice"),
    ],
)
def test_the_page_says_how_it_may_be_used(render, make_curves, access, said):
    page = render(make_curves(data={} if access is None else {"access": access}))
    assert said in page.text
    assert ("send it to nobody" in page.text) == (access not in ("open", "synthetic"))


def test_no_address_outside_the_page_is_loaded(render, make_curves):
    page = render(make_curves())
    ours = [script for script in page.scripts if "Plotly.newPlot" in script]
    assert not any(re.search(r"https?://", script) for script in ours)
