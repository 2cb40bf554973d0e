"""What separates the cells of a CSV file, told from its header: spreadsheets of half the world write semicolons."""

from typing import Final

_SEPARATORS: Final = ";\t|"
"""What stands between cells where the header has no comma."""


def separator_of(header: str) -> str:
    """The separator of a file with this first line; a comma where nothing tells."""
    if "," in header:
        return ","
    return max(_SEPARATORS, key=header.count) if any(mark in header for mark in _SEPARATORS) else ","
