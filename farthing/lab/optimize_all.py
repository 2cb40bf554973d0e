"""All watchers together over one traffic log."""

from collections.abc import Iterable

import msgspec

from farthing.core.types import Exchange
from farthing.lab.optimize import Examined, PriceOf, Watcher, examine
from farthing.lab.optimize_models import Deferrable, Models
from farthing.lab.optimize_repeats import Repeats, Storms
from farthing.lab.optimize_tokens import Answers, Histories, Instructions, Marks, UnusedTools
from farthing.lab.rates import BookRates
from farthing.lab.replay_log import in_order


def examined(exchanges: Iterable[Exchange], rates: BookRates, price_of: PriceOf, *, now_ms: int) -> Examined:
    """The log, in whatever order it comes, examined by every watcher."""
    watchers: tuple[Watcher, ...] = (
        Marks(rates, rates.needs_marks),
        Repeats(),
        Storms(),
        Histories(),
        Answers(),
        Instructions(),
        UnusedTools(tools_of),
        Models(price_of),
        Deferrable(price_of),
    )
    return examine(in_order(exchanges), watchers, price_of, now_ms=now_ms)


class _Named(msgspec.Struct):
    name: str = ""


class _Tool(msgspec.Struct):
    name: str = ""
    function: _Named | None = None


class _Tools(msgspec.Struct):
    tools: list[msgspec.Raw] = []


def tools_of(exchange: Exchange) -> tuple[tuple[str, int], ...]:
    """(name, bytes) of the tools in a logged prompt; nothing where it cannot be read."""
    try:
        raws = msgspec.json.decode(exchange.prompt or b"{}", type=_Tools).tools
        read = [(msgspec.json.decode(raw, type=_Tool), len(bytes(raw))) for raw in raws]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    named = ((tool.function.name if tool.function else tool.name, size) for tool, size in read)
    return tuple((name, size) for name, size in named if name)
