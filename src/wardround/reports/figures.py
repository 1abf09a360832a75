"""Figures of a report, as plotly divs. The page carries plotly once; divs are named by us.

Colours follow the order of the models, and only the leading ones start visible: nineteen curves
in one frame show nothing. A click on the legend brings back any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from wardround.evaluation import Banded, Curves, Estimate, LossCurve, ModelResult, SubgroupRow

PALETTE = qualitative.Safe
#: Models whose curves are drawn at first.
SHOWN = 4
GREY = "#9aa3ad"
LAYOUT = {
    "template": "plotly_white",
    "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
    "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1c2733"},
    "hoverlabel": {"namelength": -1},
}


def model_curves(models: Sequence[ModelResult], leading: Sequence[str], name: str) -> str:
    """ROC, precision-recall and calibration side by side under one legend.

    Args:
        models: those without curves are passed over.
        leading: names of the models that start visible.
        name: id of the div, unique on the page.

    Returns:
        An HTML div; empty where no model has curves.
    """
    if not any(model.curves for model in models):
        return ""
    figure = make_subplots(
        1, 3, subplot_titles=("ROC", "Precision and recall", "Calibration"), horizontal_spacing=0.07
    )
    figure.add_trace(_diagonal("chance"), 1, 1)
    figure.add_trace(_diagonal("ideal"), 1, 3)
    for position, model in enumerate(models):
        if model.curves:
            shared = {
                "name": model.label,
                "legendgroup": model.name,
                "visible": True if model.name in leading else "legendonly",
                "line": {"color": PALETTE[position % len(PALETTE)], "width": 2},
            }
            for column, trace in enumerate(_curves(model.curves, shared), start=1):
                figure.add_trace(trace, 1, column)
    titles = [
        ("1 − specificity", "Sensitivity"),
        ("Recall (sensitivity)", "Precision (PPV)"),
        ("Predicted risk", "Observed share"),
    ]
    for column, (x, y) in enumerate(titles, start=1):
        figure.update_xaxes(title=x, range=[-0.01, 1.01], zeroline=False, col=column)
        figure.update_yaxes(title=y, range=[-0.01, 1.01], zeroline=False, col=column)
    figure.update_layout(LAYOUT, margin={"l": 56, "r": 16, "t": 32, "b": 48})
    figure.update_layout(
        height=470, legend={"orientation": "h", "y": -0.2, "groupclick": "togglegroup"}
    )
    figure.update_yaxes(title_standoff=4)
    return div(figure, name)


def _curves(curves: Curves, shared: dict[str, Any]) -> list[go.Scatter]:
    """A model's trace in each of the three panels; the first stands in the legend."""
    (x, y), (recall, precision) = (zip(*points, strict=True) for points in (curves.roc, curves.pr))
    bins = curves.calibration
    return [
        go.Scatter(x=short(x), y=short(y), mode="lines", **shared),
        go.Scatter(x=short(recall), y=short(precision), mode="lines", showlegend=False, **shared),
        go.Scatter(
            x=short([b.predicted for b in bins]),
            y=short([b.observed for b in bins]),
            error_y={
                "type": "data",
                "symmetric": False,
                "array": short([max(b.high - b.observed, 0) for b in bins]),
                "arrayminus": short([max(b.observed - b.low, 0) for b in bins]),
                "thickness": 1,
                "width": 0,
            },
            customdata=[b.count for b in bins],
            hovertemplate="predicted %{x:.3f}, observed %{y:.3f}, n = %{customdata}",
            mode="lines+markers",
            showlegend=False,
            **shared,
        ),
    ]


