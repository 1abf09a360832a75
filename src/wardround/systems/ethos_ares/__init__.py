"""ETHOS and ARES (Renc et al., npj Digital Medicine 2024; GigaScience giaf107, 2025)."""

from wardround.systems.ethos_ares.system import EthosAres

system = EthosAres()

__all__ = ["EthosAres", "system"]
