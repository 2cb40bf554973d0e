"""A company's last months in a ledger, with a feature that ran away yesterday: what the dashboard's tests look at."""

import contextlib
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
    Decision,
    Exchange,
    LedgerEntry,
    PromptSection,
    PromptView,
    Scope,
    Usage,
    UsagePart,
)
from farthing.ports.outcomes import Outcome

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
AGENTS = {"agent": "research", "answer": "search"}


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
        sections=_sections(entry),
    )  # fmt: skip


def _sections(entry: LedgerEntry) -> tuple[PromptSection, ...]:
    """Instructions that a feature's prompts share, half of each prompt, and a question of its own."""
    half = 2 * dict(entry.usage.parts[0].lines)["input"]
    return (
        PromptSection(role="system", size=half, digest=f"says-{entry.scope.feature}"),
        PromptSection(role="user", size=half, digest=f"asks-{entry.id}"),
    )


def fill(settings: Settings, now_ms: int) -> None:
    """Books all of it."""
    Path(settings.home).mkdir(parents=True, exist_ok=True)
    found = list(entries(now_ms))
    log = [*(exchange(entry) for entry in found), *refused(now_ms)]
    bootstrap.open_importer(settings).import_batch(found, log)
    with contextlib.closing(bootstrap.open_practice(settings)) as practice:
        practice.add(outcomes(now_ms))


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
                    session=f"{feature}-{at_ms // DAY_MS}-{chance.randrange(6)}", tags=_tags(feature, name)),
        dialect="openai", endpoint="chat", provider=provider, price_as=provider, model_requested=model, model=model,
        usage=Usage(parts=(UsagePart(lines=(("input", prompt), ("output", answer)), tier_basis=prompt),),
                    source="reported", model=model),
        charge=Charge(lines=lines, total=total, state="priced", price_ref="book-1") if known
        else Charge(lines=(), total=None, state="unpriced", reason="unknown_model", price_ref="book-1"),
        latency_ms=int(chance.lognormvariate(7, 0.5)),
    )  # fmt: skip


def _tags(feature: str, name: str) -> tuple[tuple[str, str], ...]:
    """Agents' calls belong to traces of eight: a plan, searches, an answer."""
    if feature not in AGENTS:
        return ()
    _, day, number = name.rsplit("-", 2)
    place = int(number) % 8
    agent, step = (
        ("planner", "plan") if place == 0 else ("writer", "answer") if place == 7 else ("searcher", "search")
    )
    trace = f"{feature}-{day}-{int(number) // 8}"
    return (("agent", f"{AGENTS[feature]}-{agent}"), ("step", step), ("trace", trace))


def refused(now_ms: int) -> Iterator[Exchange]:
    """Calls of the last two days that a budget refused, or that a provider failed: nothing was booked of them."""
    for number in range(24):
        team, feature = ("research", RUNAWAY) if number % 3 else ("search", "answer")
        at = now_ms - (number + 1) * 5_400_000
        failed = number % 8 == 0
        evidence = (("budget", f"{team}-day"), ("needed", "$0.0120"), ("left", "$0.0031"))
        yield Exchange(
            request_id=f"req-refused-{feature}-{number}",
            received_at_ms=at,
            scope=Scope(org="acme", team=team, feature=feature, user=f"user-{number % 5}", session=f"{feature}-x"),
            dialect="openai",
            view=PromptView(endpoint="chat", model="gpt-4o"),
            outcome="failed" if failed else "refused",
            status=503 if failed else 429,
            error="provider_unavailable" if failed else f"budget_exceeded:{team}-day",
            decisions=() if failed else (
                Decision(stage="budget", action="refuse", reason="budget_exceeded", evidence=evidence),
            ),
            latency_ms=30,
        )  # fmt: skip


def outcomes(now_ms: int, *, days: int = 20) -> Iterator[Outcome]:
    """Tickets of the support team that its sessions resolved, most of them."""
    today = now_ms // DAY_MS
    for day in range(1, days):
        for feature in ("triage", "reply"):
            for place in range(5):
                yield Outcome(
                    id=f"t-{feature}-{day}-{place}", kind="ticket_resolved", at_ms=(today - day) * DAY_MS + 1_000,
                    session=f"{feature}-{today - day}-{place}", value_nusd=400_000_000, success=place != 4,
                )  # fmt: skip


def day_start() -> int:
    """When today began, in UTC."""
    now_ms = time.time_ns() // 1_000_000
    return now_ms - now_ms % DAY_MS
