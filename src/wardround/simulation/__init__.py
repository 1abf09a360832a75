"""Simulated futures of patients: sampling, estimators, stop rules."""

from wardround.simulation.engine import simulate
from wardround.simulation.futures import (
    HORIZON,
    MAX_TOKENS,
    STOPPED,
    Clock,
    Futures,
    Prefix,
    Stops,
    Window,
)

__all__ = [
    "HORIZON",
    "MAX_TOKENS",
    "STOPPED",
    "Clock",
    "Futures",
    "Prefix",
    "Stops",
    "Window",
    "simulate",
]
