"""How ill a patient is from hour to hour: the path that severity takes within an encounter."""

from __future__ import annotations

import numpy as np

from wardround.sources.hospital.catalogue import Catalogue
from wardround.sources.hospital.encounters import HOUR, Encounters
from wardround.sources.hospital.population import DAY


def severity_at(
    catalogue: Catalogue, encounters: Encounters, row: np.ndarray, at: np.ndarray
) -> np.ndarray:
    """Latent severity of encounters `row` at the times `at` (shifted seconds).

    It stays what it was at the start until the course turns: with the admission, for most; with the
    transfer, for whom the ICU takes late; never, for the dying. The latter two get worse in the
    hours before, but not while still in the ED. From the turn it falls exponentially to `recovered`
    at the rate of the acute condition, by the patient's pace.
    """
    course, e = catalogue.course, encounters
    late = (e.icu_in > 0) & ~e.critical
    dies = e.died | e.died_in_ed
    turn = np.where(dies, e.end, np.where(late, e.icu_in, np.where(e.admitted, e.admit, e.leave)))
    hours = np.where(dies, course.death_hours, course.icu_hours)
    begin = np.maximum(turn - hours * HOUR, np.minimum(e.leave, turn - 1))
    rise = np.where(dies, course.death_rise, np.where(late, course.icu_rise, 0.0))
    rate = np.where(dies, 0, e.pace * np.array([a.recovery for a in catalogue.acute])[e.acute])
    risen = np.clip((at - begin[row]) / (turn - begin)[row], 0, 1)
    peak = e.severity[row] + rise[row] * risen
    rest = np.minimum(course.recovered, peak)
    return rest + (peak - rest) * np.exp(-rate[row] * np.maximum(at - turn[row], 0) / DAY)
