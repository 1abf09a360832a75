"""The catalogue of conditions: its schema, and reading it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wardround.errors import WardroundError

VITALS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")


class Condition(BaseModel):
    """What every condition shows, by kind of record.

    Attributes:
        labs, vitals: shift in standard deviations of the measurement.
        phrases: what a clerk or physician writes of it, one paraphrase each.
        ecg, film: findings, for the writers of tracings and radiographs.
        unit: where a patient with it is cared for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    risk: dict[str, float] = {}
    icd9: list[str] = Field(min_length=1)
    icd10: list[str] = Field(min_length=1)
    labs: dict[str, float] = {}
    vitals: dict[str, float] = {}
    drugs: list[str] = []
    procedures9: list[str] = []
    procedures10: list[str] = []
    phrases: list[str] = Field(min_length=1)
    ecg: list[str] = []
    film: list[str] = []


class Chronic(Condition):
    """A condition that a patient has or has not; `bmi` is added to the body-mass index (kg/m2)."""

    prevalence: float = Field(gt=0, lt=1)
    onset: float = Field(gt=0, lt=1)
    per_decade: float
    hospital: float
    critical: float
    attender: float = 0.0
    bmi: float = 0.0


class Acute(Condition):
    """A reason for a visit, or for a planned admission.

    Attributes:
        weight, elective: how frequent it is among the one and the other.
        infection: cultures are taken, and may grow.
    """

    weight: float = Field(ge=0)
    elective: float = Field(default=0.0, ge=0)
    severity: float
    recovery: float = Field(gt=0)
    unit: str
    infection: bool = False


class Course(BaseModel):
    """How severity changes within a stay.

    Attributes:
        recovered: the severity that survivors tend to.
        spread: standard deviation of the logarithm of a patient's pace of recovery.
        death_rise, death_hours: how much, and for how long, severity rises before a death.
        icu_rise, icu_hours: the same before a late transfer to the ICU.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    recovered: float
    spread: float = Field(ge=0)
    death_rise: float = Field(ge=0)
    death_hours: float = Field(gt=0)
    icu_rise: float = Field(ge=0)
    icu_hours: float = Field(gt=0)


class Catalogue(BaseModel):
    """All conditions; chronic ones may raise the risk of those listed after them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    course: Course
    chronic: list[Chronic] = Field(min_length=1)
    acute: list[Acute] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> Self:
        from wardround.sources.hospital.dictionaries import LABS
        from wardround.sources.hospital.formulary import formulary

        sold = set(formulary().drugs)
        if not any(condition.weight for condition in self.acute):
            raise ValueError("no acute condition has a weight above 0: nobody would visit")
        seen: list[str] = []
        chronic = {condition.name for condition in self.chronic}
        for condition in [*self.chronic, *self.acute]:
            unknown = [name for name in condition.risk if name not in chronic.intersection(seen)]
            if unknown:
                raise ValueError(
                    f"{condition.name}: risk names {unknown[0]!r}, "
                    "which is no chronic condition listed before it"
                )
            wrong = [name for name in condition.labs if name not in LABS]
            wrong += [name for name in condition.vitals if name not in VITALS]
            if wrong:
                raise ValueError(f"{condition.name}: no such lab or vital sign: {wrong[0]!r}")
            missing = [drug for drug in condition.drugs if drug not in sold]
            if missing:
                raise ValueError(f"{condition.name}: no such drug in formulary.csv: {missing[0]!r}")
            if condition.name in seen:
                raise ValueError(f"{condition.name} is listed twice")
            seen.append(condition.name)
        return self


@cache
def load_catalogue() -> Catalogue:
    """The catalogue that comes with the package."""
    text = (files("wardround.sources.hospital") / "catalogue.yaml").read_text()
    return parse_catalogue(text)


def parse_catalogue(text: str) -> Catalogue:
    """Check a catalogue.

    Raises:
        WardroundError: the condition and what is wrong with it.
    """
    try:
        content = yaml.safe_load(text)
        return Catalogue.model_validate(content)
    except yaml.YAMLError as error:
        raise WardroundError(f"catalogue: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = _place(content, fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise WardroundError(": ".join(["catalogue", *place, message])) from error


def _place(content: object, loc: tuple[int | str, ...]) -> list[str]:
    """Where a fault lies, a condition by its name where it has one."""
    place: list[str] = []
    for part in loc:
        inner = None
        if isinstance(content, dict):
            inner = content.get(part)
        elif isinstance(content, list) and isinstance(part, int):
            inner = content[part]
        named = isinstance(part, int) and isinstance(inner, dict) and "name" in inner
        place.append(str(inner["name"]) if named else str(part))  # type: ignore[index]
        content = inner
    return place
