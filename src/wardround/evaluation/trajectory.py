"""Risk over time for one stay: what `simulation.ares` finds, as plain data that a report draws."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from wardround.evaluation.results import Estimate

#: What an event of a timeline is about; the order is that of the report's strip.
Kind = Literal["transfer", "vital sign", "lab", "drug", "diagnosis", "procedure", "score", "other"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RiskPoint(_Part):
    """Risk as seen with everything that was known at `time`.

    Attributes:
        risk: a probability and the 95 % interval of its simulation: Monte-Carlo error alone, not
            what the model does not know. Null where no path gave an answer.
        futures: simulated paths that the estimate rests on.
    """

    time: datetime
    risk: Estimate
    standard_error: float | None
    futures: int


class RiskCurve(_Part):
    """One task's risk, point by point, until its outcome is settled.

    Attributes:
        points: ascending in time; empty where the outcome was settled at the stay's start.
        settled: when the record shows the event, or one that rules it out; null while it is open.
        note: why the curve is as it is, such as what settled it or which cut-off applies.
    """

    task: str
    title: str
    description: str = ""
    points: list[RiskPoint]
    settled: datetime | None = None
    note: str = ""


class StayEvent(_Part):
    """Something that the record shows of the stay."""

    time: datetime
    kind: Kind
    label: str


class Mover(_Part):
    """An information unit, and the change of a risk that it caused.

    Attributes:
        tokens: of the unit, its time interval included.
        change: risk right after the unit minus risk right before it.
        ablation: risk at a later point minus risk at that point with the unit taken out of what
            the model reads; null where it was not asked for.
        ablated_at: that later point.
    """

    task: str
    time: datetime
    kind: Kind
    label: str
    tokens: list[str]
    change: Estimate
    ablation: Estimate | None = None
    ablated_at: datetime | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether the ablation has the sign of the change; null without a sign to compare."""
        if self.ablation is None or not self.ablation.value or not self.change.value:
            return None
        return (self.ablation.value > 0) == (self.change.value > 0)


class RiskCurves(_Part):
    """Risk of every task over a stay, and what moved it.

    Attributes:
        start, end: of the stay; no end where it is running or hidden by `until`.
        until: nothing that became known later was read, and none of it is here.
        movers: of each task, the largest change first.
        events: units of the stay up to its last point, in order.
        outcomes: what later happened, as far as `until` allows: ICU admission, death, discharge.
        estimator, futures, seed: how risks were simulated.
        model: what made them, such as the name of a run.
        data: provenance of the store (`source`, `access`, …).
    """

    subject_id: int
    stay_id: int | None = None
    start: datetime
    end: datetime | None = None
    until: datetime | None = None
    curves: list[RiskCurve]
    movers: list[Mover] = []
    events: list[StayEvent] = []
    outcomes: list[StayEvent] = []
    estimator: str = ""
    futures: int = 0
    seed: int = 0
    model: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = []

    def curve(self, task: str) -> RiskCurve:
        """A task's curve.

        Raises:
            KeyError: no such task.
        """
        return {curve.task: curve for curve in self.curves}[task]

    def movers_of(self, task: str) -> list[Mover]:
        """A task's movers, the largest first."""
        return [mover for mover in self.movers if mover.task == task]

    def to_json(self) -> str:
        """As text; the same curves give the same text."""
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: not risk curves of this version.
        """
        return cls.model_validate_json(text)
