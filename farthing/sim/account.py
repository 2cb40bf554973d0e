"""The state of one simulated provider account: caches, faults, counters and the invoice."""

import secrets
from collections.abc import Awaitable, Callable, Mapping

from farthing.sim.batch_room import BatchRoom
from farthing.sim.catalog import Catalog, load_catalog
from farthing.sim.faults import Faults
from farthing.sim.http import Wire
from farthing.sim.invoice import Invoice
from farthing.sim.prompt_cache import AnthropicCache, OpenAiCache
from farthing.sim.settings import SimSettings


class Account:
    """Everything that outlives a request. One event loop owns it."""

    def __init__(self, settings: SimSettings) -> None:
        self.settings = settings
        self.catalog: Catalog = load_catalog()
        self.invoice = Invoice(settings.invoice_file)
        self.openai_cache = OpenAiCache(settings.openai_cache_ttl_ms)
        self.anthropic_cache = AnthropicCache()
        self.faults = Faults()
        self.batch_room = BatchRoom()
        self.instance = settings.instance or secrets.token_hex(5)
        self.endpoints: Mapping[tuple[str, str], Callable[[Account, Wire], Awaitable[None]]] = {}
        """The application's own table, for requests that come in batches."""
        self.requests = 0
        self.refused = 0
        self._issued = 0

    def next_id(self, prefix: str) -> str:
        """A new upstream id, unique over runs unless ``instance`` is set."""
        self._issued += 1
        return f"{prefix}{self.instance}{self._issued:010x}"

    def reset(self) -> None:
        """Forget invoice lines in memory, prompt caches, faults, batches, files and counters; ids go on."""
        self.invoice.clear()
        self.openai_cache.clear()
        self.anthropic_cache.clear()
        self.faults = Faults()
        self.batch_room = BatchRoom()
        self.requests = 0
        self.refused = 0
