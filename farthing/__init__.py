"""Farthing: every farthing accounted for. An LLM FinOps gateway, ledger and laboratory.

Those who only want the arithmetic import it from here; nothing is loaded before it is used, and nothing touches the
network: ``cost(usage, model) -> Charge``, ``receipt_lines(charge)``, ``verify(vectors)``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farthing.library import cost, receipt_lines, verify
    from farthing.tracking import track

__version__ = "0.1.0"
__all__ = ["__version__", "cost", "receipt_lines", "track", "verify"]


def __getattr__(name: str) -> Any:
    if name in ("cost", "receipt_lines", "verify"):
        # By name, because the root of the package stands above no layer: only who asks loads the price book.
        return getattr(import_module("farthing.library"), name)
    if name == "track":
        return import_module("farthing.tracking").track
    raise AttributeError(f"module 'farthing' has no attribute {name!r}")
