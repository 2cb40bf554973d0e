"""Packages that only the lab needs, asked for by name when they are missing."""

import importlib.util

from farthing.core.errors import BadRequest


def need(package: str, extra: str) -> None:
    """Raises :class:`BadRequest` that says how to install ``package``, unless it is there."""
    if importlib.util.find_spec(package) is None:
        raise BadRequest(f"This needs {package}.", hint=f"Install it: pip install 'farthing[{extra}]'.")
