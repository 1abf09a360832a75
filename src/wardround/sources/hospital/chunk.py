"""A chunk of the hospital, and the helpers that its writers share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from wardround.sources.hospital.catalogue import VITALS, Catalogue, Condition
from wardround.sources.hospital.codes import rare_chronic
from wardround.sources.hospital.course import severity_at
from wardround.sources.hospital.dictionaries import ICU_UNITS, WARD_DRUGS
from wardround.sources.hospital.encounters import (
    HOUR,
    SHARED_ADMISSION,
    Encounters,
    draw_encounters,
)
from wardround.sources.hospital.formulary import formulary
from wardround.sources.hospital.measure import BETWEEN, shifts
from wardround.sources.hospital.population import ICD10_FROM, YEAR, Patients, draw_patients

#: Patients simulated at a time, and the ids that each chunk may use up for its encounters.
CHUNK = 2_000
ENCOUNTERS = 40_000
#: Rare conditions a patient, on average.
RARE_EACH = 1.2
#: Where a ward has no beds of that name, patients lie here before and after the ICU.
WARD_OF = {
    "Cardiac Vascular Intensive Care Unit (CVICU)": "Cardiac Surgery",
    "Coronary Care Unit (CCU)": "Medicine/Cardiology",
    "Medical Intensive Care Unit (MICU)": "Medicine",
    "Trauma SICU (TSICU)": "Med/Surg/Trauma",
}


@dataclass(frozen=True)
class Chunk:
    """Patients, their encounters, and the ids that both go by. Arrays follow the encounters."""

    catalogue: Catalogue
    seed: int
    number: int
    patients: Patients
    encounters: Encounters

    @classmethod
    def draw(cls, catalogue: Catalogue, seed: int, number: int, count: int) -> Chunk:
        """Simulate chunk `number`; it depends on nothing but seed and number."""
        population, course = (generator(seed, number, of) for of in ("population", "encounters"))
        patients = draw_patients(population, catalogue, number * CHUNK, count)
        encounters = draw_encounters(course, catalogue, patients)
        if len(encounters) > ENCOUNTERS:
            raise RuntimeError(f"chunk {number} has more encounters than ids")
        return cls(catalogue, seed, number, patients, encounters)

    def __len__(self) -> int:
        return len(self.encounters)

    def rng(self, part: str) -> np.random.Generator:
        """A generator that `part`, a table by its name or a latent state, alone draws from.

        It starts anew at every call: what one part draws changes nothing in another.
        """
        return generator(self.seed, self.number, part)

    @cached_property
    def _kept(self) -> dict[str, pl.DataFrame]:
        return {}

    def once(self, table: str, make: Callable[[Chunk], pl.DataFrame]) -> pl.DataFrame:
        """A table that more than one writer needs, made when first asked for."""
        if table not in self._kept:
            self._kept[table] = make(self)
        return self._kept[table]

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

    def severity(self, row: np.ndarray, at: np.ndarray) -> np.ndarray:
        """How ill the patient of encounter `row` is at a time, in shifted seconds."""
        return severity_at(self.catalogue, self.encounters, row, at)

    def shifts(
        self, row: np.ndarray, severity: np.ndarray, field: str, names: list[str]
    ) -> np.ndarray:
        """(rows, names): what the conditions of the encounters do to labs or vitals."""
        e = self.encounters
        return shifts(self.catalogue, e.chronic[row], e.acute[row], severity, field, names)

    def vital_shifts(self, row: np.ndarray, severity: np.ndarray) -> np.ndarray:
        """(rows, 6): what conditions and the patient's set points do to the vital signs."""
        own = np.array([BETWEEN[name] for name in VITALS])
        set_point = self.patients.set_point[self.encounters.patient[row]]
        return self.shifts(row, severity, "vitals", list(VITALS)) + own * set_point

    @cached_property
    def ward(self) -> np.ndarray:
        units = [WARD_OF.get(a.unit, a.unit) for a in self.catalogue.acute]
        return np.array(units, dtype=object)[self.encounters.acute]

    @cached_property
    def icu_unit(self) -> np.ndarray:
        units = np.array([a.unit for a in self.catalogue.acute], dtype=object)
        wanted = units[self.encounters.acute]
        other = self.rng("ICU units").choice(np.array(ICU_UNITS[:3], dtype=object), len(self))
        return np.where(np.isin(wanted, ICU_UNITS), wanted, other)

    @cached_property
    def shared(self) -> np.ndarray:
        """Admitted visits with another ED stay before them on the same admission."""
        start, patient = self.encounters.start, self.encounters.patient
        alone = np.ones(len(self), bool)
        alone[1:] = (patient[1:] != patient[:-1]) | (
            start[1:] > self.encounters.end[:-1] + 5 * 24 * HOUR
        )
        chosen = self.rng("shared admissions").random(len(self)) < 2 * SHARED_ADMISSION
        return self.visit & self.encounters.admitted & alone & chosen

    @cached_property
    def rare_conditions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rare conditions that stay with a patient: patient, rank, and since when.

        Most patients have one or two; some acquire one while they are observed.
        """
        p, rng = self.patients, self.rng("rare conditions")
        owner, _ = spread(rng.poisson(RARE_EACH, len(p)))
        rank = long_tail(rng, len(rare_chronic()[0]), len(owner))
        since = rng.uniform(p.first[owner] - 8 * YEAR, p.last[owner])
        return owner, rank, since + p.shift[owner]

    def products(self, row: np.ndarray, names: np.ndarray) -> pl.DataFrame:
        """The product of each drug that the patient of an encounter gets: the same every time."""
        book = formulary()
        habit = self.rng("products").random(len(self.patients))[self.encounters.patient[row]]
        drug = book.index(names)
        place = ((habit + 0.618 * drug) % 1 * book.count[drug]).astype(np.int64)
        return book.products[book.first[drug] + place]

    @cached_property
    def rare_drugs(self) -> np.ndarray:
        """The formulary behind the catalogue's drugs, the most frequent first."""
        catalogue = self.catalogue
        common = {drug for c in [*catalogue.chronic, *catalogue.acute] for drug in c.drugs}
        return formulary().tail([*common, *WARD_DRUGS])

    def conditions(self, field: str, *, acute: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """All values of a catalogue field that apply: (encounter, value) of equal length."""
        lists = Ragged([getattr(c, field) for c in self.catalogue.chronic])
        row, condition = np.nonzero(self.encounters.chronic)
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
        self,
        row: np.ndarray,
        conditions: Sequence[Condition],
        which: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """One ICD code for each (encounter, condition), in the version of the encounter's day."""
        nine = Ragged([c.icd9 for c in conditions]).pick(which, rng)
        ten = Ragged([c.icd10 for c in conditions]).pick(which, rng)
        return np.where(self.icd_version[row] == 9, nine, ten)


def generator(seed: int, number: int, part: str) -> np.random.Generator:
    """The source of randomness of one part of chunk `number`."""
    return np.random.default_rng((seed, number, zlib.crc32(part.encode())))


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
