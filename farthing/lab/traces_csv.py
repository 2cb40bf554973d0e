"""Rows of CSV as people have it: any usual separator, names in any case; a header that cannot do is said once."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import msgspec

from farthing.core.csv_text import separator_of
from farthing.lab.traces_cells import BadRow

_BOM: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
_BLANK: Final = _BOM + " \t\r\n"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a header must have to be of use."""

    needed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(field, its columns): one of the columns must be there."""
    mapped: tuple[str, ...] = ()
    """Columns that the user named: all must be there."""
    known: tuple[str, ...] = ()
    """Columns that mean something: none may be there twice."""


Rows = Iterator[tuple[int, dict[str, object] | BadRow]]


def csv_rows(lines: Iterable[str], wanted: Wanted | None = None) -> Rows:
    """(line number, cells by column) or what was wrong; nothing after a header that cannot do."""
    left = iter(lines)
    begun: list[str] = []
    for line in left:
        begun.append(line)
        if line.strip(_BLANK):
            break
    reader = csv.reader(chain(begun, left), strict=True, delimiter=separator_of(begun[-1]) if begun else ",")
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, BadRow(line=reader.line_num, reason=f"not CSV: {error}")
            continue
        if not any(cell.strip(_BLANK) for cell in cells):
            continue
        if header is None:
            header = _header(cells, wanted or Wanted())
            fault = _fault(header, wanted or Wanted())
            if fault:
                yield reader.line_num, BadRow(line=reader.line_num, reason=fault, content=",".join(cells)[:500])
                return
        elif len(cells) != len(header):
            reason = f"has {len(cells)} columns; the header has {len(header)}"
            yield reader.line_num, BadRow(line=reader.line_num, reason=reason, content=",".join(cells)[:500])
        else:
            yield reader.line_num, dict(zip(header, cells, strict=True))


def _header(cells: Sequence[str], wanted: Wanted) -> list[str]:
    """The columns' names; one that is known but for its case gets its usual name."""
    names = [cell.strip().lstrip(_BOM) for cell in cells]
    there = Counter(name.casefold() for name in names)
    usual = {name.casefold(): name for name in wanted.known if name not in names}
    return [usual.get(name.casefold(), name) if there[name.casefold()] == 1 else name for name in names]


def _fault(header: Sequence[str], wanted: Wanted) -> str:
    """Why no row under this header can be read; empty: they can."""
    faults = []
    lacking = [(field, columns) for field, columns in wanted.needed if not set(columns) & set(header)]
    if lacking:
        said = ", ".join(f"{field} ({' or '.join(columns) or 'not mapped'})" for field, columns in lacking)
        faults.append(f"has no column for {said}; say which it is with --map COLUMN={lacking[0][0]}")
    absent = [column for column in wanted.mapped if column not in header]
    if absent:
        faults.append(f"does not have the mapped {', '.join(repr(column) for column in absent)}")
    twice = [name for name, count in Counter(header).items() if count > 1 and name in wanted.known]
    if twice:
        faults.append(f"has {', '.join(repr(name) for name in twice)} more than once")
    return f"the header {' and '.join(faults)}. Its columns: {', '.join(header)[:300]}" if faults else ""
