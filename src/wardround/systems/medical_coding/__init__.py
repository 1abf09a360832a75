"""Automated medical coding under one protocol (Edin et al., SIGIR 2023)."""

from wardround.systems.medical_coding.system import MedicalCoding

system = MedicalCoding()

__all__ = ["MedicalCoding", "system"]
