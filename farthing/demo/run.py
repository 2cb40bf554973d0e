"""One run of the demo, from an empty folder to the verdict."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

import httpx
import msgspec

from farthing import bootstrap
from farthing.core.errors import ConfigError
from farthing.demo import report
from farthing.demo.audit import Audit, audit
from farthing.demo.company import KEYS, YOUR_KEY
from farthing.demo.plan import Plan, make_plan
from farthing.demo.referee import Verdict, compare, misattributed, parse_invoice
from farthing.demo.site import Site, wait_until
from farthing.demo.traffic import Traffic

PACE: Final = 66
"""Calls a second that the default speed aims at."""
SECONDS_MIN: Final = 5.0
SETTLE_S: Final = 15.0
"""How long the last answers may take to be booked and invoiced after the day."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    requests: int = 2_000
    seed: int = 1
    speed: float = 0.0
    """How many times faster than life the day passes; 0: as fast as suits the number of requests."""
    port: int = 0
    home: str = ""


class Screen(Protocol):
    """Where the demo speaks to its user."""

    def say(self, text: str = "") -> None: ...

    def progress(self, total: int, clock: Callable[[], int]) -> AbstractContextManager[Callable[[], None]]:
        """A running count: inside, call what it gives after each call."""
        ...


@contextmanager
def prepared(options: Options, screen: Screen) -> Iterator[tuple[Site, Plan]]:
    """The running site and the plan of its day. Raises ``ConfigError``."""
    home = home_of(options.home)
    plan = make_plan(options.requests, options.seed)
    seconds = max(SECONDS_MIN, len(plan.calls) / PACE)
    if options.speed:
        seconds = 24 * 3_600 / options.speed
    site = Site(home, plan, port=options.port, seconds=seconds, seed=options.seed)
    with site:
        screen.say(f"Home       {home}")
        screen.say(f"Policy     {site.settings.source}")
        screen.say(f"Gateway    {site.url}")
        screen.say(f"Dashboard  {site.url}/")
        screen.say(f"Provider   {site.provider_url} (a simulator that keeps its own invoice)")
        hints = ", ".join(f"{key.name} …{site.secrets[key.name][-4:]}" for key in KEYS)
        screen.say(f"Keys       {hints}")
        screen.say()
        yield site, plan


def home_of(named: str) -> Path:
    """An empty folder for the demo. Raises ``ConfigError`` when the named one holds a ledger already."""
    if not named:
        return Path(tempfile.mkdtemp(prefix="farthing-demo-"))
    home = Path(named).expanduser().absolute()
    if (home / bootstrap.LEDGER_FILE).exists() or (home / "farthing.toml").exists():
        raise ConfigError(
            [f"{home} holds an installation already; the demo needs an empty folder, or none for a temporary one"],
            source="--home",
        )
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home


async def play(site: Site, plan: Plan, screen: Screen) -> Verdict:
    """Sends the day, prints the reports and the verdict."""
    with screen.progress(len(plan.calls), site.clock.now_ms) as step:
        traffic = Traffic(site, plan, step)
        site.clock.start()
        await traffic.run()
        calm = await wait_until(lambda: _calm(site, traffic), seconds=SETTLE_S)
    for outcome, number in traffic.outcomes.most_common():
        screen.say(f"{number:>9,}  {outcome}")
    ledger = bootstrap.open_ledger(site.settings)
    found = await asyncio.to_thread(_audit, site)
    for section in report.sections(ledger, found, since_ms=site.clock.starts_at_ms):
        screen.say(f"\n{section}")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.get(f"{site.provider_url}/sim/invoice")
    more = [] if calm else [f"work was still in flight {SETTLE_S:g} s after the day"]
    entries = list(ledger.entries())
    callers = {call.id: (call.feature.team, call.feature.name, call.user) for call in plan.calls}
    more += [*misattributed(entries, callers), *found.problems]
    verdict = compare(parse_invoice(answer.content), entries, more)
    screen.say()
    for line in report.verdict_lines(verdict, found):
        screen.say(line)
    return verdict


def _audit(site: Site) -> Audit:
    installation = site.installation
    ledger = bootstrap.open_ledger(site.settings)
    budgets = site.settings.policy.budgets
    return site.gateway.ask(lambda: audit(ledger, installation.books, budgets, site.clock.ends_at_ms))


async def _calm(site: Site, traffic: Traffic) -> bool:
    """Nothing is in flight: neither in the gateway nor at the provider, whose callers may have left."""
    background = site.installation.services.background
    if background.in_flight or background.unbooked:
        return False
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        state = (await client.get(f"{site.provider_url}/sim/state")).json()
    done = state["billed"] + state["refused"] + traffic.free
    return bool(done >= state["requests"])


def paste_lines(site: Site) -> tuple[str, str]:
    """The two lines that point an OpenAI or an Anthropic client at the gateway."""
    secret = site.secrets[YOUR_KEY]
    return (
        f'client = OpenAI(base_url="{site.url}/v1", api_key="{secret}")',
        f'client = Anthropic(base_url="{site.url}", api_key="{secret}")',
    )
