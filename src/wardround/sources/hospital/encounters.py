"""What happens to the patients: visits, admissions, critical illness, returns and deaths.

Outcomes are drawn from probabilities that are kept: they are the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from wardround.sources.hospital.catalogue import Catalogue
from wardround.sources.hospital.population import DAY, YEAR, Patients, sigmoid, year_of

HOUR = 3600
#: Visits that share an admission with the visit before them, as MIMIC-IV-ED has some.
SHARED_ADMISSION = 0.006
SAME_DAY_DEATH = 0.006
#: Share of visits for what this patient usually comes for.
USUAL = 0.5


@dataclass
class Encounters:
    """One entry an encounter, in the order of (patient, start). Times are shifted seconds.

    Attributes:
        patient: index of the patient in the chunk.
        elective: planned admission, without an ED visit.
        acute: index of the acute condition.
        chronic: (n, conditions) bool; what the patient has at the start.
        severity: latent severity; about standard normal plus the condition's.
        pace: how fast the patient recovers, relative to the condition's rate.
        start, leave: of the ED visit (elective: of the way in).
        admitted, critical: drawn outcomes.
        admit, discharge: of the hospital stay; 0 without one.
        icu_in, icu_out: of the ICU stay; 0 without one.
        died: in hospital; `died_in_ed`: before any admission.
        death: time of death that this encounter leads to, inside or after it; inf for none.
        returns: the patient, sent home, comes back within 72 hours (planted).
        is_return: this visit is such a return.
        p_hospital, p_critical, p_return: the oracle's risks; NaN where none applies.
    """

    patient: np.ndarray
    elective: np.ndarray
    acute: np.ndarray
    chronic: np.ndarray
    severity: np.ndarray
    pace: np.ndarray
    start: np.ndarray
    leave: np.ndarray
    admitted: np.ndarray
    critical: np.ndarray
    admit: np.ndarray
    discharge: np.ndarray
    icu_in: np.ndarray
    icu_out: np.ndarray
    died: np.ndarray
    died_in_ed: np.ndarray
    death: np.ndarray
    returns: np.ndarray
    is_return: np.ndarray
    p_hospital: np.ndarray
    p_critical: np.ndarray
    p_return: np.ndarray

    def __len__(self) -> int:
        return len(self.patient)

    def take(self, rows: np.ndarray) -> Encounters:
        """The encounters of a mask or in an order."""
        return Encounters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def end(self) -> np.ndarray:
        """When the patient left for good: discharge, or departure from the ED."""
        return np.where(self.admitted, self.discharge, self.leave)

    @classmethod
    def concat(cls, first: Encounters, second: Encounters) -> Encounters:
        """Both, in the order of (patient, start)."""
        both = cls(
            **{
                f.name: np.concatenate([getattr(first, f.name), getattr(second, f.name)])
                for f in fields(cls)
            }
        )
        return both.take(np.lexsort((both.start, both.patient)))


def draw_encounters(
    rng: np.random.Generator, catalogue: Catalogue, patients: Patients
) -> Encounters:
    """Simulate every patient's encounters."""
    patient, start, elective = _arrivals(rng, catalogue, patients)
    base = _course(rng, catalogue, patients, patient, start, elective)
    back = _returns(rng, patients, base)
    again = _course(
        rng,
        catalogue,
        patients,
        base.patient[back],
        base.leave[back] + rng.uniform(3 * HOUR, 70 * HOUR, back.sum()),
        np.zeros(back.sum(), bool),
        acute=base.acute[back],
    )
    again.is_return[:] = True
    everything = Encounters.concat(base, again)
    return _until_death(_without_overlap(everything))


