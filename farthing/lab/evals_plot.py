"""Accuracy over cost as one HTML page with its picture inside, and as a PNG without any drawing library."""

import html
import struct
import zlib
from collections.abc import Sequence
from math import log10

from farthing.lab.evals_table import Line

_WIDTH, _HEIGHT, _EDGE = 760, 460, 64
_INK, _BEST, _OTHER, _PAPER = (40, 40, 40), (20, 110, 60), (150, 150, 150), (255, 255, 255)


def page(lines: Sequence[Line], title: str) -> str:
    """The HTML page: picture and table; nothing is loaded from elsewhere."""
    rows = "".join(
        f"<tr><td>{html.escape(one.name)}</td><td>{one.accuracy:.1%} "
        f"[{one.accuracy_range[0]:.1%}, {one.accuracy_range[1]:.1%}]</td><td>{_usd(one.cost)}</td>"
        f"<td>{_usd(one.per_success)}</td><td>{html.escape(str(one.verdict or 'reference'))}</td></tr>"
        for one in lines
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        "<style>body{font:15px system-ui;margin:2em;max-width:60em}table{border-collapse:collapse}"
        "td,th{padding:.3em .8em;border-bottom:1px solid #ddd;text-align:left}</style>"
        f"<h1>{html.escape(title)}</h1>{svg(lines)}<table><tr><th>model</th><th>accuracy, 95 %</th>"
        f"<th>per request</th><th>per good answer</th><th>verdict</th></tr>{rows}</table></html>\n"
    )


def svg(lines: Sequence[Line]) -> str:
    """The picture: cost on a logarithmic axis, accuracy with its interval, the Pareto set joined."""
    placed = _placed(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'aria-label="accuracy over cost" font-family="system-ui" font-size="13">',
        f'<path d="M{_EDGE} {_EDGE / 2}V{_HEIGHT - _EDGE}H{_WIDTH - 16}" fill="none" stroke="#888"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 16}" text-anchor="middle">USD a request (logarithmic)</text>',
        f'<text x="16" y="{_EDGE / 2 - 10}">accuracy</text>',
    ]
    best = sorted((x, y) for line, x, y, _, _ in placed if line.pareto)
    if best:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in best)
        parts.append(f'<polyline points="{points}" fill="none" stroke="#146e3c" stroke-dasharray="4 3"/>')
    for line, x, y, top, bottom in placed:
        colour = "#146e3c" if line.pareto else "#777"
        parts.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}" stroke-opacity=".5"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        label = f"{line.name}: {line.accuracy:.1%} at {_usd(line.cost)}"
        end = ' text-anchor="end"' if x > _WIDTH * 0.7 else ""
        shift = -9 if end else 9
        parts.append(f'<text x="{x + shift:.1f}" y="{y - 7:.1f}"{end}>{html.escape(label)}</text>')
    return "".join([*parts, "</svg>"])


def png(lines: Sequence[Line]) -> bytes:
    """The same picture as pixels, without words: the order of the points is that of the table."""
    canvas = bytearray(bytes(_PAPER) * (_WIDTH * _HEIGHT))

    def dot(x: float, y: float, colour: tuple[int, int, int], reach: int) -> None:
        for row in range(int(y) - reach, int(y) + reach + 1):
            for column in range(int(x) - reach, int(x) + reach + 1):
                if 0 <= row < _HEIGHT and 0 <= column < _WIDTH:
                    spot = 3 * (row * _WIDTH + column)
                    canvas[spot : spot + 3] = bytes(colour)

    for column in range(_EDGE, _WIDTH - 16):
        dot(column, _HEIGHT - _EDGE, _INK, 0)
    for row in range(_EDGE // 2, _HEIGHT - _EDGE):
        dot(_EDGE, row, _INK, 0)
    for line, x, y, top, bottom in _placed(lines):
        colour = _BEST if line.pareto else _OTHER
        for row in range(int(top), int(bottom) + 1):
            dot(x, row, colour, 0)
        dot(x, y, colour, 4)
    raw = b"".join(b"\x00" + bytes(canvas[3 * _WIDTH * row : 3 * _WIDTH * (row + 1)]) for row in range(_HEIGHT))
    head = struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(raw, 9)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _placed(lines: Sequence[Line]) -> list[tuple[Line, float, float, float, float]]:
    """(line, x, y, top and bottom of its interval) for every priced line."""
    priced = [(line, log10(max(1.0, line.cost))) for line in lines if line.cost is not None]
    if not priced:
        return []
    low, high = min(cost for _, cost in priced), max(cost for _, cost in priced)
    floor = min(line.accuracy_range[0] for line, _ in priced)
    wide, tall = max(high - low, 0.1), max(1.0 - floor, 0.05)

    def height(share: float) -> float:
        return _HEIGHT - _EDGE - (share - floor) / tall * (_HEIGHT - 1.5 * _EDGE)

    return [
        (
            line,
            _EDGE + 24 + (cost - low) / wide * (_WIDTH - _EDGE - 80),
            height(line.accuracy),
            height(line.accuracy_range[1]),
            height(line.accuracy_range[0]),
        )
        for line, cost in priced
    ]


def _usd(nusd: float | None) -> str:
    return "unpriced" if nusd is None else f"${nusd / 1e9:.6f}"
