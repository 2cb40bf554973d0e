"""Farthing: every farthing accounted for. An LLM FinOps gateway, ledger and laboratory."""

__version__ = "0.1.0"
