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
    """A condition that a patient has or has not."""

    prevalence: float = Field(gt=0, lt=1)
    per_decade: float
    hospital: float
    critical: float
    attender: float = 0.0


class Acute(Condition):
    """A reason for a visit."""

    weight: float = Field(gt=0)
    severity: float
    unit: str


class Catalogue(BaseModel):
    """All conditions; chronic ones may raise the risk of those listed after them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    chronic: list[Chronic] = Field(min_length=1)
    acute: list[Acute] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> Self:
        from wardround.sources.hospital.dictionaries import LABS

        seen: list[str] = []
        for condition in [*self.chronic, *self.acute]:
            unknown = [name for name in condition.risk if name not in seen]
            if unknown:
                raise ValueError(f"{condition.name}: risk names {unknown[0]!r}, not listed before")
            wrong = [name for name in condition.labs if name not in LABS]
            wrong += [name for name in condition.vitals if name not in VITALS]
            if wrong:
                raise ValueError(f"{condition.name}: no such lab or vital sign: {wrong[0]!r}")
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
        return Catalogue.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        if isinstance(error, ValidationError):
            fault = error.errors()[0]
            place = ".".join(str(part) for part in fault["loc"])
            raise WardroundError(f"catalogue: {place} {fault['msg']}") from error
        raise WardroundError(f"catalogue: {' '.join(str(error).split())}") from error
