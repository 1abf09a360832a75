"""How severity and conditions show in numbers: vital signs and laboratory values."""

from __future__ import annotations

import numpy as np

from wardround.sources.hospital.catalogue import VITALS, Catalogue
from wardround.sources.hospital.dictionaries import LABS
from wardround.sources.hospital.encounters import Encounters
from wardround.sources.hospital.population import Patients

#: Mean, standard deviation, and shift a unit of severity of each vital sign.
SIGNS = {
    "temperature": (98.1, 0.8, 0.12),
    "heartrate": (84.0, 14.0, 5.5),
    "resprate": (17.4, 2.2, 1.1),
    "o2sat": (98.0, 1.5, -0.75),
    "sbp": (136.0, 20.0, -6.0),
    "dbp": (77.0, 12.0, -3.5),
}
#: Share of the spread that is a patient's own, from visit to visit the same.
BETWEEN = {
    "temperature": 0.2,
    "heartrate": 0.75,
    "resprate": 0.4,
    "o2sat": 0.4,
    "sbp": 0.85,
    "dbp": 0.85,
}
WITHIN = {name: float(np.sqrt(1 - share**2)) for name, share in BETWEEN.items()}
BOUNDS = {
    "temperature": (91, 107),
    "heartrate": (25, 220),
    "resprate": (4, 60),
    "o2sat": (55, 100),
    "sbp": (45, 250),
    "dbp": (20, 150),
}


def shifts(
    catalogue: Catalogue, patients: Patients, encounters: Encounters, field: str, names: list[str]
) -> np.ndarray:
    """Standard deviations by which an encounter's values are moved, (encounters, names).

    Acute conditions show with their severity (nothing at -1, in full at 0), chronic ones always.
    """
    chronic = np.array([[getattr(c, field).get(n, 0.0) for n in names] for c in catalogue.chronic])
    acute = np.array([[getattr(c, field).get(n, 0.0) for n in names] for c in catalogue.acute])
    weight = np.clip(encounters.severity + 1, 0, 3)[:, None]
    return patients.chronic[encounters.patient] @ chronic + weight * acute[encounters.acute]


def draw_vitals(
    rng: np.random.Generator, shift: np.ndarray, severity: np.ndarray, recovery: float = 1.0
) -> dict[str, np.ndarray]:
    """One round of vital signs (temperature in Fahrenheit).

    Args:
        shift: (n, 6) for `VITALS`, in standard deviations: conditions and set points.
        severity: (n,).
        recovery: 1 at triage; less once treated.
    """
    values = {}
    for number, name in enumerate(VITALS):
        mean, sd, slope = SIGNS[name]
        value = mean + recovery * (slope * severity + sd * shift[:, number])
        value = value + sd * WITHIN[name] * rng.normal(size=len(severity))
        value = np.clip(value, *BOUNDS[name])
        values[name] = np.round(value, 1 if name == "temperature" else 0)
    return values


def draw_lab(
    rng: np.random.Generator, name: str, shift: np.ndarray, severity: np.ndarray
) -> np.ndarray:
    """Values of one laboratory item, rounded as reported."""
    lab = LABS[name]
    sick = {"lactate": 0.35, "wbc": 0.15, "bicarbonate": -0.2, "urea": 0.15}.get(name, 0.0)
    value = lab.mean + lab.sd * (rng.normal(size=len(shift)) + shift + sick * severity)
    if lab.skewed:
        value = np.exp(np.clip(value, -8, 12))
    return np.round(np.maximum(value, 0), lab.decimals)