def _arrivals(
    rng: np.random.Generator, catalogue: Catalogue, patients: Patients
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = len(patients)
    years = (patients.last - patients.first) / YEAR
    everyone, end = np.arange(count), patients.last + patients.shift
    sickest = _rates(catalogue, patients.has(everyone, end))
    calls = np.log(sickest[0]) + patients.attendance
    visitor = rng.random(count) < sigmoid(0.1 + 0.5 * calls)
    visits = np.where(visitor, np.minimum(1 + rng.poisson(0.58 * np.exp(calls) * years), 45), 0)
    planned = rng.poisson(0.1 * years * sickest[1])
    planned = np.where(visits + planned == 0, 1, planned)
    patient = np.concatenate(
        [np.repeat(np.arange(count), visits), np.repeat(np.arange(count), planned)]
    )
    elective = np.arange(len(patient)) >= visits.sum()
    span = (patients.last - patients.first)[patient]
    start = patients.first[patient] + rng.random(len(patient)) * span + patients.shift[patient]
    order = np.lexsort((start, patient))
    patient, start, elective = patient[order], start[order], elective[order]
    # Drawn as for the patient's last day: before a condition has begun, fewer of them happen.
    now = _rates(catalogue, patients.has(patient, start))
    share = np.where(elective, now[1] / sickest[1][patient], now[0] / sickest[0][patient])
    # Days apart, so that a return within 72 hours is a planted one.
    same = patient[1:] == patient[:-1]
    kept = np.ones(len(patient), bool)
    kept[1:] = ~same | (rng.random(len(same)) < share[1:]) & (np.diff(start) >= 6 * DAY)
    return patient[kept], start[kept], elective[kept]


def _rates(catalogue: Catalogue, chronic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative rates of visits and of planned admissions, given (n, conditions) bool."""
    burden = chronic @ np.array([c.hospital for c in catalogue.chronic])
    attender = chronic @ np.array([c.attender for c in catalogue.chronic])
    return np.exp(attender + 0.2 * burden), 1 + 0.5 * np.maximum(burden, 0)


def _course(
    rng: np.random.Generator,
    catalogue: Catalogue,
    patients: Patients,
    patient: np.ndarray,
    start: np.ndarray,
    elective: np.ndarray,
    acute: np.ndarray | None = None,
) -> Encounters:
    """What each encounter comes to."""
    count = len(patient)
    start = np.floor(start)
    chronic = patients.has(patient, start)
    if acute is None:
        acute = _presenting(rng, catalogue, patient, chronic, elective)
    shift = np.array([a.severity for a in catalogue.acute])
    severity = rng.normal(0, 0.82, count) + shift[acute]
    age = year_of(start) - patients.birth_year[patient]
    burden = chronic @ np.array([c.hospital for c in catalogue.chronic])
    danger = chronic @ np.array([c.critical for c in catalogue.chronic])
    frail = patients.frailty[patient]
    # The old decompensate at a severity that the young bear.
    weight = np.clip(1.6 + 0.015 * (age - 60), 0.4, 2.4)
    p_critical = sigmoid(-4.9 + weight * severity + 0.8 * danger + 0.015 * (age - 60))
    p_admit = sigmoid(-1.75 + 0.75 * severity + 0.8 * burden + 0.022 * (age - 55) + 2.9 * frail)
    critical = (rng.random(count) < p_critical) & ~elective
    in_ed = critical & (rng.random(count) < 0.02)
    admitted = (critical & ~in_ed) | (rng.random(count) < p_admit) & ~critical | elective
    leave = start + _visit_length(rng, catalogue, acute, severity)
    leave = np.where(elective, start, leave)
    admit = np.where(elective, start, leave - rng.uniform(0, 1.5 * HOUR, count))
    admit = np.floor(np.maximum(admit, start + 60))
    days = np.exp(rng.normal(0.95, 0.75, count) + 0.18 * np.clip(severity, -2, 3))
    discharge = np.floor(np.maximum(admit + days * DAY, leave + 2 * HOUR))
    early_icu = critical & ~in_ed & (rng.random(count) < 0.88)
    died = critical & ~in_ed & (~early_icu | (rng.random(count) < 0.22))
    late_icu = admitted & ~critical & (rng.random(count) < np.where(elective, 0.1, 0.025))
    # Critical patients reach the ICU within 12 hours of leaving the ED; some are there before
    # the ED has written them off.
    early = np.maximum(leave + rng.uniform(-0.3, 9, count) * HOUR, admit + 60)
    late = np.maximum(leave, admit) + rng.uniform(14, 40, count) * HOUR
    icu_in = np.floor(np.where(early_icu, early, late))
    icu = early_icu | late_icu
    stay = np.exp(rng.normal(0.6, 0.7, count)) * DAY
    discharge = np.where(icu, np.maximum(discharge, icu_in + stay + 5 * HOUR), discharge)
    icu_out = np.floor(np.where(died, discharge, icu_in + stay))
    after = rng.exponential(1, count) * YEAR * 40 * np.exp(-0.45 * burden - 0.035 * (age - 55))
    same_day = admitted & ~critical & (rng.random(count) < SAME_DAY_DEATH)
    end = np.floor(np.where(admitted, discharge, leave))
    death = np.where(died | in_ed, end, end + np.maximum(after, DAY))
    death = np.where(same_day, end + 1, death)  # written as a date: the day of discharge
    nothing = np.zeros(count)
    return Encounters(
        patient=patient,
        elective=elective,
        acute=acute,
        chronic=chronic,
        severity=severity,
        pace=np.exp(rng.normal(0, catalogue.course.spread, count)),
        start=start,
        leave=np.floor(leave),
        admitted=admitted,
        critical=critical,
        admit=np.where(admitted, admit, 0),
        discharge=np.where(admitted, np.floor(discharge), 0),
        icu_in=np.where(icu, icu_in, 0),
        icu_out=np.where(icu, np.floor(icu_out), 0),
        died=died,
        died_in_ed=in_ed,
        death=death,
        returns=np.zeros(count, bool),
        is_return=np.zeros(count, bool),
        p_hospital=np.where(elective, np.nan, 0.98 * p_critical + (1 - p_critical) * p_admit),
        p_critical=np.where(elective, np.nan, p_critical),
        p_return=nothing.copy(),
    )


def _presenting(
    rng: np.random.Generator,
    catalogue: Catalogue,
    patient: np.ndarray,
    chronic: np.ndarray,
    elective: np.ndarray,
) -> np.ndarray:
    """Draw the acute condition of each encounter; chronic ones make some likelier.

    Patients come with what they came with before more often than chance alone would have it.
    """
    names = [c.name for c in catalogue.chronic]
    any_planned = any(c.elective for c in catalogue.acute)
    weights = np.empty((len(chronic), len(catalogue.acute)))
    for number, condition in enumerate(catalogue.acute):
        risk = np.zeros(len(chronic))
        for other, odds in condition.risk.items():
            risk += odds * chronic[:, names.index(other)]
        planned = condition.elective if any_planned else condition.weight
        weights[:, number] = np.where(elective, planned, condition.weight) * np.exp(risk)
    reach = np.cumsum(weights, axis=1)
    usual = rng.random(len(patient))[patient]  # there are no more patients than encounters
    place = np.where(rng.random(len(patient)) < USUAL, usual, rng.random(len(patient)))
    return (reach < (place * reach[:, -1])[:, None]).sum(axis=1)


def _visit_length(
    rng: np.random.Generator, catalogue: Catalogue, acute: np.ndarray, severity: np.ndarray
) -> np.ndarray:
    """Seconds in the ED: some hours, and more than a day for some who wait for a bed."""
    count = len(acute)
    hours = np.exp(rng.normal(1.65, 0.45, count) + 0.06 * np.clip(severity, -2, 2))
    waits = np.array([a.unit == "Psychiatry" for a in catalogue.acute])[acute]
    boards = rng.random(count) < np.where(waits, 0.3, 0.015)
    # Never so long that an encounter days later could come before a return within 72 hours.
    longer = np.minimum(24 + rng.exponential(12, count), 70)
    return np.where(boards, longer, np.minimum(hours, 23)) * HOUR


def _returns(rng: np.random.Generator, patients: Patients, base: Encounters) -> np.ndarray:
    """Draw who comes back within 72 hours, by the number of visits in the year before."""
    visit = ~base.elective
    earlier = visits_before(base.patient, base.start, visit, 365 * DAY)
    p_return = sigmoid(-4.3 + 1.25 * np.log1p(earlier) + 0.15 * (base.severity < -0.5))
    at_risk = visit & ~base.admitted & ~base.died_in_ed
    base.p_return[:] = np.where(at_risk, p_return, np.nan)
    base.returns[:] = at_risk & (rng.random(len(base)) < p_return)
    return base.returns.copy()


def visits_before(
    patient: np.ndarray, start: np.ndarray, counted: np.ndarray, window: float
) -> np.ndarray:
    """How many counted encounters of the same patient began within `window` seconds before."""
    key = patient * 1e11 + start  # patients far apart on one axis
    among = key[counted]
    return np.searchsorted(among, key) - np.searchsorted(among, key - window)


def _without_overlap(encounters: Encounters) -> Encounters:
    """Drop what would begin while an earlier encounter goes on."""
    key = encounters.patient * 1e11
    reached = np.maximum.accumulate(key + encounters.end)
    overlaps = np.zeros(len(encounters), bool)
    overlaps[1:] = key[1:] + encounters.start[1:] < reached[:-1] + HOUR
    kept = encounters.take(~overlaps)
    # Without the visit before it, a return is none.
    orphan = kept.is_return.copy()
    orphan[1:] &= (kept.patient[1:] != kept.patient[:-1]) | ~kept.returns[:-1]
    kept = kept.take(~orphan)
    # A return that was dropped did not happen.
    follows = np.zeros(len(kept), bool)
    follows[:-1] = (kept.patient[1:] == kept.patient[:-1]) & kept.is_return[1:]
    kept.returns &= follows
    return kept


def _until_death(encounters: Encounters) -> Encounters:
    """Let the first death that comes before the next encounter end the patient's record."""
    following = np.full(len(encounters), np.inf)
    same = encounters.patient[1:] == encounters.patient[:-1]
    following[:-1][same] = encounters.start[1:][same]
    # A patient who is about to return does not die at home first.
    comes_true = encounters.died | encounters.died_in_ed | (encounters.death < following)
    comes_true &= ~encounters.returns
    encounters.death[~comes_true] = np.inf
    deaths = np.concatenate([[0], np.cumsum(comes_true)[:-1]])
    first = np.concatenate([[True], ~same])
    before = deaths - np.maximum.accumulate(np.where(first, deaths, 0))
    return encounters.take(before == 0)
