"""The page of one stay: how its risks moved, and with what."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from wardround.evaluation import Estimate, Mover, RiskCurve, RiskCurves, RiskPoint, StayEvent
from wardround.reports import words
from wardround.reports.figures import GREY, LAYOUT, PALETTE, div
from wardround.reports.page import environment

#: Movers of a task that the figure marks.
MARKED = 5
#: Heights in pixels: a panel, a row of the strip, a gap, what is above and below them.
_PANEL, _ROW, _GAP, _TOP, _BOTTOM = 150, 20, 34, 44, 40
#: The least that the top of a panel's scale stands for: a smaller risk moves below sight.
_LEAST_SCALE = 0.05
#: Of the palette, those that a thin line can carry.
_COLOURS = [PALETTE[place] for place in (4, 1, 3, 5, 6, 8)]
_HOUR = timedelta(hours=1)
_KINDS = {
    "transfer": "Stays, transfers",
    "vital sign": "Vital signs",
    "lab": "Lab results",
    "drug": "Drugs",
    "diagnosis": "Diagnoses",
    "procedure": "Procedures",
    "score": "Scores",
    "other": "Other",
}
_ESTIMATORS = {
    "count": "A risk is the share of futures in which the event comes.",
    "survival": (
        "A risk is the mean over futures of the probability, summed step by step, that the next "
        "item is the event while none that ends the path has come; it is the same quantity as the "
        "share of futures in which the event comes, with less noise."
    ),
}


def render_risk(curves: RiskCurves, path: Path) -> None:
    """Write the page of a stay's risks.

    Args:
        curves: of the stay.
        path: the HTML file; it needs no other file and no network. Written whole or not at all.
    """
    tasks = [_task(curve, curves) for curve in curves.curves]
    jinja = environment()
    jinja.filters.update(
        minute=_minute, since=_since, change=_change, clear=_clear, agreement=_agreement
    )
    text = jinja.get_template("risk.html.j2").render(
        r=curves,
        tasks=tasks,
        warnings=_warnings(curves),
        figure=Markup(risk_figure(curves, "risk-over-time")),
        method=_method(curves),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def risk_figure(curves: RiskCurves, name: str) -> str:
    """A panel a task over a strip of what was recorded, on one axis of time.

    Args:
        curves: of the stay.
        name: id of the div, unique on the page.

    Returns:
        An HTML div; empty where no curve has a point.
    """
    drawn = [
        (curve.model_copy(update={"points": known}), _COLOURS[number % len(_COLOURS)])
        for number, curve in enumerate(curves.curves)
        if (known := [point for point in curve.points if point.risk.value is not None])
    ]
    if not drawn:
        return ""
    kinds = [kind for kind in _KINDS if any(event.kind == kind for event in curves.events)]
    heights = [_PANEL] * len(drawn) + [_ROW * max(len(kinds), 1)]
    height = _TOP + sum(heights) + _GAP * len(drawn) + _BOTTOM
    figure = go.Figure(layout=LAYOUT)
    for row, (domain, (curve, colour)) in enumerate(
        zip(_domains(heights), drawn, strict=False), start=1
    ):
        axis = "y" if row == 1 else f"y{row}"
        last = _end_of(curve, curves)
        figure.add_traces([t.update(yaxis=axis) for t in _traces(curve, last, colour)])
        marks = _marks(curves.movers_of(curve.task)[:MARKED], curve, curves.start)
        figure.add_trace(marks.update(yaxis=axis))
        figure.layout[f"yaxis{row if row > 1 else ''}"] = {
            "domain": domain,
            "range": [0, _scale(curve)],
            "tickformat": ".0%" if _scale(curve) > 0.1 else ".1%",
            "nticks": 5,
            "zeroline": False,
        }
        figure.add_annotation(
            text=f"<b>{escape(curve.title, quote=False)}</b>",
            font={"size": 13},
            **_over(domain),
        )
    _strip(figure, curves, kinds, f"y{len(drawn) + 1}", _domains(heights)[-1])
    _outcome_lines(figure, curves.outcomes)
    figure.update_layout(
        height=height,
        showlegend=False,
        hovermode="closest",
        margin={"l": 108, "r": 20, "t": _TOP, "b": _BOTTOM},
        xaxis={
            "anchor": f"y{len(drawn) + 1}",
            "range": _span(curves),
            "type": "date",
            "showspikes": True,
            "spikemode": "across",
            "spikethickness": 1,
            "spikecolor": GREY,
            "spikedash": "solid",
        },
    )
    return div(figure, name)


def _domains(heights: Sequence[int]) -> list[list[float]]:
    """Where panels stand, from the top: shares of the plot's height, with gaps between."""
    total = sum(heights) + _GAP * (len(heights) - 1)
    tops = [1 - (sum(heights[:i]) + _GAP * i) / total for i in range(len(heights))]
    return [
        [max(top - height / total, 0.0), top] for top, height in zip(tops, heights, strict=True)
    ]


