"""A company's last months in a ledger, with a feature that ran away yesterday: what the dashboard's tests look at."""

import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

from farthing import bootstrap
from farthing.config import Settings
from farthing.core.money import Nusd, Pusd
from farthing.core.types import (
    AttemptFact,
    Charge,
    ChargeLine,
    Exchange,
    LedgerEntry,
    PromptView,
    Scope,
    Usage,
    UsagePart,
)

DAY_MS = 86_400_000
FEATURES = (
    ("search", "rank", "openai", "gpt-4o-mini", 150, 600, 40),
    ("search", "answer", "openai", "gpt-4o", 2_500, 10_000, 12),
    ("support", "triage", "anthropic", "claude-haiku-4-5", 1_000, 5_000, 25),
    ("support", "reply", "anthropic", "claude-sonnet-4-5", 3_000, 15_000, 10),
    ("growth", "copy", "openai", "gpt-4o", 2_500, 10_000, 6),
    ("", "notebook", "openai", "gpt-4.1-nano", 100, 400, 5),
)
RUNAWAY = "agent"
SECRET_TEAM = "growth"


def entries(now_ms: int, *, days: int = 75, seed: int = 7) -> Iterator[LedgerEntry]:
    """Calls of the last days, a weekly pattern in them; yesterday ``RUNAWAY`` cost a hundred times its usual."""
    chance = random.Random(seed)
    today = now_ms - now_ms % DAY_MS
    for day in range(days, -1, -1):
        start = today - day * DAY_MS
        weekday = (start // DAY_MS + 3) % 7
        busy = 0.45 if weekday >= 5 else 1.0
        until = min(DAY_MS, now_ms - start)
        for team, feature, provider, model, price_in, price_out, mean in FEATURES:
            for number in range(max(1, round(mean * busy * math.exp(chance.gauss(0, 0.08))))):
                at = start + int(until * (number + 0.5) / (mean + 2))
                yield _entry(chance, at, f"{feature}-{day}-{number}", (team, feature), provider, model, price_in,
                             price_out, 1)  # fmt: skip
        calls = 400 if day == 1 else 4
        for number in range(calls):
            at = start + int(until * (number + 0.5) / (calls + 1))
            yield _entry(chance, at, f"agent-{day}-{number}", ("research", RUNAWAY), "anthropic",
                         "claude-sonnet-4-5", 3_000, 15_000, 6 if day == 1 else 1)  # fmt: skip


def exchange(entry: LedgerEntry) -> Exchange:
    """The traffic log's row of an entry."""
    fact = AttemptFact(
        attempt=1, provider=entry.provider, model=entry.model, status=200, started_at_ms=entry.received_at_ms,
        latency_ms=entry.latency_ms, entry_id=entry.id,
    )  # fmt: skip
    return Exchange(
        request_id=entry.request_id, received_at_ms=entry.received_at_ms, scope=entry.scope, dialect=entry.dialect,
        view=PromptView(endpoint="chat", model=entry.model_requested), outcome="answered", status=200,
        attempts=(fact,), amount=entry.charge.total, latency_ms=entry.latency_ms, usage=entry.usage,
    )  # fmt: skip


def fill(settings: Settings, now_ms: int) -> None:
    """Books all of it."""
    Path(settings.home).mkdir(parents=True, exist_ok=True)
    found = list(entries(now_ms))
    bootstrap.open_importer(settings).import_batch(found, [exchange(entry) for entry in found])


def _entry(
    chance: random.Random, at_ms: int, name: str, who: tuple[str, str], provider: str, model: str, price_in: int,
    price_out: int, size: int,
) -> LedgerEntry:  # fmt: skip
    team, feature = who
    prompt, answer = int(chance.lognormvariate(8, 0.4)) * size, int(chance.lognormvariate(6, 0.4)) * size
    known = chance.random() > 0.01
    lines = (
        ChargeLine(unit="input", quantity=prompt, price=Pusd(price_in * 1000), amount=Nusd(prompt * price_in)),
        ChargeLine(unit="output", quantity=answer, price=Pusd(price_out * 1000), amount=Nusd(answer * price_out)),
    )
    total = Nusd(prompt * price_in + answer * price_out)
    return LedgerEntry(
        id=f"req-{name}-1", request_id=f"req-{name}", attempt=1, received_at_ms=at_ms, booked_at_ms=at_ms + 900,
        scope=Scope(org="acme", team=team, feature=feature, user=f"user-{chance.randrange(30)}",
                    session=f"{feature}-{at_ms // DAY_MS}-{chance.randrange(6)}"),
        dialect="openai", endpoint="chat", provider=provider, price_as=provider, model_requested=model, model=model,
        usage=Usage(parts=(UsagePart(lines=(("input", prompt), ("output", answer)), tier_basis=prompt),),
                    source="reported", model=model),
        charge=Charge(lines=lines, total=total, state="priced", price_ref="book-1") if known
        else Charge(lines=(), total=None, state="unpriced", reason="unknown_model", price_ref="book-1"),
        latency_ms=int(chance.lognormvariate(7, 0.5)),
    )  # fmt: skip


def day_start() -> int:
    """When today began, in UTC."""
    now_ms = time.time_ns() // 1_000_000
    return now_ms - now_ms % DAY_MS
