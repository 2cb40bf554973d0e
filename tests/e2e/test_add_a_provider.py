"""The guide is followed to the letter: its TOML, its call, with only the address of the server replaced."""

import re
from pathlib import Path

import pytest

from farthing.config import parse
from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "add-a-provider.md").read_text(encoding="utf-8")
TOML = re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", TOML)
def test_every_block_is_a_whole_configuration_of_at_most_four_lines(text):
    assert len(text.splitlines()) <= 4
    assert len(parse(text, env={"HOME": "/home/ada"}, source="farthing.toml").providers) == 1


def served(text: str, sim: SimServer, home: Path, client_model: str) -> GatewayServer:
    """A gateway with the block's settings, the call of the guide made against it."""
    toml = re.sub(r"http://127\.0\.0\.1:\d+", sim.url, text)
    if "base_url" not in toml:
        toml += f'base_url = "{sim.url}/v1"\n'
    gateway = GatewayServer(home, toml, env={"GROQ_API_KEY": "sk-groq"}).start()
    (call,) = PYTHON
    call = call.replace("http://127.0.0.1:8484", gateway.url).replace("office/gpt-4o-mini", client_model)
    scope = {}
    exec(compile(call, "add-a-provider.md", "exec"), scope)
    scope["client"].close()
    return gateway


@pytest.mark.parametrize(
    ("block", "provider", "model", "priced"),
    [
        (0, "groq", "groq/gpt-4o-mini", False),
        (1, "office", "office/gpt-4o-mini", False),
        (2, "proxy", "gpt-4o-mini", True),
    ],
    ids=["known name", "any server", "with prices"],
)
def test_following_the_guide_books_the_call(tmp_path, block, provider, model, priced):
    with SimServer() as sim:
        gateway = served(TOML[block], sim, tmp_path, model)
        try:
            (entry,) = gateway.books.entries()
        finally:
            gateway.stop()
        line = sim.account.invoice.lines[-1]
        assert (entry.provider, entry.usage.source, entry.model_requested) == (provider, "reported", model)
        assert (
            sum(quantity for _, quantity in entry.usage.parts[0].lines) == line.tokens.prompt + line.tokens.generated
        )
        assert entry.charge.total == (line.amount_nusd if priced else None)
        assert entry.charge.state == ("priced" if priced else "unpriced")
