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
#: Years for which a patient has had a condition at the first observation, on average.
SINCE = 8.0
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
        onset: (n, conditions); when each chronic condition began, shifted seconds; inf: it did not
            while the patient was observed.
        frailty: standard normal; moves every decision to admit, and no record shows it.
        set_point: (n, 6) standard normal; where the patient's own vital signs rest.
        attendance: log-rate of visits, chronic conditions apart.
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
    onset: np.ndarray
    frailty: np.ndarray
    set_point: np.ndarray
    attendance: np.ndarray
    race: np.ndarray

    def __len__(self) -> int:
        return len(self.subject_id)

    def has(self, patient: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Which chronic conditions a patient has at a time (shifted): (n, conditions) bool."""
        return self.onset[patient] <= at[:, None]


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
    present = _draw_conditions(rng, catalogue, age)
    years = _draw_onsets(rng, catalogue, present, age, span / YEAR)
    female = rng.random(count) < 0.53
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
        onset=(first + shift)[:, None] + years * YEAR,
        frailty=rng.normal(0, 1, count),
        set_point=rng.normal(0, 1, (count, len(VITALS))),
        attendance=rng.normal(-0.9, 1.0, count),
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


def _draw_onsets(
    rng: np.random.Generator,
    catalogue: Catalogue,
    present: np.ndarray,
    age: np.ndarray,
    observed: np.ndarray,
) -> np.ndarray:
    """Years from the first observation to each condition's onset: (n, conditions).

    Below 0 where it was `present`, inf where it does not come within the years `observed`. A hazard
    is constant within a year of observation, and knows the risk factors that its year began with.
    """
    names = [c.name for c in catalogue.chronic]
    year = np.arange(int(np.ceil(observed.max())))
    lasted = np.minimum(rng.exponential(SINCE, present.shape), 0.8 * age[:, None])
    onset = np.where(present, -lasted, np.inf)
    for number, condition in enumerate(catalogue.chronic):
        log_rate = np.log(condition.onset) + condition.per_decade * (age[:, None] + year - 65) / 10
        for other, odds in condition.risk.items():
            log_rate = log_rate + odds * (onset[:, [names.index(other)]] <= year)
        rate = np.exp(log_rate)
        reached = np.cumsum(rate, axis=1)
        threshold = rng.exponential(1, len(age))
        whole = (reached < threshold[:, None]).sum(axis=1)  # years that pass without it
        comes = np.minimum(whole, len(year) - 1)
        over = reached[np.arange(len(age)), comes] - threshold
        when = comes + 1 - over / rate[np.arange(len(age)), comes]
        new = ~present[:, number] & (whole < len(year)) & (when < observed)
        onset[new, number] = when[new]
    return onset
