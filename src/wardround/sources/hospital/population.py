"""Who the patients are: demographics, chronic conditions and what is latent about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wardround.sources.hospital.catalogue import VITALS, Catalogue

DAY = 86_400
YEAR = 365.25 * DAY
#: 1 October 2015, when the coders changed to ICD-10; seconds since 1970, real time.
ICD10_FROM = 1_443_657_600
#: First and last day of the hospital's records, real time: 2008 to 2022.
RECORDS_FROM, RECORDS_TO = 1_199_145_600, 1_672_444_800
YEAR_GROUPS = (
    "2008 - 2010",
    "2011 - 2013",
    "2014 - 2016",
    "2017 - 2019",
    "2020 - 2022",
)
RACES = (
    ("WHITE", 0.64),
    ("BLACK/AFRICAN AMERICAN", 0.15),
    ("HISPANIC/LATINO - PUERTO RICAN", 0.06),
    ("ASIAN - CHINESE", 0.04),
    ("WHITE - RUSSIAN", 0.03),
    ("OTHER", 0.05),
    ("UNKNOWN", 0.03),
)


@dataclass(frozen=True)
class Patients:
    """One entry a patient in every array.

    Attributes:
        subject_id: int64.
        female: bool.
        birth_year, anchor_year, anchor_age: in the patient's shifted calendar.
        year_group: index into `YEAR_GROUPS`: the real years of the anchor.
        shift: seconds from real to shifted time, whole days.
        first, last: when the patient is under observation, real seconds.
        chronic: (n, conditions) bool.
        frailty: standard normal; moves every decision to admit, and no record shows it.
        set_point: (n, 6) standard normal; where the patient's own vital signs rest.
        hospital_burden, critical_burden: summed log-odds of the chronic conditions.
        attendance: log-rate of visits.
    """

    subject_id: np.ndarray
    female: np.ndarray
    birth_year: np.ndarray
    anchor_year: np.ndarray
    anchor_age: np.ndarray
    year_group: np.ndarray
    shift: np.ndarray
    first: np.ndarray
    last: np.ndarray
    chronic: np.ndarray
    frailty: np.ndarray
    set_point: np.ndarray
    hospital_burden: np.ndarray
    critical_burden: np.ndarray
    attendance: np.ndarray
    race: np.ndarray

    def __len__(self) -> int:
        return len(self.subject_id)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def draw_patients(
    rng: np.random.Generator, catalogue: Catalogue, first_index: int, count: int
) -> Patients:
    """Draw `count` patients whose ids follow the first `first_index` patients'."""
    index = np.arange(first_index, first_index + count)
    subject_id = 10_000_000 + 9 * index + rng.integers(0, 9, count)
    span = rng.uniform(1.0, 9.0, count) * YEAR
    first = rng.uniform(RECORDS_FROM, RECORDS_TO - span)
    age = np.clip(rng.normal(56, 19, count), 0, 91)
    young = rng.random(count) < 0.004  # a few children slip into an adult hospital
    age = np.where(young, rng.uniform(10, 17, count), np.maximum(age, 18))
    shift = rng.integers(103 * 365, 175 * 365, count) * DAY
    anchor = first + rng.random(count) * span
    anchor_year = year_of(anchor + shift)
    birth_year = (year_of(first + shift) - age).astype(np.int64)
    real_year = year_of(anchor)
    chronic = _draw_conditions(rng, catalogue, age)
    female = rng.random(count) < 0.53
    hospital = np.array([c.hospital for c in catalogue.chronic])
    critical = np.array([c.critical for c in catalogue.chronic])
    attender = np.array([c.attender for c in catalogue.chronic])
    names, shares = zip(*RACES, strict=True)
    return Patients(
        subject_id=subject_id,
        female=female,
        birth_year=birth_year,
        anchor_year=anchor_year,
        anchor_age=anchor_year - birth_year,
        year_group=np.clip((real_year - 2008) // 3, 0, len(YEAR_GROUPS) - 1),
        shift=shift,
        first=first,
        last=first + span,
        chronic=chronic,
        frailty=rng.normal(0, 1, count),
        set_point=rng.normal(0, 1, (count, len(VITALS))),
        hospital_burden=chronic @ hospital,
        critical_burden=chronic @ critical,
        attendance=rng.normal(-0.9, 0.95, count) + chronic @ attender,
        race=rng.choice(np.array(names, dtype=object), count, p=shares),
    )


def year_of(seconds: np.ndarray) -> np.ndarray:
    """The calendar year of seconds since 1970."""
    return seconds.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970


def _draw_conditions(rng: np.random.Generator, catalogue: Catalogue, age: np.ndarray) -> np.ndarray:
    """Each chronic condition given age and the conditions before it; (n, conditions) bool."""
    names = [c.name for c in catalogue.chronic]
    present = np.zeros((len(age), len(names)), bool)
    for number, condition in enumerate(catalogue.chronic):
        logit = np.log(condition.prevalence / (1 - condition.prevalence))
        logit = logit + condition.per_decade * (age - 65) / 10
        for other, odds in condition.risk.items():
            logit = logit + odds * present[:, names.index(other)]
        present[:, number] = rng.random(len(age)) < sigmoid(logit)
    return present
