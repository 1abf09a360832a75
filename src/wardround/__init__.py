"""wardround: published clinical machine-learning systems on one patient store."""

__version__ = "0.1.0"
