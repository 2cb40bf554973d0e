"""Ledger entries as a company's month leaves them, from a seed: the same seed gives the same entries, anywhere.

Not the average but the awkward is well represented: retries and fallbacks that split a request over models,
corrections that come days later, unpriced and estimated entries, missing scopes, odd names, ends of months and years.
"""

import random
from collections.abc import Iterator
from typing import Final, Literal

from farthing.core.money import Nusd, Pusd
from farthing.core.types import Charge, ChargeLine, LedgerEntry, Scope, Usage, UsagePart

MONTH_MS: Final = 30 * 86_400_000
START_MS: Final = 1_767_139_200_000
"""2025-12-31: the month begins in one year and in the first ISO week of the next."""

MODELS: Final = (
    ("openai", "gpt-4o", 2_500, 10_000),
    ("openai", "gpt-4o-mini", 150, 600),
    ("openai", "gpt-4.1-nano", 100, 400),
    ("anthropic", "claude-haiku-4-5", 1_000, 5_000),
    ("anthropic", "claude-sonnet-4-5", 3_000, 15_000),
    ("mistral", "mistral-small", 100, 300),
)
TEAMS: Final = ("search", "support", "growth", "platform", "données", "团队", "", "legal")
FEATURES: Final = ("chat", "summarise", "rank", "autofill", "agent", "")
SOURCES: Final = (("reported",) * 17) + ("partial", "estimated", "missing")
ODD: Final = ("o'brien", 'quote"d', "back\\slash", "tab\there", "line\nend", "50%", "{p0:String}", "ünïcode", "?")


def lifelike_entries(count: int, *, seed: int, start_ms: int = START_MS) -> Iterator[LedgerEntry]:
    """``count`` entries in order of booking over about a month."""
    chance = random.Random(seed)
    made = request = 0
    late: list[LedgerEntry] = []
    step = MONTH_MS / max(1, count)
    while made < count:
        request += 1
        at_ms = start_ms + int(made * step) + chance.randrange(1_000)
        for entry in _request(chance, f"req-{seed}-{request:08}", at_ms):
            if made == count:
                return
            made += 1
            yield entry
            if chance.random() < 0.01:
                late.append(entry)
        if late and made < count and chance.random() < 0.01:
            made += 1
            yield _correction(chance, late.pop(), at_ms)


def _request(chance: random.Random, request_id: str, at_ms: int) -> Iterator[LedgerEntry]:
    scope = _scope(chance)
    endpoint = chance.choice(("chat", "chat", "chat", "responses", "embeddings"))
    attempts = 1 if chance.random() < 0.95 else chance.randint(2, 3)
    wanted = chance.choice(MODELS)
    for attempt in range(1, attempts + 1):
        model = wanted if attempt == 1 or chance.random() < 0.5 else chance.choice(MODELS)
        yield _entry(chance, request_id, attempt, at_ms, scope, endpoint, wanted[1], model)


def _scope(chance: random.Random) -> Scope:
    number = int(chance.paretovariate(0.8))
    tags: tuple[tuple[str, str], ...] = ()
    if chance.random() < 0.3:
        tags = (("env", chance.choice(("prod", "staging"))), ("run", chance.choice((*ODD, "a", "b"))))
    return Scope(
        org="acme" if chance.random() < 0.9 else "",
        team=chance.choice(TEAMS),
        project=f"project-{number % 40}",
        user=f"user-{number % 2_000}" if chance.random() < 0.97 else chance.choice(ODD),
        feature=chance.choice(FEATURES),
        customer=f"customer-{number % 500}" if chance.random() < 0.6 else "",
        session=f"session-{number % 2_000}-{chance.randrange(5)}" if chance.random() < 0.4 else "",
        key=f"key-{number % 60}",
        tags=tags,
    )


def _entry(
    chance: random.Random,
    request_id: str,
    attempt: int,
    at_ms: int,
    scope: Scope,
    endpoint: str,
    wanted: str,
    model: tuple[str, str, int, int],
) -> LedgerEntry:
    provider, name, input_price, output_price = model
    fresh, read = int(chance.lognormvariate(6, 1.2)), chance.choice((0, 0, 1024, 4096))
    written, answer, thought = chance.choice((0, 0, 0, 512)), int(chance.lognormvariate(5, 1)), 0
    if chance.random() < 0.1:
        thought = chance.randrange(4_000)
    quantities = {
        "input": fresh, "input_cache_read": read, "input_cache_write": written, "output": answer,
        "output_reasoning": thought,
    }  # fmt: skip
    lines = tuple((unit, quantity) for unit, quantity in quantities.items() if quantity)
    unknown = chance.random() < 0.02
    total = Nusd((fresh + read // 10 + written) * input_price + (answer + thought) * output_price)
    state: Literal["priced", "free", "unpriced"] = "unpriced" if unknown else "priced"
    line = ChargeLine(
        unit="input", quantity=fresh, price=None if unknown else Pusd(input_price * 1000),
        amount=None if unknown else total,
    )  # fmt: skip
    error = chance.choice(("provider_stream_broken", "client_gone")) if chance.random() < 0.03 else ""
    latency_ms = int(chance.lognormvariate(7, 0.6))
    return LedgerEntry(
        id=f"{request_id}-{attempt}",
        request_id=request_id,
        attempt=attempt,
        received_at_ms=at_ms,
        booked_at_ms=at_ms + latency_ms,
        scope=scope,
        dialect="anthropic" if provider == "anthropic" else "openai",
        endpoint=endpoint,
        provider=provider,
        price_as=provider,
        model_requested=wanted,
        model=name,
        usage=Usage(
            parts=(UsagePart(lines=lines, tier_basis=fresh + read + written),),
            source=chance.choice(SOURCES),
            model=name,
            service_tier=chance.choice(("", "default", "flex")),
        ),
        charge=Charge(
            lines=(line,), total=None if unknown else total, state=state, price_ref="book-1",
            reason="unknown_model" if unknown else "",
        ),
        baseline=Nusd(total * 2) if chance.random() < 0.5 else None,
        ceiling=Nusd(total * 3),
        policy_ref=chance.choice(("policy-1", "policy-2")),
        stream=chance.random() < 0.5,
        status=chance.choice((200, 200, 200, 200, 502)) if error else 200,
        error=error,
        client_gone=error == "client_gone",
        ttft_ms=latency_ms // 3 if chance.random() < 0.7 else None,
        latency_ms=latency_ms,
    )  # fmt: skip


def _correction(chance: random.Random, entry: LedgerEntry, now_ms: int) -> LedgerEntry:
    """A correction of the past: it counts when the corrected call came in, or today, as some sources have it."""
    total = entry.charge.total
    was_unpriced = total is None
    amount = Nusd(chance.randrange(1, 10**6)) if total is None else Nusd(-(total // 10))
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    fields |= {
        "id": f"{entry.id}-c",
        "kind": "adjustment" if chance.random() < 0.8 else "reversal",
        "corrects": entry.id,
        "received_at_ms": entry.received_at_ms if chance.random() < 0.8 else now_ms,
        "booked_at_ms": now_ms + 5,
        "usage": Usage(source="reported", model=entry.model),
        "charge": Charge(
            lines=(ChargeLine(unit="input", quantity=0, price=Pusd(0), amount=amount),),
            total=amount,
            state="priced",
            reason="was_unpriced" if was_unpriced else "",
            price_ref="book-2",
        ),
        "baseline": None,
        "latency_ms": 0,
        "error": "",
    }
    return LedgerEntry(**fields)
