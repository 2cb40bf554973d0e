"""Gateways on several hosts share budgets and a ledger."""

import asyncio
import json

import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayProcess, simulated_providers
from farthing.testing.servers import store_env, store_toml

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Harbours?"}], "max_tokens": 50}
BUDGET = '[[budgets]]\nname = "all"\nper = "total"\nusd = "0.002"\n'


async def storm(urls: list[str], calls: int) -> list[int]:
    """Statuses of so many calls, spread over the gateways."""
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=50)) as client:

        async def call(number: int) -> int:
            try:
                answer = await client.post(f"{urls[number % len(urls)]}/v1/chat/completions", json=CHAT)
            except httpx.HTTPError:
                return 0
            return answer.status_code

        return await asyncio.gather(*(call(number) for number in range(calls)))


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_two_hosts_share_one_budget_and_one_ledger(tmp_path, kind):
    env = store_env()
    namespace = f"e2e_{kind}"
    with SimServer(SimSettings()) as sim:
        toml = store_toml(kind, namespace) + "[server]\nworkers = 2\n" + BUDGET + simulated_providers(sim.url)
        with (
            GatewayProcess(tmp_path / "a", toml, env=env) as first,
            GatewayProcess(tmp_path / "b", toml, env=env) as second,
        ):
            statuses = asyncio.run(storm([first.url, second.url], 300))
            answered = statuses.count(200)
            assert set(statuses) == {200, 429}
            entries = first.books.settled(answered)
            assert len(entries) == answered == len({entry.id for entry in entries})
            spent = sum(entry.charge.total or 0 for entry in entries)
            assert 0 < spent <= 2_000_000
            metrics = httpx.get(f"{second.url}/metrics", timeout=60).text
            assert "farthing_ledger_up 1.0" in metrics
            assert "farthing_journal_records_waiting" in metrics
            assert json.dumps(httpx.get(f"{first.url}/readyz", timeout=60).status_code) == "200"
