"""Tables as Plotly figures: shapes and numbers only, floats for drawing; colours are the style sheet's."""

import re
from collections.abc import Sequence

from farthing.insight.table import Row, Table, Value
from farthing.server.pages.blocks import Figure

_NUSD = 10**9
_HOUR = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d)$")
_DAY = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:00)?")


def stacked(table: Table) -> Figure:
    """Time along the bottom (the first column), every other column one colour of a stack."""
    times = [_HOUR.sub(r"\1:00", str(row[0])) for row in table.rows]
    traces = [
        {
            "type": "bar",
            "name": column.title,
            "x": times,
            # what has no known price is drawn as nothing
            "y": [None if row[place] is None else _usd(row[place]) for row in table.rows],
            "hovertemplate": "%{x}<br>%{fullData.name}: $%{y:,.4~f}<extra></extra>",
        }
        for place, column in enumerate(table.columns)
        if place
    ]
    dated = bool(times) and all(_DAY.fullmatch(time) for time in times)
    axis = {"type": "date"} if dated else {"type": "category", "nticks": 12}
    layout = {"barmode": "stack", "xaxis": axis, "showlegend": len(traces) > 1}
    return {"data": traces, "layout": layout | {"yaxis": {"tickprefix": "$"}}}


def ranked(table: Table, label: str, amount: str, most: int = 12) -> Figure:
    """The first rows as lying bars, largest on top."""
    names = [column.name for column in table.columns]
    rows = list(reversed(table.rows[:most]))
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [str(row[names.index(label)]) for row in rows],
        "x": [_usd(row[names.index(amount)]) for row in rows],
        "hovertemplate": "%{y}: $%{x:,.4~f}<extra></extra>",
    }
    axis = {"type": "category", "automargin": True}
    return {"data": [trace], "layout": {"xaxis": {"tickprefix": "$"}, "yaxis": axis, "showlegend": False}}


def steps(table: Table, label: str, amount: str, *, saving: bool = False) -> Figure:
    """A waterfall of the rows, with the total at its end; ``saving``: more is better."""
    names = [column.name for column in table.columns]
    rows = table.rows
    trace = {
        "type": "waterfall",
        "meta": "saving" if saving else "cost",
        "x": [*(str(row[names.index(label)]) for row in rows), "together"],
        "y": [*(_usd(row[names.index(amount)]) for row in rows), 0],
        "measure": [*("relative" for _ in rows), "total"],
        "hovertemplate": "%{x}: $%{delta:,.4~f}<extra></extra>",
    }
    # Not a prefix: falls stand below zero, and theirs would read "$−0.1".
    layout = {"yaxis": {"tickformat": "$,~f"}, "xaxis": {"type": "category"}, "showlegend": False}
    return {"data": [trace], "layout": layout}


def running(rows: tuple[Row, ...], ahead: list[tuple[str, float, float | None, float | None]]) -> Figure:
    """A month: what is booked as a line, what is expected as a dashed one in its band. ``rows``: (day, _, so far)."""
    booked: dict[str, object] = {
        "type": "scatter",
        "mode": "lines",
        "name": "booked",
        "x": [str(row[0]) for row in rows],
        "y": [_usd(row[2]) for row in rows],
        "hovertemplate": "%{x}: $%{y:,.4~f} so far<extra></extra>",
    }
    traces = [booked]
    if ahead:
        days = [day for day, *_ in ahead]
        if ahead[-1][2] is not None:
            low = {"x": days, "y": [one[2] for one in ahead], "name": "band", "showlegend": False}
            high = {"x": days, "y": [one[3] for one in ahead], "name": "80 % band", "fill": "tonexty"}
            traces += [_edge(low), _edge(high)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "expected",
                "x": days,
                "y": [one[1] for one in ahead],
                "line": {"dash": "dot"},
                "hovertemplate": "%{x}: $%{y:,.4~f} expected<extra></extra>",
            }
        )
    layout = {"yaxis": {"tickprefix": "$", "rangemode": "tozero"}, "xaxis": {"type": "date"}, "showlegend": True}
    return {"data": traces, "layout": layout}


