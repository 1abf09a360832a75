"""Visits written by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from wardround.store import PatientStore

NOON = datetime(2150, 6, 15, 12)


def after(hours: float = 0, **more: float) -> datetime:
    """A moment counted from noon of the day that most visits by hand begin on."""
    return NOON + timedelta(hours=hours, **more)


class Records:
    """Collects what happened to patients; `write` makes a store of it."""

    def __init__(self, make_store: Callable[..., PatientStore]) -> None:
        self._make = make_store
        self.events: list[dict[str, Any]] = []
        self.stays: list[dict[str, Any]] = []

    def patient(self, subject: int, *, born: int | None = 2100, death: datetime | None = None):
        self.event(subject, None, "GENDER//F")
        if born is not None:
            self.event(subject, datetime(born, 1, 1), "MEDS_BIRTH")
        if death is not None:
            self.event(subject, death, "MEDS_DEATH")

    def event(self, subject: int, time: datetime | None, code: str, **values: Any) -> None:
        self.events.append({"subject_id": subject, "time": time, "code": code} | values)

    def ed(
        self,
        subject: int,
        stay: int,
        start: datetime,
        end: datetime | None,
        *,
        acuity: float | None = 3,
        hadm: int | None = None,
        outcome: str = "HOME",
    ) -> None:
        """An ED visit; `hadm` is the admission that it led to."""
        if acuity is not None:
            self.event(subject, start, "ED//TRIAGE//ACUITY", numeric_value=acuity, stay_id=stay)
        self._stay(subject, stay, "ed", start, end, hadm, outcome, outcome == "EXPIRED", None)

    def admission(
        self,
        subject: int,
        hadm: int,
        start: datetime,
        end: datetime | None,
        *,
        outcome: str = "HOME",
        death_time: datetime | None = None,
    ) -> None:
        """A hospital stay with its two events."""
        self.event(subject, start, "HOSPITAL_ADMISSION//EW EMER.//ER", hadm_id=hadm)
        if end is not None:
            self.event(subject, end, f"HOSPITAL_DISCHARGE//{outcome}", hadm_id=hadm)
        died = outcome == "DIED"
        self._stay(subject, hadm, "hospital", start, end, hadm, outcome, died, death_time)

    def icu(
        self, subject: int, stay: int, start: datetime, end: datetime, *, hadm: int | None
    ) -> None:
        self._stay(subject, stay, "icu", start, end, hadm, "MICU", False, None)

    def _stay(self, *values: Any) -> None:
        names = [
            "subject_id",
            "stay_id",
            "kind",
            "start",
            "end",
            "hadm_id",
            "outcome",
            "died",
            "death_time",
        ]
        self.stays.append(dict(zip(names, values, strict=True)))

    def write(self, **how: Any) -> PatientStore:
        return self._make(self.events, self.stays, **how)


@pytest.fixture
def records(make_store: Callable[..., PatientStore]) -> Records:
    return Records(make_store)


@pytest.fixture(name="after", scope="session")
def after_fixture() -> Callable[..., datetime]:
    """Moments counted in hours from noon of 15 June 2150."""
    return after