def forest(
    rows: Sequence[tuple[str, Estimate]], axis: str, name: str, *, chance: float | None = 0.5
) -> str:
    """Estimates with their intervals, the first row on top.

    Args:
        rows: label and estimate; those without a value are passed over.
        axis: title of the horizontal axis.
        name: id of the div, unique on the page.
        chance: where a model that knows nothing stands; none is drawn for None.

    Returns:
        An HTML div; empty where there is nothing to draw.
    """
    drawn = [(label, e) for label, e in rows if e.value is not None]
    if not drawn:
        return ""
    values = [e.value for _, e in drawn if e.value is not None]
    figure = go.Figure(layout=LAYOUT)
    figure.add_trace(
        go.Scatter(
            x=short(values),
            y=[label for label, _ in drawn],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": short([_distance(e.high, e.value) for _, e in drawn]),
                "arrayminus": short([_distance(e.value, e.low) for _, e in drawn]),
                "thickness": 1.5,
                "width": 0,
            },
            mode="markers",
            marker={"color": PALETTE[1], "size": 8, "symbol": "square"},
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    if chance is not None:
        figure.add_vline(x=chance, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    figure.update_xaxes(title=axis, zeroline=False)
    figure.update_layout(showlegend=False, height=90 + 24 * len(drawn))
    return div(figure, name)


def loss_curves(curves: Sequence[LossCurve], name: str) -> str:
    """Training (dotted) and tuning loss against tokens trained on; a dot marks what was kept."""
    figure = go.Figure(layout=LAYOUT)
    for number, curve in enumerate(curves):
        line = {"color": PALETTE[number % len(PALETTE)], "width": 2}
        shared = {"x": curve.tokens, "legendgroup": curve.label}
        dotted = {**line, "dash": "dot"}
        figure.add_scatter(
            y=short(curve.loss), name=f"{curve.label}, training", line=dotted, **shared
        )
        figure.add_scatter(
            y=short(curve.tuning_loss), name=f"{curve.label}, tuning", line=line, **shared
        )
        figure.add_scatter(
            x=[curve.tokens[curve.best]],
            y=short([curve.tuning_loss[curve.best]]),
            mode="markers",
            marker={"color": line["color"], "size": 9},
            showlegend=False,
            legendgroup=curve.label,
            hovertemplate="kept: %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="Tokens trained on")
    figure.update_yaxes(title="Loss, nats a token")
    figure.update_layout(height=360, legend={"orientation": "h", "y": -0.25})
    return div(figure, name)


def banded_chart(banded: Banded, axis: str, name: str) -> str:
    """A metric of each model band by band, side by side; `n` of a band stands below its name."""
    figure = go.Figure(layout=LAYOUT)
    bands = [f"{b}<br>n = {n:,}" for b, n in zip(banded.bands, banded.counts, strict=True)]
    for number, (label, values) in enumerate(banded.values.items()):
        figure.add_bar(
            x=bands,
            y=[None if e.value is None else round(e.value, 4) for e in values],
            name=label,
            marker={"color": PALETTE[number % len(PALETTE)]},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": short([_distance(e.high, e.value) for e in values]),
                "arrayminus": short([_distance(e.value, e.low) for e in values]),
                "thickness": 1,
                "width": 0,
            },
            hovertemplate="%{y:.3f}",
        )
    figure.update_yaxes(title=axis, rangemode="tozero")
    figure.update_xaxes(automargin=True)
    figure.update_layout(height=380, barmode="group", legend={"orientation": "h", "y": -0.35})
    return div(figure, name)


def subgroup_forest(rows: Sequence[SubgroupRow], metric: str, axis: str, name: str) -> str:
    """One model's metric in every group that was measured."""
    measured = [
        (f"{row.attribute.replace('_', ' ')}: {row.group}  (n = {row.rows:,})", row.metrics[metric])
        for row in rows
        if metric in row.metrics
    ]
    return forest(measured, axis, name)


def _diagonal(name: str) -> go.Scatter:
    return go.Scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name=name,
        hoverinfo="skip",
        showlegend=False,
        line={"color": GREY, "dash": "dot", "width": 1},
    )


def _distance(far: float | None, near: float | None) -> float:
    return 0.0 if far is None or near is None else max(far - near, 0.0)


def short(values: Sequence[float]) -> list[float]:
    """Four decimals are finer than a pixel, and a third of the page's weight."""
    return [round(value, 4) for value in values]


def div(figure: go.Figure, name: str) -> str:
    """A figure as an HTML div whose id is `name`; the page carries plotly itself."""
    text = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
    return str(text)