def _over(domain: Sequence[float]) -> dict[str, Any]:
    """A place for a panel's title: above its left edge."""
    return {
        "x": 0,
        "y": domain[1],
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
    }


def _end_of(curve: RiskCurve, curves: RiskCurves) -> datetime:
    """Until when the curve's last risk holds."""
    last = curve.points[-1].time
    ends = (curve.settled, curves.end, curves.until)
    return min((end for end in ends if end and end >= last), default=last)


def _traces(curve: RiskCurve, last: datetime, colour: str) -> list[go.Scatter]:
    """The band and the line of a curve, each risk held until the next point."""
    alone = curve.points[0].time == last
    points = [*curve.points, curve.points[-1].model_copy(update={"time": last})]
    points = points[:1] if alone else points
    times = [point.time for point in points]
    values = [_rounded(point.risk.value) for point in points]
    edges = [
        [_rounded(bound if bound is not None else p.risk.value) for p, bound in pairs]
        for pairs in (
            [(p, p.risk.low) for p in points],
            [(p, p.risk.high) for p in points],
        )
    ]
    bare = {"x": times, "mode": "lines", "hoverinfo": "skip", "line": {"width": 0, "shape": "hv"}}
    return [
        go.Scatter(y=edges[0], **bare),
        go.Scatter(y=edges[1], fill="tonexty", fillcolor=_faint(colour), **bare),
        go.Scatter(
            x=times,
            y=values,
            mode="markers" if alone else "lines",
            error_y=_whisker(curve.points[0]) if alone else None,
            line={"color": colour, "width": 2, "shape": "hv"},
            text=[escape(f"{_minute(p.time)}: {_risk(p)}", quote=False) for p in points],
            hovertemplate="%{text}<extra></extra>",
        ),
    ]


def _whisker(point: RiskPoint) -> dict[str, Any]:
    """The interval of a risk that no line carries on."""
    value = point.risk.value or 0.0
    low, high = (value if bound is None else bound for bound in (point.risk.low, point.risk.high))
    return {
        "type": "data",
        "symmetric": False,
        "array": [_rounded(high - value)],
        "arrayminus": [_rounded(value - low)],
        "thickness": 1.5,
        "width": 0,
    }


def _marks(movers: Sequence[Mover], curve: RiskCurve, start: datetime) -> go.Scatter:
    """Triangles at the largest changes beyond noise, one a time, with their ranks."""
    at: dict[datetime, list[tuple[int, Mover]]] = {}
    for rank, mover in enumerate(movers, start=1):
        if _clear(mover.change):
            at.setdefault(mover.time, []).append((rank, mover))
    known = {point.time: point.risk.value for point in curve.points}
    together = [(time, group) for time, group in at.items() if time in known]
    return go.Scatter(
        x=[time for time, _ in together],
        y=[_rounded(known[time]) for time, _ in together],
        mode="markers+text",
        marker={
            "symbol": [
                "triangle-up" if (group[0][1].change.value or 0) > 0 else "triangle-down"
                for _, group in together
            ],
            "size": 10,
            "color": "#1c2733",
            "line": {"color": "#fff", "width": 1},
        },
        text=[", ".join(str(rank) for rank, _ in group) for _, group in together],
        textposition=[
            "top center" if (group[0][1].change.value or 0) > 0 else "bottom center"
            for _, group in together
        ],
        textfont={"size": 11},
        cliponaxis=False,
        hovertext=[
            "<br>".join(
                escape(f"{rank}. {m.label}: {_change_of(m.change)}", quote=False)
                for rank, m in group
            )
            + f"<br>{_since(time, start)}"
            for time, group in together
        ],
        hoverinfo="text",
    )


def _strip(
    figure: go.Figure, curves: RiskCurves, kinds: Sequence[str], axis: str, domain: list[float]
) -> None:
    """Ticks at what was recorded, a row a kind."""
    rows = {kind: len(kinds) - 1 - place for place, kind in enumerate(kinds)}
    figure.add_trace(
        go.Scatter(
            x=[event.time for event in curves.events],
            y=[rows[event.kind] for event in curves.events],
            mode="markers",
            yaxis=axis,
            marker={
                "symbol": "line-ns",
                "size": 11,
                "line": {"width": 1.5, "color": "rgba(28,39,51,0.55)"},
            },
            hovertext=[
                escape(f"{_minute(event.time)}: {event.label}", quote=False)
                for event in curves.events
            ],
            hoverinfo="text",
        )
    )
    figure.layout[f"yaxis{axis[1:]}"] = {
        "domain": domain,
        "range": [-0.6, max(len(kinds), 1) - 0.4],
        "tickvals": list(rows.values()),
        "ticktext": [_KINDS[kind] for kind in rows],
        "zeroline": False,
    }


