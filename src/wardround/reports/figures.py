"""Figures of a report, as plotly divs. The page carries plotly once; divs are named by us.

Colours follow the order of the models, and only the leading ones start visible: nineteen curves
in one frame show nothing. A click on the legend brings back any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import qualitative

from wardround.evaluation import Estimate, ModelResult, SubgroupRow

PALETTE = qualitative.Safe
#: Curves that a figure starts with.
SHOWN = 4
_GREY = "#9aa3ad"


def model_figures(
    models: Sequence[ModelResult], leading: Sequence[str], name: str
) -> dict[str, str]:
    """ROC, precision-recall and calibration figures.

    Args:
        models: those without curves are passed over.
        leading: names of the models that start visible.
        name: prefix of the divs' ids, unique on the page.

    Returns:
        HTML divs by title; none where no model has curves.
    """
    drawn = [model for model in models if model.curves]
    if not drawn:
        return {}
    roc, precision, calibration = _frame(), _frame(), _frame()
    roc.add_trace(_diagonal("chance"))
    calibration.add_trace(_diagonal("ideal"))
    for position, model in enumerate(models):
        curves = model.curves
        if curves is None:
            continue
        style = {
            "name": model.label,
            "visible": True if model.name in leading else "legendonly",
            "line": {"color": PALETTE[position % len(PALETTE)], "width": 2},
        }
        x, y = zip(*curves.roc, strict=True)
        roc.add_trace(go.Scatter(x=_short(x), y=_short(y), mode="lines", **style))
        x, y = zip(*curves.pr, strict=True)
        precision.add_trace(go.Scatter(x=_short(x), y=_short(y), mode="lines", **style))
        bins = curves.calibration
        calibration.add_trace(
            go.Scatter(
                x=_short([b.predicted for b in bins]),
                y=_short([b.observed for b in bins]),
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": _short([max(b.high - b.observed, 0) for b in bins]),
                    "arrayminus": _short([max(b.observed - b.low, 0) for b in bins]),
                    "thickness": 1,
                    "width": 0,
                },
                customdata=[b.count for b in bins],
                hovertemplate="predicted %{x:.3f}, observed %{y:.3f}, n = %{customdata}",
                mode="lines+markers",
                **style,
            )
        )
    _axes(roc, "1 − specificity", "Sensitivity")
    _axes(precision, "Recall (sensitivity)", "Precision (PPV)")
    _axes(calibration, "Predicted risk", "Observed share")
    figures = {"ROC": roc, "Precision and recall": precision, "Calibration": calibration}
    return {
        title: _div(figure, f"{name}-{title.split()[0].lower()}")
        for title, figure in figures.items()
    }


def forest(rows: Sequence[tuple[str, Estimate]], axis: str, name: str) -> str:
    """Estimates with their intervals, the first row on top.

    Args:
        rows: label and estimate; those without a value are passed over.
        axis: title of the horizontal axis.
        name: id of the div, unique on the page.
    """
    drawn = [(label, e) for label, e in rows if e.value is not None]
    values = [e.value for _, e in drawn if e.value is not None]
    figure = _frame()
    figure.add_trace(
        go.Scatter(
            x=_short(values),
            y=[label for label, _ in drawn],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": _short([_distance(e.high, e.value) for _, e in drawn]),
                "arrayminus": _short([_distance(e.value, e.low) for _, e in drawn]),
                "thickness": 1.5,
                "width": 0,
            },
            mode="markers",
            marker={"color": PALETTE[1], "size": 8, "symbol": "square"},
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.add_vline(x=0.5, line={"color": _GREY, "dash": "dot", "width": 1})
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    figure.update_xaxes(title=axis, zeroline=False)
    figure.update_layout(showlegend=False, height=90 + 24 * len(drawn))
    return _div(figure, name)


def subgroup_forest(rows: Sequence[SubgroupRow], metric: str, axis: str, name: str) -> str:
    """One model's metric in every group that was measured."""
    measured = [
        (f"{row.attribute.replace('_', ' ')}: {row.group}  (n = {row.rows:,})", row.metrics[metric])
        for row in rows
        if metric in row.metrics
    ]
    return forest(measured, axis, name)


def _frame() -> go.Figure:
    return go.Figure(
        layout={
            "template": "plotly_white",
            "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#1c2733"},
            "height": 420,
            "legend": {"orientation": "h", "y": -0.18, "font": {"size": 11}},
            "hoverlabel": {"namelength": -1},
        }
    )


def _axes(figure: go.Figure, x: str, y: str) -> None:
    figure.update_xaxes(title=x, range=[-0.01, 1.01], zeroline=False)
    figure.update_yaxes(title=y, range=[-0.01, 1.01], zeroline=False)


def _diagonal(name: str) -> go.Scatter:
    return go.Scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name=name,
        hoverinfo="skip",
        showlegend=False,
        line={"color": _GREY, "dash": "dot", "width": 1},
    )


def _distance(far: float | None, near: float | None) -> float:
    return 0.0 if far is None or near is None else max(far - near, 0.0)


def _short(values: Sequence[float]) -> list[float]:
    """Four decimals are finer than a pixel, and a third of the page's weight."""
    return [round(value, 4) for value in values]


def _div(figure: go.Figure, name: str) -> str:
    div = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
    return str(div)
