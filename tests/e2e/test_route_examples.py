"""Every example of a route in the documentation, loaded as it stands and asked through HTTP."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from farthing.lab.route_policy import make_artefact
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers
from farthing.testing.labels import labelled

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Ask = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def sim() -> Iterator[SimServer]:
    with SimServer(SimSettings()) as server:
        yield server


@pytest.fixture
def example(sim: SimServer, tmp_path: Path) -> Iterator[Callable[[str], Ask]]:
    """``example("name")`` is a gateway on that example; asking it gives (model served, reason)."""
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(timeout=60))

        def made(name: str) -> Ask:
            toml = (EXAMPLES / f"routes-{name}.toml").read_text() + simulated_providers(sim.url)
            gateway = stack.enter_context(GatewayServer(tmp_path / "home", toml))

            def ask(text: str, *, model: str = "auto", headers: dict[str, str] | None = None, **more: object):
                body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
                answer = client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers or {})
                assert answer.status_code == 200, answer.text
                return answer.headers["x-farthing-route"], answer.headers["x-farthing-route-reason"]

            return ask

        yield made


def test_every_example_of_a_route_is_exercised_here() -> None:
    names = {path.stem.removeprefix("routes-") for path in EXAMPLES.glob("routes-*.toml")}
    assert names == {"by-task", "classifier", "three-tiers", "learned", "cascade"}


def test_three_tiers(example: Callable[[str], Ask]) -> None:
    ask = example("three-tiers")
    assert ask("What is a harbour?") == ("openai/gpt-4o-mini", "route_length")
    assert ask("word " * 300) == ("anthropic/claude-opus-4-5", "route_length")
    tool = {"type": "function", "function": {"name": "tides", "parameters": {"type": "object"}}}
    assert ask("Tides?", tools=[tool]) == ("anthropic/claude-opus-4-5", "route_tools")
    assert ask("word " * 300, headers={"x-farthing-route": "spam detection"}) == ("openai/gpt-4o-mini", "route_tag")
    assert ask("Say", headers={"x-farthing-route": "synthesis"}) == ("openai/gpt-4o", "route_tag")
    assert ask("Say", headers={"x-farthing-route": "medium"}) == ("openai/gpt-4o", "route_tag")


def test_by_task(example: Callable[[str], Ask]) -> None:
    ask = example("by-task")
    strong = "anthropic/claude-opus-4-5"
    for tag in ("tagging", "draft"):  # cheaper, but nothing is proved yet
        model, reason = ask(f"Do {tag}", headers={"x-farthing-route": tag})
        assert model == strong
        assert reason in ("route_control", "route_holdout")
    assert ask("Do it", headers={"x-farthing-route": "planning"}) == (strong, "route_tag")
    assert ask("Do it") == (strong, "route_otherwise")
    assert ask("Do it", model="claude-opus-4-1")[0] == strong


def test_classifier(example: Callable[[str], Ask]) -> None:
    ask = example("classifier")
    assert ask("Facts [sim: say=simple]") == ("openai/gpt-4o-mini", "route_classifier")
    assert ask("A summary [sim: say=Medium.]") == ("openai/gpt-4o", "route_classifier")
    assert ask("Several steps [sim: say=complex]") == ("openai/gpt-4o", "route_classifier")
    assert ask("Unclear [sim: say=simplest]") == ("openai/gpt-4o", "route_classifier")
    assert ask("Tagged", headers={"x-farthing-route": "simple"}) == ("openai/gpt-4o-mini", "route_tag")
    assert ask("Sure?", model="auto-checked")[0] == "openai/gpt-4o"  # its own word on itself is not understood


def test_cascade(example: Callable[[str], Ask]) -> None:
    ask = example("cascade")
    assert ask("Mark it [sim: say=8]", model="auto-judged")[0] == "openai/gpt-4o-mini"
    assert ask("Mark it [sim: say=3]", model="auto-judged")[0] == "openai/gpt-4o"
    assert ask("No JSON, please", model="auto-extract")[0] == "openai/gpt-4o"


def test_learned(example: Callable[[str], Ask], tmp_path: Path) -> None:
    folder = tmp_path / "home" / "routes"
    folder.mkdir(parents=True)
    rows = labelled(1_000)
    artefact, _ = make_artefact(rows, "gpt-4o")
    (folder / "support.json").write_bytes(msgspec.json.encode(artefact))
    vectors = [np.random.default_rng(n).normal(size=8) for n in range(len(rows.rows))]
    raw = [(one / np.linalg.norm(one)).astype("<f4").tobytes() for one in vectors]
    by_meaning, _ = make_artefact(rows, "gpt-4o", margin=0.1, vectors=raw, embedder="another@0")
    (folder / "meaning.json").write_bytes(msgspec.json.encode(by_meaning))
    lines = [json.dumps({"prompt": f"What is {number} plus one?"}) for number in range(10)]
    (folder / "canary.jsonl").write_text("\n".join(lines))
    ask = example("learned")
    whose = {"x-farthing-feature": "support"}
    model, reason = ask("please translate the word", headers=whose)
    assert model == "openai/gpt-4o"
    assert reason in ("route_control", "route_holdout")
    assert ask("prove the lemma and derive the bound of the integral", headers=whose) == (
        "openai/gpt-4o",
        "route_learned",
    )
    assert ask("please translate the word", model="gpt-4o")[1] == "direct"  # not the route's feature
    assert ask("please translate the word", model="auto-meaning") == ("openai/gpt-4o", "route_unsupported")