def _outcome_lines(figure: go.Figure, outcomes: Sequence[StayEvent]) -> None:
    """A dashed line across all panels at what happened; what came together shares a label."""
    at: dict[datetime, list[str]] = {}
    for outcome in outcomes:
        at.setdefault(outcome.time, []).append(outcome.label)
    for number, (time, labels) in enumerate(sorted(at.items())):
        figure.add_shape(
            type="line",
            x0=time,
            x1=time,
            y0=0,
            y1=1,
            yref="paper",
            line={"color": "#8a1c1c", "dash": "dash", "width": 1.5},
        )
        figure.add_annotation(
            x=time,
            y=1,
            yref="paper",
            yanchor="bottom",
            yshift=14 if number % 2 == 0 else 0,
            xanchor="right",
            showarrow=False,
            text=escape(", ".join(labels), quote=False),
            font={"color": "#8a1c1c", "size": 12},
        )


def _span(curves: RiskCurves) -> list[datetime]:
    """The axis of time, with a margin; at least an hour, for a stay of one point."""
    times = [
        *(point.time for curve in curves.curves for point in curve.points),
        *(event.time for event in (*curves.events, *curves.outcomes)),
        *(time for time in (curves.start, curves.end, curves.until) if time),
    ]
    low, high = min(times), max(times)
    margin = max((high - low) * 0.015, (_HOUR - (high - low)) / 2)
    return [low - margin, high + margin]


def _scale(curve: RiskCurve) -> float:
    """The top of a panel: above its band, with room for the ranks."""
    tops = [max(point.risk.value or 0, point.risk.high or 0) for point in curve.points]
    return min(max(1.2 * max(tops), _LEAST_SCALE), 1.08)


def _task(curve: RiskCurve, curves: RiskCurves) -> dict[str, Any]:
    points = curve.points
    return {
        "curve": curve,
        "first": points[0] if points else None,
        "highest": max(points, key=lambda p: p.risk.value or 0) if points else None,
        "last": points[-1] if points else None,
        "movers": curves.movers_of(curve.task),
    }


def _warnings(curves: RiskCurves) -> list[str]:
    warnings = [
        "For research. These risks are a model's estimates; they are not advice about the care of "
        "a patient."
    ]
    access = curves.data.get("access")
    if access == "synthetic":
        warnings.append("A synthetic patient: no such person lives.")
    elif access != "open":
        warnings.append(
            "This page shows a patient's record. Whatever agreement covers the data covers the "
            "page: keep it where the data may be kept, and send it to nobody without access."
        )
    return warnings


def _method(curves: RiskCurves) -> list[str]:
    known = (
        "At each point the model reads what was known by then and plays out "
        f"{curves.futures:,} futures of the patient. "
        if curves.futures
        else ""
    )
    how = _ESTIMATORS.get(curves.estimator, f"Estimator: {curves.estimator}.")
    paragraphs = [
        f"{known}{how} Intervals are those of the simulation alone: more futures narrow them. "
        "Whether the model is right about such patients is a matter of its run's report "
        f"({curves.model or 'unnamed'}, seed {curves.seed})."
    ]
    if curves.until:
        paragraphs.append(
            f"Nothing that became known after {_minute(curves.until)} was read, and none of it is "
            "on this page."
        )
    return paragraphs + list(curves.notes)


def _minute(time: datetime | None) -> str:
    return "open" if time is None else f"{time:%Y-%m-%d %H:%M}"


def _since(time: datetime, start: datetime) -> str:
    """How long after the stay's start."""
    hours = (time - start).total_seconds() / 3600
    if hours <= 0:
        return "at the start"
    return f"{hours:.1f} h in" if hours < 48 else f"day {hours / 24:.1f}"


def _risk(point: RiskPoint) -> str:
    risk = point.risk
    if risk.low is None or risk.high is None:
        return words.percent(risk.value)
    return f"{words.percent(risk.value)} ({words.percent(risk.low)} to {words.percent(risk.high)})"


def _change(value: float | None) -> str:
    """A difference of risks in percentage points, signed."""
    return words.number(None) if value is None else f"{100 * value:+.1f}".replace("-", "−")


def _change_of(change: Estimate) -> str:
    within = (
        f" ({_change(change.low)} to {_change(change.high)})"
        if change.low is not None and change.high is not None
        else ""
    )
    return f"{_change(change.value)} points{within}"


def _clear(change: Estimate) -> bool:
    """Whether a change is more than the simulation's noise."""
    return change.low is None or change.high is None or not change.low <= 0 <= change.high


def _agreement(mover: Mover) -> str:
    if mover.ablation is not None and not (_clear(mover.ablation) and _clear(mover.change)):
        return "unclear"
    return {True: "yes", False: "no", None: ""}[mover.agrees]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _faint(colour: str) -> str:
    """`rgb(…)` as a fill that lines show through."""
    return colour.replace("rgb(", "rgba(").replace(")", ", 0.18)")
