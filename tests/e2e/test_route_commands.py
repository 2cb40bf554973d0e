"""``farthing route``, ``eval`` and ``explain`` on files and on a gateway in front of the simulator."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from farthing.adapters.rollouts_sqlite import SqliteRollouts
from farthing.cli import main
from farthing.core.route_decide import read_artefact
from farthing.lab.evals import Case, Variant, grade, read_cases
from farthing.lab.evals_plot import png
from farthing.lab.evals_table import wilson
from farthing.lab.route_data import write_labels
from farthing.ports.audit import Changed
from farthing.testing.labels import labelled

ROUTE = """
[exchange_log]
text = "full"
[[routes]]
name = "learned"
models = ["gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = ["tag", "learned"]
table = "learned.json"
"""


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labels and the router trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    write_labels(labelled(1_000), folder / "labels.jsonl")
    write_labels(labelled(200, seed=5), folder / "fresh.jsonl")
    done = run(
        "route", "train", str(folder / "labels.jsonl"), "--strong", "gpt-4o", "--out", str(folder / "learned.json")
    )
    assert done.exit_code == 0, done.output
    assert "holds" in done.output
    return folder


def test_training_writes_a_router_with_its_card_and_the_gates_words(trained: Path) -> None:
    artefact = read_artefact((trained / "learned.json").read_bytes(), "learned.json")
    assert dict(artefact.thresholds.gains).keys() == {"gpt-4o-mini"}
    assert artefact.table.card["labels"] == "500"
    assert any("holds" in line for line in artefact.evidence)


def test_eval_and_simulate_judge_it_beside_the_baselines(trained: Path) -> None:
    both = (
        "--cheap",
        "gpt-4o-mini",
        "--strong",
        "gpt-4o",
        "--table",
        str(trained / "learned.json"),
        "--format",
        "json",
    )
    rows = json.loads(run("route", "eval", str(trained / "fresh.jsonl"), *both).output)["rows"]
    apgr = {row["router"]: float(row["apgr"]) for row in rows}
    assert apgr["learned.json"] > 0.75 > apgr["heuristic"]
    rows = json.loads(run("route", "simulate", str(trained / "fresh.jsonl"), *both).output)["rows"]
    assert len(rows) == 11
    assert run("route", "eval", str(trained / "fresh.jsonl"), "--cheap", "x", "--strong", "gpt-4o").exit_code != 0


def test_a_live_router_decides_and_explain_decides_the_same_again(
    trained: Path, stand: Callable[..., Any], tmp_path: Path
) -> None:
    home = tmp_path / "home1"
    home.mkdir()
    (home / "learned.json").write_bytes((trained / "learned.json").read_bytes())
    here = stand(ROUTE)
    ids = []
    for text in ("please translate the word", "prove the lemma and derive the bound of the integral"):
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
        answer = httpx.post(f"{here.gateway.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.headers["x-farthing-route-reason"] == "route_learned"
        ids.append((answer.headers["x-farthing-request-id"], answer.headers["x-farthing-route"]))
    assert [route for _, route in ids] == ["openai/gpt-4o-mini", "openai/gpt-4o"]
    config = tmp_path / "farthing.toml"
    config.write_text(ROUTE)
    for request_id, _ in ids:
        here.gateway.books.exchange(request_id)
        done = run("--home", str(home), "--config", str(config), "explain", request_id)
        assert done.exit_code == 0, done.output
        assert "decided the same way" in done.output
    artefact = read_artefact((home / "learned.json").read_bytes(), "")
    gains = tuple((model, -1.0) for model, _ in artefact.thresholds.gains)
    changed = msgspec.structs.replace(artefact, thresholds=msgspec.structs.replace(artefact.thresholds, gains=gains))
    (home / "learned.json").write_bytes(msgspec.json.encode(changed))
    done = run("--home", str(home), "--config", str(config), "explain", ids[0][0])
    assert done.exit_code == 1
    assert "differently" in done.output


def test_ls_and_explain_name_pools_and_choices(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "learned.json").write_bytes((trained / "learned.json").read_bytes())
    config = tmp_path / "farthing.toml"
    config.write_text(ROUTE)
    where = ("--home", str(tmp_path), "--config", str(config))
    listed = run(*where, "route", "ls")
    assert listed.exit_code == 0, listed.output
    assert "in the pool" in listed.output
    told = run(*where, "route", "explain", "please translate the word", "--model", "gpt-4o", "--format", "json")
    assert json.loads(told.output)["rows"][0]["model"] == "gpt-4o-mini"
    assert run(*where, "route", "explain", "x", "--model", "nobody").exit_code == 1


def test_a_route_in_roll_out_reaches_only_its_share(trained: Path, stand: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home1"
    home.mkdir()
    (home / "learned.json").write_bytes((trained / "learned.json").read_bytes())
    with closing(SqliteRollouts(home / "farthing.db")) as rollouts:
        rollouts.change(
            "learned", lambda state: msgspec.structs.replace(state, stage="canary", step=1),
            lambda state: Changed(at_ms=1, subject="route"),
        )  # fmt: skip
    here = stand(ROUTE + "rollout = {margin = 0.02}\n")
    reasons = []
    with httpx.Client(timeout=60) as client:
        for number in range(60):
            text = f"please translate the word {number}"
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
            answer = client.post(f"{here.gateway.url}/v1/chat/completions", json=body)
            reasons.append(answer.headers["x-farthing-route-reason"])
    assert 4 <= reasons.count("route_learned") <= 30
    assert reasons.count("route_control") > 25


def test_foreign_traffic_suspends_a_live_route_and_the_decision_says_so(
    trained: Path, stand: Callable[..., Any], tmp_path: Path
) -> None:
    home = tmp_path / "home1"
    home.mkdir()
    (home / "learned.json").write_bytes((trained / "learned.json").read_bytes())
    with closing(SqliteRollouts(home / "farthing.db")) as rollouts:
        rollouts.change(
            "learned", lambda state: msgspec.structs.replace(state, stage="live", step=2),
            lambda state: Changed(at_ms=1, subject="route"),
        )  # fmt: skip
    here = stand(ROUTE + "rollout = {shadow_share = 0.0, holdout = 0.0}\n")
    routing, steward = here.gateway.installation.services.routing, here.gateway.installation.steward
    with httpx.Client(timeout=60) as client:

        def ask(text: str) -> httpx.Response:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
            return client.post(f"{here.gateway.url}/v1/chat/completions", json=body)

        easy = "please translate the word of this city"
        assert ask(easy).headers["x-farthing-route"] == "openai/gpt-4o-mini"
        for number in range(520):  # only hard prompts now: nothing that the labels were like
            ask(f"prove the lemma and derive bound {number} of the integral")
        here.gateway.run(steward.round())
        here.gateway.run(steward.round())
        assert routing.state("learned").frozen.startswith("input_drift")
        answer = ask(easy)
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o"
    assert answer.headers["x-farthing-route-reason"] == "route_drift"
    decision = here.gateway.books.exchange(answer.headers["x-farthing-request-id"]).decisions[0]
    assert dict(decision.evidence)["frozen"].startswith("input_drift")


def test_an_eval_set_runs_across_models_and_variants(stand: Callable[..., Any], tmp_path: Path) -> None:
    here = stand()
    cases = tmp_path / "cases.jsonl"
    lines = [
        {
            "id": str(number),
            "prompt": f"Say something about harbour {number}",
            "context": "Ships.",
            "pattern": "[a-z]",
        }
        for number in range(6)
    ]
    cases.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "rag.toml").write_text('name = "with context"\ntemplate = "{context} {prompt}"\n')
    (tmp_path / "plain.toml").write_text('name = "plain"\n')
    done = run(
        "eval", str(cases), "--url", f"{here.gateway.url}/v1", "--model", "gpt-4o", "--model", "gpt-4o-mini",
        "--variant", str(tmp_path / "plain.toml"), "--variant", str(tmp_path / "rag.toml"), "--format", "json",
        "--out", str(tmp_path / "labels.jsonl"), "--html", str(tmp_path / "p.html"), "--png", str(tmp_path / "p.png"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)["rows"]
    assert [row["model"] for row in rows] == [
        "gpt-4o", "gpt-4o-mini", "gpt-4o · with context", "gpt-4o-mini · with context",
    ]  # fmt: skip
    booked = sum(entry.charge.total for entry in here.gateway.books.settled(24))
    assert len(here.gateway.books.entries()) == 24
    assert rows[0]["verdict"] == "reference"
    assert "evidence" in rows[1]["verdict"] or "holds" in rows[1]["verdict"]
    assert booked > 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "gpt-4o-mini" in (tmp_path / "p.html").read_text()
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 6


def test_answers_are_graded_by_value_words_number_and_schema() -> None:
    assert grade(Case(prompt="p", reference=18), "18.0") == 1.0
    assert grade(Case(prompt="p", reference="Paris"), "paris.") == 1.0
    assert grade(Case(prompt="p", reference="Paris"), "London") == 0.0
    assert grade(Case(prompt="p", reference="Paris", check="contains"), "It is  PARIS, I think") == 1.0
    assert grade(Case(prompt="p", reference="1,200", check="numeric"), "so it is 1200.") == 1.0
    assert grade(Case(prompt="p", reference="3", check="numeric"), "none") == 0.0
    assert grade(Case(prompt="p", schema={"type": "array"}), "{}") == 0.0
    assert grade(Case(prompt="p", judge="is it kind?"), "yes") is None


def test_a_wrong_eval_set_is_told_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(
        '{"prompt": "a"}\nnot json\n{"reference": "b"}\n{"prompt": "c", "reference": "d", "check": "??"}\n'
    )
    done = run("eval", str(path), "--model", "a")
    assert done.exit_code == 2
    for line in ("line 1", "line 2", "line 3", "line 4"):
        assert line in done.output
    good = tmp_path / "good.jsonl"
    good.write_text('{"prompt": "a", "reference": 1}\n')
    assert read_cases(good)[0].id == "1"
    assert Variant().template == "{prompt}"


def test_wilson_is_the_interval_of_the_books() -> None:
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert png([]).startswith(b"\x89PNG")
