"""The router by meaning, from ``farthing route train --kind clusters`` to calls, ``explain`` and a lost embedder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from farthing.cli import main
from farthing.core.route_decide import read_artefact
from farthing.lab.route_data import write_labels
from farthing.testing.labels import BOTH, EASY, HARD, labelled
from farthing.testing.tiny_embedder import make_tiny_embedder

ROUTE = """
[exchange_log]
text = "full"
[embedder]
kind = "onnx"
folder = "{folder}"
[[routes]]
name = "meaning"
models = ["auto"]
tiers = {{simple = "gpt-4o-mini", complex = "gpt-4o"}}
by = ["learned"]
table = "meaning.json"
"""


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, str]:
    """(the first stand's home with a trained table, its settings)."""
    make_tiny_embedder(tmp_path / "model", [" ".join((*EASY, *HARD, *BOTH))])
    home = tmp_path / "home1"
    home.mkdir()
    config = tmp_path / "farthing.toml"
    config.write_text(f'[embedder]\nkind = "onnx"\nfolder = "{tmp_path / "model"}"\n')
    write_labels(labelled(800), tmp_path / "labels.jsonl")
    done = run(
        "--home", str(home), "--config", str(config), "route", "train", str(tmp_path / "labels.jsonl"),
        "--strong", "gpt-4o", "--out", str(home / "meaning.json"), "--kind", "clusters", "--margin", "10",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "holds" in done.output
    return home, ROUTE.format(folder=tmp_path / "model")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def ask(here: Any, text: str) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{here.gateway.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def test_prompts_go_where_their_kind_is_answered_and_explain_decides_the_same_again(
    trained: tuple[Path, str], stand: Callable[..., Any], tmp_path: Path
) -> None:
    home, toml = trained
    artefact = read_artefact((home / "meaning.json").read_bytes(), "")
    assert artefact.clusters is not None
    assert int(artefact.clusters.card["labels"]) == 400
    here = stand(toml)
    easy = [ask(here, f"please translate the {word} of it") for word in ("word", "city", "phrase")]
    hard = [ask(here, f"prove the {word} and derive it") for word in ("lemma", "theorem", "integral")]
    assert {one.headers["x-farthing-route"] for one in easy} == {"openai/gpt-4o-mini"}
    assert {one.headers["x-farthing-route"] for one in hard} == {"openai/gpt-4o"}
    config = tmp_path / "farthing.toml"
    config.write_text(toml)
    where = ("--home", str(home), "--config", str(config))
    for one in (easy[0], hard[0]):
        request_id = one.headers["x-farthing-request-id"]
        seen = dict(here.gateway.books.exchange(request_id).decisions[0].evidence)
        assert {"table", "features", "cluster", "similarity", "prompts", "p:gpt-4o"} <= set(seen)
        done = run(*where, "explain", request_id)
        assert done.exit_code == 0, done.output
        assert "decided the same way" in done.output
    told = run(*where, "route", "explain", "please translate the word of it", "--format", "json")
    assert json.loads(told.output)["rows"][0]["model"] == "gpt-4o-mini"


def test_a_conversation_is_looked_up_once_and_keeps_its_model(
    trained: tuple[Path, str], stand: Callable[..., Any]
) -> None:
    here = stand(trained[1])
    first = ask(here, "please translate the word of it")
    again = ask(here, "please translate the word of it")
    assert first.headers["x-farthing-route"] == again.headers["x-farthing-route"] == "openai/gpt-4o-mini"
    assert again.headers["x-farthing-route-reason"] == "route_sticky"


def test_without_its_embedder_or_with_another_one_the_strong_model_answers(
    trained: tuple[Path, str], stand: Callable[..., Any], tmp_path: Path
) -> None:
    home, toml = trained
    shutil.copytree(home, tmp_path / "home2")
    make_tiny_embedder(tmp_path / "other", ["other words altogether"])
    for wrong in (toml.replace(str(tmp_path / "model"), str(tmp_path / "other")), toml.replace('model"', 'gone"')):
        here = stand(wrong)
        answer = ask(here, "please translate the word of it")
        assert answer.headers["x-farthing-route"] == "openai/gpt-4o"
        assert answer.headers["x-farthing-route-reason"] == "route_unsupported"
