"""How severity and conditions show in numbers: vital signs and laboratory values."""

from __future__ import annotations

import numpy as np

from wardround.sources.hospital.catalogue import VITALS, Catalogue
from wardround.sources.hospital.dictionaries import LABS

#: Mean, standard deviation, and shift a unit of severity of each vital sign.
SIGNS = {
    "temperature": (98.1, 0.8, 0.12),
    "heartrate": (84.0, 14.0, 6.4),
    "resprate": (17.4, 2.2, 1.25),
    "o2sat": (98.0, 1.5, -0.8),
    "sbp": (136.0, 20.0, -7.4),
    "dbp": (77.0, 12.0, -4.2),
}
#: Share of the spread that is a patient's own, from visit to visit the same.
BETWEEN = {
    "temperature": 0.6,
    "heartrate": 0.9,
    "resprate": 0.7,
    "o2sat": 0.7,
    "sbp": 0.92,
    "dbp": 0.92,
}
WITHIN = {name: float(np.sqrt(1 - share**2)) for name, share in BETWEEN.items()}
DECIMALS = {name: 1 if name == "temperature" else 0 for name in SIGNS}
#: Standard deviations by which any illness moves a laboratory value, a unit of severity.
SICK = {
    "lactate": 0.4,
    "wbc": 0.25,
    "bicarbonate": -0.25,
    "urea": 0.2,
    "creatinine": 0.1,
    "platelets": -0.1,
    "haemoglobin": -0.1,
    "albumin": -0.1,
}
BOUNDS = {
    "temperature": (91, 107),
    "heartrate": (25, 220),
    "resprate": (4, 60),
    "o2sat": (55, 100),
    "sbp": (45, 250),
    "dbp": (20, 150),
}


def shifts(
    catalogue: Catalogue,
    chronic: np.ndarray,
    acute: np.ndarray,
    severity: np.ndarray,
    field: str,
    names: list[str],
) -> np.ndarray:
    """Standard deviations by which conditions move values: (n, names).

    Acute conditions show with their severity (nothing at -1, in full at 0), chronic ones always.

    Args:
        chronic: (n, conditions) bool.
        acute: (n,) index of the acute condition.
        severity: (n,) at the time of the measurement.
        field: `labs` or `vitals`.
    """
    lasting = np.array([[getattr(c, field).get(n, 0.0) for n in names] for c in catalogue.chronic])
    passing = np.array([[getattr(c, field).get(n, 0.0) for n in names] for c in catalogue.acute])
    return chronic @ lasting + np.clip(severity + 1, 0, 3)[:, None] * passing[acute]


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
        values[name] = np.round(value, DECIMALS[name])
    return values


def draw_lab(
    rng: np.random.Generator, name: str, shift: np.ndarray, severity: np.ndarray
) -> np.ndarray:
    """Values of one laboratory item, rounded as reported."""
    lab = LABS[name]
    ill = SICK.get(name, 0.0) * severity
    value = lab.mean + lab.sd * (rng.normal(size=len(shift)) + shift + ill)
    if lab.skewed:
        value = np.exp(np.clip(value, -8, 12))
    return np.round(np.maximum(value, 0), lab.decimals)
