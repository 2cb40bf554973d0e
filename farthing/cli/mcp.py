"""``farthing mcp``: an agent asks what it costs. Read-only tools over the Model Context Protocol, on stdio."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import click

from farthing import __version__
from farthing.cli.context import App, Broken, closed, pass_app
from farthing.cli.models import server_of
from farthing.cli.practice import list_price, stores_of
from farthing.cli.report import check_dimension, dimensions
from farthing.core.errors import FarthingError
from farthing.core.money import format_usd
from farthing.core.types import LedgerQuery, Usage, UsagePart
from farthing.core.units import INPUT, INPUT_CACHE_READ, OUTPUT
from farthing.insight.incident_details import read
from farthing.insight.moments import parse_moment
from farthing.insight.render import as_json
from farthing.insight.reports import forecast, spend, why
from farthing.insight.table import Table

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

Answer = dict[str, Any]
ROWS_MAX = 50
Where = Annotated[dict[str, str] | None, 'Filters, such as {"team": "search"}']
Since = Annotated[str, "A span back from now (7d, 24h), a day or a month"]
By = Annotated[str, "Dimensions, comma-separated: team, feature, user, model, provider, day, tag:NAME…"]


@click.command()
@pass_app
def mcp(app: App) -> None:
    """Serve questions on cost to an agent over stdio (Model Context Protocol). Every tool only reads.

    For Claude Code: claude mcp add farthing -- farthing mcp. Needs the extra: pip install "farthing[mcp]".
    """
    server(app).run("stdio")


def server(app: App) -> "MCPServer[Any]":
    """The server and its tools. Raises ``Broken`` where the extra is not installed."""
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise Broken('This needs an extra: pip install "farthing[mcp]"') from error
    made: MCPServer[Any] = MCPServer(
        "farthing",
        version=__version__,
        instructions="What LLM calls cost here: prices, past spend, why it changed, what the month will be. Dollars "
        "are exact decimal strings; null means that the price is not known, never that it is free.",
    )
    tools = Tools(app)
    for tool in (tools.estimate_cost, tools.spend, tools.why_spend_changed, tools.month_end, tools.request_cost):
        made.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))(
            _saying_why(tool, ToolError)
        )
    return made


def _saying_why(tool: Callable[..., Answer], refused: type[Exception]) -> Callable[..., Answer]:
    """The tool, whose refusals reach the agent with their reason: it may ask again, and better."""

    @functools.wraps(tool)
    def asked(*arguments: Any, **named: Any) -> Answer:
        try:
            return tool(*arguments, **named)
        except click.ClickException as error:
            raise refused(error.format_message()) from error
        except (ValueError, FarthingError) as error:
            raise refused(str(error)) from error

    return asked


class Tools:
    """What an agent may ask."""

    def __init__(self, app: App) -> None:
        self._app = app

    def estimate_cost(
        self, model: str, input_tokens: int, output_tokens: int, cached_tokens: int = 0, calls: int = 1
    ) -> Answer:
        """What calls of this size would cost now; lines are those of one call.

        cached_tokens is the part of input_tokens that is read from a cache.
        """
        if min(input_tokens, output_tokens, cached_tokens) < 0 or calls < 1 or cached_tokens > input_tokens:
            raise ValueError("tokens are 0 or more, cached ones at most those of the input, calls 1 or more")
        counts = (input_tokens - cached_tokens, cached_tokens, output_tokens)
        units = zip((INPUT, INPUT_CACHE_READ, OUTPUT), counts, strict=True)
        part = UsagePart(lines=tuple(one for one in units if one[1] > 0), tier_basis=input_tokens)
        book = self._app.stores.price_book(self._app.settings)
        usage = Usage(parts=(part,), source="estimated", model=model)
        charge = book.charge(usage, server_of(self._app, model), at_ms=self._app.now_ms())
        total = None if charge.total is None else charge.total * calls
        return {
            "model": model,
            "calls": calls,
            "usd": None if total is None else format_usd(total),
            "usd_per_call": None if charge.total is None else format_usd(charge.total),
            "state": charge.state,
            "reason": charge.reason,
            "lines": [
                {"unit": line.unit, "quantity": line.quantity,
                 "usd": None if line.amount is None else format_usd(line.amount)}
                for line in charge.lines
            ],
        }  # fmt: skip

    def spend(self, since: Since = "7d", by: By = "feature", where: Where = None) -> Answer:
        """Booked spend by any dimensions, largest first."""
        groups, filters = dimensions(by), _pairs(where)
        query = spend.query(groups, since_ms=self._at(since), until_ms=self._app.now_ms(), where=filters)
        with closed(stores_of(self._app).open_reports(self._app.settings, "")) as ledger:
            whole = ledger.totals(LedgerQuery(since_ms=query.since_ms, until_ms=query.until_ms, where=filters))
            return _said(spend.build(ledger.totals(query), whole, groups, limit=ROWS_MAX))

    def why_spend_changed(self, since: Since = "7d", by: By = "feature", where: Where = None) -> Answer:
        """Why spend changed against the equal period before: causes that sum to the difference exactly."""
        groups, filters, now_ms, start = _timeless(by), _pairs(where), self._app.now_ms(), self._at(since)
        price = list_price(self._app)
        with closed(stores_of(self._app).open_reports(self._app.settings, "")) as ledger:
            before = read(ledger, groups, start - (now_ms - start), start, filters, price)
            after = read(ledger, groups, start, now_ms, filters, price)
        return _said(why.build(before, after, groups, limit=ROWS_MAX))

    def month_end(self, by: By = "team", where: Where = None) -> Answer:
        """What the month will cost, with a band and its error on the past."""
        groups, now_ms = _timeless(by), self._app.now_ms()
        query = forecast.query(groups, now_ms, where=_pairs(where))
        with closed(stores_of(self._app).open_reports(self._app.settings, "")) as ledger:
            return _said(forecast.build(ledger.totals(query), groups, now_ms, limit=ROWS_MAX))

    def request_cost(self, request_id: str) -> Answer:
        """What one request cost: the id is that of the answer's x-farthing-request-id header."""
        if not request_id:
            raise ValueError("request_id is empty; it is that of the answer's x-farthing-request-id header")
        with self._app.ledger() as ledger:
            entries = tuple(ledger.entries(request_id=request_id))
        amounts = [entry.charge.total for entry in entries]
        known = [amount for amount in amounts if amount is not None]
        return {
            "request_id": request_id,
            "found": bool(entries),
            "usd": format_usd(sum(known)) if known and len(known) == len(amounts) else None,
            "attempts": [
                {"model": entry.model, "provider": entry.provider, "state": entry.charge.state,
                 "usd": None if entry.charge.total is None else format_usd(entry.charge.total)}
                for entry in entries
            ],
        }  # fmt: skip

    def _at(self, since: str) -> int:
        return parse_moment(since, now_ms=self._app.now_ms())


def _timeless(by: str) -> tuple[str, ...]:
    """Dimensions of reports that are about time themselves."""
    groups = dimensions(by)
    for name in groups:
        check_dimension(name, "by", time=False)
    return groups


def _pairs(where: dict[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((where or {}).items()))


def _said(table: Table) -> Answer:
    return dict(as_json(table))
