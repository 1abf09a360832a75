"""ED triage benchmark on MIMIC-IV-ED (Xie et al., Scientific Data 9:658, 2022)."""

from wardround.systems.ed_triage.system import EdTriage

system = EdTriage()

__all__ = ["EdTriage", "system"]
