"""What only the simulator knows: true risks, latent states, labels of planted edge cases."""

from __future__ import annotations

import numpy as np
import polars as pl

from wardround.sources.hospital.chunk import Chunk, stamp, text
from wardround.sources.hospital.ed import earlier_stays
from wardround.sources.hospital.encounters import HOUR
from wardround.sources.hospital.population import DAY


def visit_risks(chunk: Chunk) -> pl.DataFrame:
    """One row an ED visit: the probabilities its outcomes were drawn from, and the outcomes.

    `risk_return` is null where nobody could return (admitted, dead) and for visits that are
    themselves a drawn return.
    """
    e = chunk.encounters
    visit = np.flatnonzero(chunk.visit)
    risk_return = np.where(e.is_return, np.nan, e.p_return)
    names = np.array([a.name for a in chunk.catalogue.acute], dtype=object)
    return pl.DataFrame(
        {
            "subject_id": chunk.subject_id[visit],
            "stay_id": chunk.ed_stay_id[visit],
            "condition": text(names[e.acute[visit]]),
            "severity": e.severity[visit],
            "frailty": chunk.patients.frailty[e.patient[visit]],
            "risk_hospitalisation": e.p_hospital[visit],
            "risk_critical": e.p_critical[visit],
            "risk_return": risk_return[visit],
            "hospitalised": e.admitted[visit],
            "critical": e.critical[visit],
            "returned": _returned(chunk)[visit],
        }
    ).with_columns(pl.col("risk_return").fill_nan(None))


def patient_states(chunk: Chunk) -> pl.DataFrame:
    """One row a patient: when each chronic condition began (null: never), and what no record shows.

    An onset before `observed_from` is a condition that the patient came with. All times are in the
    patient's shifted calendar.
    """
    p = chunk.patients
    start, end = p.first + p.shift, p.last + p.shift
    onset = {
        condition.name: stamp(p.onset[:, number], p.onset[:, number] < chunk.death)
        for number, condition in enumerate(chunk.catalogue.chronic)
    }
    own = {"subject_id": p.subject_id, "frailty": p.frailty}
    return pl.DataFrame(own | {"observed_from": stamp(start), "observed_to": stamp(end)} | onset)


def edge_cases(chunk: Chunk) -> pl.DataFrame:
    """Visits where rules of labels part ways: `case`, and what truly happened.

    `case`: `shared_admission` (the earlier of two ED stays of one admission), `same_day_death`
    (dies at home on the day of discharge; every ED stay of the admission), `died_in_ed`,
    `longer_than_a_day`, `icu_before_leaving` (the ICU admits before the ED writes off), `late_icu`
    (more than 12 hours after leaving).
    """
    e = chunk.encounters
    in_hours = np.where(chunk.in_icu, (e.icu_in - e.leave) / HOUR, np.nan)
    day_of_end = np.floor(e.end / DAY)
    known = np.isfinite(e.death)
    died_home = known & ~e.died & ~e.died_in_ed
    cases = {
        "same_day_death": e.admitted & died_home & (np.floor(e.death / DAY) == day_of_end),
        "died_in_ed": e.died_in_ed,
        "longer_than_a_day": (e.leave - e.start) > DAY,
        "icu_before_leaving": in_hours < 0,
        "late_icu": in_hours > 12,
    }
    earlier, stay, start, end = earlier_stays(chunk)
    soon = chunk.in_icu[earlier] & (e.icu_in[earlier] <= end + 12 * HOUR)
    critical = e.died[earlier] | soon
    pieces = [_case(chunk, "shared_admission", earlier, stay, start, critical)]
    for name, found in cases.items():
        row = np.flatnonzero(found & chunk.visit)
        pieces.append(_case(chunk, name, row, chunk.ed_stay_id[row], e.start[row], e.critical[row]))
    both = cases["same_day_death"][earlier]
    pieces.append(
        _case(chunk, "same_day_death", earlier[both], stay[both], start[both], critical[both])
    )
    return pl.concat(pieces).sort("subject_id", "intime", "case")


def _case(
    chunk: Chunk,
    name: str,
    row: np.ndarray,
    stay: np.ndarray,
    start: np.ndarray,
    critical: np.ndarray,
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "subject_id": chunk.subject_id[row],
            "stay_id": stay,
            "intime": stamp(start),
            "case": pl.Series("", [name] * len(row), dtype=pl.String),
            "hospitalised": chunk.encounters.admitted[row],
            "critical": critical,
        }
    )


def _returned(chunk: Chunk) -> np.ndarray:
    """Sent home, and back in the ED within 72 hours."""
    e = chunk.encounters
    visits = np.flatnonzero(chunk.visit)
    following = np.full(len(e), np.inf)
    # An earlier stay of a shared admission is the first the patient comes to.
    begins = e.start - np.where(chunk.shared, 6 * HOUR, 0)
    same = e.patient[visits[1:]] == e.patient[visits[:-1]]
    following[visits[:-1][same]] = begins[visits[1:][same]]
    home = chunk.visit & ~e.admitted & ~e.died_in_ed
    return home & (following - e.leave <= 72 * HOUR)