def _edge(trace: dict[str, object]) -> dict[str, object]:
    return {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "meta": "band", **trace}


def _usd(value: Value) -> float:
    return value / _NUSD if isinstance(value, int) else 0.0


def bars(table: Table, label: str, amount: str) -> Figure:
    """One bar a row, in the table's order."""
    names = [column.name for column in table.columns]
    trace = {
        "type": "bar",
        "x": [str(row[names.index(label)]) for row in table.rows],
        "y": [_usd(row[names.index(amount)]) for row in table.rows],
        "hovertemplate": "%{x}: $%{y:,.4~f}<extra></extra>",
    }
    axis = {"type": "category", "nticks": 12}
    return {"data": [trace], "layout": {"yaxis": {"tickprefix": "$"}, "xaxis": axis, "showlegend": False}}


def intervals(table: Table, label: str, amount: str, low: str, high: str, most: int = 12) -> Figure:
    """The first rows that are known as lying bars with their intervals, largest cost on top."""
    names = [column.name for column in table.columns]
    at, lows, highs = (names.index(name) for name in (amount, low, high))
    rows = [row for row in table.rows if isinstance(row[at], int)][:most]
    rows.reverse()
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [str(row[names.index(label)]) for row in rows],
        "x": [_usd(row[at]) for row in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_usd(row[highs]) - _usd(row[at]) if isinstance(row[highs], int) else 0 for row in rows],
            "arrayminus": [_usd(row[at]) - _usd(row[lows]) if isinstance(row[lows], int) else 0 for row in rows],
        },
        "hovertemplate": "%{y}: $%{x:,.4~f}<extra></extra>",
    }
    axis = {"type": "category", "automargin": True}
    return {"data": [trace], "layout": {"xaxis": {"tickprefix": "$"}, "yaxis": axis, "showlegend": False}}


def waterfall(rows: Sequence[tuple[str, int, int, bool]]) -> Figure:
    """Calls along one line of time: (name, began, took, went well), milliseconds, the first on top."""
    ordered = list(reversed(rows))
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [label for label, _, _, _ in ordered],
            "base": [began / 1000 for _, began, _, _ in ordered],
            "x": [took / 1000 if well == wanted else 0 for _, _, took, well in ordered],
            "hovertemplate": "%{y}: %{x:,.3f} s from %{base:,.3f} s<extra></extra>",
        }
        for name, wanted in (("answered", True), ("failed", False))
    ]
    axis = {"type": "category", "automargin": True}
    layout = {"barmode": "overlay", "xaxis": {"ticksuffix": " s"}, "yaxis": axis, "showlegend": True}
    return {
        "data": [
            one for one, wanted in zip(traces, (True, False), strict=True) if any(row[3] == wanted for row in rows)
        ],
        "layout": layout,
    }


def lines(table: Table, along: str, amounts: tuple[str, ...]) -> Figure:
    """Amounts over a count, both on logarithmic axes."""
    names = [column.name for column in table.columns]
    titles = {column.name: column.title for column in table.columns}
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "meta": "series",
            "name": titles[amount],
            "x": [row[names.index(along)] for row in table.rows],
            "y": [_usd(row[names.index(amount)]) for row in table.rows],
            "hovertemplate": "%{x:,}: $%{y:,.4~f}<extra>%{fullData.name}</extra>",
        }
        for amount in amounts
    ]
    layout = {
        "xaxis": {"type": "log", "dtick": 1, "ticksuffix": f" {titles[along]}", "showticksuffix": "last"},
        "yaxis": {"type": "log", "dtick": 1, "tickprefix": "$"},
        "showlegend": True,
    }
    return {"data": traces, "layout": layout}
