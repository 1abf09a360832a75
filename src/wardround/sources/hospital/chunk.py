"""A chunk of the hospital, and the helpers that its writers share."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from wardround.sources.hospital.catalogue import VITALS, Catalogue, Condition
from wardround.sources.hospital.dictionaries import ICU_UNITS
from wardround.sources.hospital.encounters import (
    HOUR,
    SHARED_ADMISSION,
    Encounters,
    draw_encounters,
)
from wardround.sources.hospital.measure import BETWEEN, shifts
from wardround.sources.hospital.population import ICD10_FROM, Patients, draw_patients

#: Patients simulated at a time, and the ids that each chunk may use up for its encounters.
CHUNK = 2_000
ENCOUNTERS = 40_000
#: Where a ward has no beds of that name, patients lie here before and after the ICU.
WARD_OF = {
    "Coronary Care Unit (CCU)": "Medicine/Cardiology",
    "Medical Intensive Care Unit (MICU)": "Medicine",
    "Trauma SICU (TSICU)": "Med/Surg/Trauma",
}


@dataclass(frozen=True)
class Chunk:
    """Patients, their encounters, and the ids that both go by. Arrays follow the encounters."""

    rng: np.random.Generator
    catalogue: Catalogue
    seed: int
    number: int
    patients: Patients
    encounters: Encounters

    @classmethod
    def draw(cls, catalogue: Catalogue, seed: int, number: int, count: int) -> Chunk:
        """Simulate chunk `number`; it depends on nothing but seed and number."""
        rng = np.random.default_rng((seed, number))
        patients = draw_patients(rng, catalogue, number * CHUNK, count)
        encounters = draw_encounters(rng, catalogue, patients)
        if len(encounters) > ENCOUNTERS:
            raise RuntimeError(f"chunk {number} has more encounters than ids")
        return cls(rng, catalogue, seed, number, patients, encounters)

    def __len__(self) -> int:
        return len(self.encounters)

    def own_rng(self, purpose: int) -> np.random.Generator:
        """A generator apart from `rng`, for what the table of that number alone draws."""
        return np.random.default_rng((self.seed, self.number, purpose))

    @cached_property
    def index(self) -> np.ndarray:
        """A number for each encounter that no other chunk gives."""
        return self.number * ENCOUNTERS + np.arange(len(self))

    @cached_property
    def subject_id(self) -> np.ndarray:
        return self.patients.subject_id[self.encounters.patient]

    @cached_property
    def hadm_id(self) -> pl.Series:
        """Null where the patient was sent home."""
        return present(20_000_000 + self.index, self.encounters.admitted)

    @cached_property
    def ed_stay_id(self) -> np.ndarray:
        """ED and ICU stays are transfers and share their ids."""
        return 30_000_000 + 8 * self.index

    @cached_property
    def icu_stay_id(self) -> np.ndarray:
        return self.ed_stay_id + 2

    @cached_property
    def visit(self) -> np.ndarray:
        """Encounters that came through the ED."""
        return ~self.encounters.elective

    @cached_property
    def in_icu(self) -> np.ndarray:
        return self.encounters.icu_in > 0

    @cached_property
    def death(self) -> np.ndarray:
        """Of each patient, in shifted seconds; inf for those who live."""
        death = np.full(len(self.patients), np.inf)
        np.minimum.at(death, self.encounters.patient, self.encounters.death)
        return death

    @cached_property
    def icd_version(self) -> np.ndarray:
        """9 until the coders changed, by the real date."""
        real = self.encounters.start - self.patients.shift[self.encounters.patient]
        return np.where(real < ICD10_FROM, 9, 10)

    @cached_property
    def vital_shift(self) -> np.ndarray:
        """(encounters, 6): what conditions and the patient's set points do to the vital signs."""
        conditions = shifts(self.catalogue, self.patients, self.encounters, "vitals", list(VITALS))
        own = np.array([BETWEEN[name] for name in VITALS])
        return conditions + own * self.patients.set_point[self.encounters.patient]

    @cached_property
    def chronic(self) -> np.ndarray:
        """(encounters, chronic conditions) bool."""
        return self.patients.chronic[self.encounters.patient]

    @cached_property
    def ward(self) -> np.ndarray:
        units = [WARD_OF.get(a.unit, a.unit) for a in self.catalogue.acute]
        return np.array(units, dtype=object)[self.encounters.acute]

    @cached_property
    def icu_unit(self) -> np.ndarray:
        units = np.array([a.unit for a in self.catalogue.acute], dtype=object)
        wanted = units[self.encounters.acute]
        other = self.rng.choice(np.array(ICU_UNITS[:3], dtype=object), len(self))
        return np.where(np.isin(wanted, ICU_UNITS), wanted, other)

    @cached_property
    def shared(self) -> np.ndarray:
        """Admitted visits with another ED stay before them on the same admission."""
        start, patient = self.encounters.start, self.encounters.patient
        alone = np.ones(len(self), bool)
        alone[1:] = (patient[1:] != patient[:-1]) | (
            start[1:] > self.encounters.end[:-1] + 5 * 24 * HOUR
        )
        chosen = self.rng.random(len(self)) < 2 * SHARED_ADMISSION
        return self.visit & self.encounters.admitted & alone & chosen

    def conditions(self, field: str, *, acute: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """All values of a catalogue field that apply: (encounter, value) of equal length."""
        lists = Ragged([getattr(c, field) for c in self.catalogue.chronic])
        row, condition = np.nonzero(self.chronic)
        owner, value = lists.expand(condition)
        owner = row[owner]
        if acute:
            more, more_value = self.acute_values(field)
            owner, value = np.concatenate([more, owner]), np.concatenate([more_value, value])
        return owner, value

    def acute_values(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """The same of the acute condition alone."""
        lists = Ragged([getattr(c, field) for c in self.catalogue.acute])
        return lists.expand(self.encounters.acute)

    def codes(
        self, row: np.ndarray, conditions: Sequence[Condition], which: np.ndarray
    ) -> np.ndarray:
        """One ICD code for each (encounter, condition), in the version of the encounter's day."""
        nine = Ragged([c.icd9 for c in conditions]).pick(which, self.rng)
        ten = Ragged([c.icd10 for c in conditions]).pick(which, self.rng)
        return np.where(self.icd_version[row] == 9, nine, ten)


class Ragged:
    """Lists of strings of unequal length, expanded or picked from by index."""

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        self.sizes = np.array([len(entry) for entry in lists])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.values = np.array([v for entry in lists for v in entry], dtype=object)

    def expand(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All values of the lists `which`, and the position in `which` that each belongs to."""
        owner, place = spread(self.sizes[which])
        return owner, self.values[self.starts[which][owner] + place]

    def pick(self, which: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One value of each list of `which`."""
        place = (rng.random(len(which)) * self.sizes[which]).astype(np.int64)
        return self.values[self.starts[which] + place]


def spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat row i `counts[i]` times: (row, 0 … counts[row] - 1)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def stamp(seconds: np.ndarray, there: np.ndarray | None = None) -> pl.Series:
    """Seconds since 1970 as date-times; null where not `there`."""
    known = np.isfinite(seconds) if there is None else there & np.isfinite(seconds)
    whole = np.where(known, seconds, 0).astype(np.int64)
    return present(whole * 1000, known).cast(pl.Datetime("ms"))


def day(seconds: np.ndarray, there: np.ndarray | None = None) -> pl.Series:
    """The dates of `stamp`."""
    return stamp(seconds, there).cast(pl.Date)


def stack(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Frames below each other; one without rows may not know the types of its columns."""
    every = list(frames)
    return pl.concat([frame for frame in every if len(frame)] or every[:1])


def present(values: np.ndarray, there: np.ndarray) -> pl.Series:
    """A series that is null where not `there`."""
    series = pl.Series("", values.tolist() if values.dtype == object else values, strict=False)
    return pl.select(pl.when(pl.Series(there)).then(series)).to_series()


def text(values: np.ndarray) -> pl.Series:
    """Strings of an object array."""
    return pl.Series("", values.tolist(), dtype=pl.String)


def long_tail(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` ranks below `size`, the chance of each about as 1 / (rank + 1)."""
    return np.minimum((size + 1) ** rng.random(count) - 1, size - 1).astype(np.int64)


def drug_code(name: str) -> int:
    """A number that stands for a drug everywhere."""
    return zlib.crc32(name.encode())
