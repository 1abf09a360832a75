"""The synthetic hospital: a simulator that writes MIMIC-IV's files and keeps the true risks."""

from wardround.sources.hospital.generate import HospitalSummary, generate_hospital

__all__ = ["HospitalSummary", "generate_hospital"]
