"""What a simulated provider is told at its start. The simulator reads no environment and no clock of its own."""

import time
from collections.abc import Callable

import msgspec


def wall_clock_ms() -> int:
    """Milliseconds since the epoch by the machine's clock, the default of :attr:`SimSettings.now_ms`."""
    return time.time_ns() // 1_000_000


class SimSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated provider account."""

    now_ms: Callable[[], int] = wall_clock_ms
    """The injected clock: invoice times, price validity and prompt-cache lifetimes follow it."""
    speed: float = 0.0
    """Multiplies every modelled latency, in real time: 0 never sleeps, 1 is lifelike, 0.01 is 100 times faster."""
    seed: int = 0
    """Changes every generated answer and every rate-driven fault."""
    instance: str = ""
    """Prefix of upstream ids; empty draws a random one, so that two runs never issue the same id."""
    keys: tuple[str, ...] = ()
    """Accepted API keys; empty accepts every key that does not start with ``sk-invalid``."""
    admin_keys: tuple[str, ...] = ("sk-admin-sim", "sk-ant-admin-sim")
    """Keys of the report endpoints."""
    invoice_file: str = ""
    """Append-only JSON Lines copy of the invoice, written before an answer's last byte; empty: memory only."""
    tokens_per_event: int = 4
    """Output tokens in one stream event."""
    ping_every: int = 25
    """Anthropic streams: one ``ping`` after this many content events."""
    openai_cache_ttl_ms: tuple[int, int] = (300_000, 600_000)
    """Idle lifetime of OpenAI's automatic prompt cache: each prefix draws its own between these bounds."""
    hang_limit_ms: int = 600_000
    """A ``hang`` fault closes the connection after this long in real time."""
    batch_ms: int = 0
    """How long a batch takes by the injected clock; its lines are answered evenly over it."""
