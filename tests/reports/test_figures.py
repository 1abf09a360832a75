"""Figures: what is drawn, in which order, and what is passed over."""

from __future__ import annotations

from wardround.evaluation import LossCurve
from wardround.reports.figures import (
    PALETTE,
    forest,
    loss_curves,
    model_curves,
    subgroup_forest,
)

from .conftest import Html, between, make_model, plot


def test_curves_of_the_leading_models_start_visible(make_task):
    div = model_curves(make_task().models, ["news"], "task-curves")
    assert Html(div).ids == ["task-curves"]
    traces, layout = plot(div)
    chance, ideal, *drawn = traces
    for diagonal, axis in ((chance, "x"), (ideal, "x3")):
        assert (diagonal["x"], diagonal["y"], diagonal["xaxis"]) == ([0, 1], [0, 1], axis)
    boosting, news = drawn[:3], drawn[3:]
    assert {(t["name"], t["visible"]) for t in boosting} == {("Gradient boosting", "legendonly")}
    assert {(t["name"], t["visible"]) for t in news} == {("NEWS", True)}
    # One entry in the legend, for a curve in each panel.
    for curves in (boosting, news):
        assert [t.get("showlegend", True) for t in curves] == [True, False, False]
        assert [t["xaxis"] for t in curves] == ["x", "x2", "x3"]
        assert len({t["legendgroup"] for t in curves}) == 1
    roc, precision, bins = boosting
    assert (roc["x"], roc["y"]) == ([0, 0.1235, 1], [0, 0.5, 1])
    assert (precision["x"], precision["y"]) == ([0, 1], [1, 0.25])
    assert (bins["x"], bins["y"], bins["customdata"]) == ([0.2], [0.25], [20])
    assert (bins["error_y"]["array"], bins["error_y"]["arrayminus"]) == ([0.15], [0.15])
    assert layout["xaxis3"]["title"]["text"] == "Predicted risk"


def test_a_model_keeps_its_colour_whoever_has_no_curves(make_task):
    boosting, news = make_task().models
    bare = boosting.model_copy(update={"curves": None})
    assert model_curves([bare], ["boosting"], "task") == ""
    traces, _ = plot(model_curves([bare, news], [], "task"))
    assert [trace["name"] for trace in traces] == ["chance", "ideal", "NEWS", "NEWS", "NEWS"]
    assert traces[2]["line"]["color"] == PALETTE[1]
    many = [make_model(f"m{i}", f"M{i}", between(0.5), curves=news.curves) for i in range(19)]
    assert len(plot(model_curves(many, [], "task"))[0]) == 2 + 3 * 19


def test_a_forest_stands_in_the_order_of_its_rows():
    div = forest(
        [
            ("whole", between(0.8, 0.7, 0.95)),
            ("undefined", between(None)),
            ("without an interval", between(0.6)),
            ("outside its interval", between(0.5, 0.52, 0.55)),
        ],
        "AUROC",
        "f",
    )
    assert Html(div).ids == ["f"]
    (trace,), layout = plot(div)
    assert trace["y"] == ["whole", "without an interval", "outside its interval"]
    assert trace["x"] == [0.8, 0.6, 0.5]
    assert trace["error_x"]["array"] == [0.15, 0, 0.05]
    assert trace["error_x"]["arrayminus"] == [0.1, 0, 0]
    assert layout["yaxis"]["autorange"] == "reversed"
    assert layout["xaxis"]["title"]["text"] == "AUROC"


def test_nothing_to_draw_leaves_no_figure():
    assert forest([], "AUROC", "f") == ""


def test_groups_carry_their_size_and_escape_their_names(make_task):
    div = subgroup_forest(make_task().models[0].subgroups, "auroc", "AUROC", "g")
    assert "<script>alert" not in div
    (trace,), _ = plot(div)
    assert trace["y"] == ["arrival transport: <script>alert(1)</script>  (n = 1,234)"]
    assert subgroup_forest(make_task().models[0].subgroups, "ece", "ECE", "g") == ""


def test_loss_curves_mark_the_weights_that_were_kept():
    curve = LossCurve(
        label="ETHOS", tokens=[10, 20, 30], loss=[3, 2, 1], tuning_loss=[3, 2, 2.5], best=1
    )
    traces, _ = plot(loss_curves([curve], "l"))
    assert [trace["y"] for trace in traces] == [[3, 2, 1], [3, 2, 2.5], [2]]
    assert traces[2]["x"] == [20]
