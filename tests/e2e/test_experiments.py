"""An experiment on a running gateway, from its start to the page that proves the saving, over HTTP."""

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from axe_playwright_python.sync_playwright import Axe
from click.testing import CliRunner, Result
from playwright.sync_api import Browser, expect

from farthing import bootstrap
from farthing.cli import main
from farthing.core.experiment import Experiment, Part, assign
from farthing.core.types import Exchange, LedgerEntry, Scope, Usage
from farthing.lab.replay import replay
from farthing.lab.replay_outcome import Outcome
from farthing.sim.server import SimServer
from farthing.testing.browsing import Visit, chromium, drawn, shots
from farthing.testing.gateway import SIM_KEY, GatewayServer, simulated_providers

CHAT = "/v1/chat/completions"
CACHE = '[[cache]]\nname = "all"\n'
TALKS = 220
Talk = list[dict[str, object]]


def talk(number: int) -> Talk:
    """A conversation's calls: some of them ask what everybody asks."""
    rng = random.Random(number)
    found: Talk = []
    for turn in range(rng.choice((1, 2, 3, 6))):
        common = rng.random() < 0.45
        text = f"Common question {rng.randrange(12)}." if common else f"Own {number}.{turn} " + "and so on " * 40
        found.append({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]})
    return found


def say(client: httpx.Client, url: str, number: int, *, secret: str = "sk-test") -> None:
    headers = {"x-farthing-session": f"talk {number}", "authorization": f"Bearer {secret}"}
    for body in talk(number):
        answer = client.post(url + CHAT, json=body, headers=headers)
        assert answer.status_code == 200, answer.text


def say_all(url: str, numbers: list[int], *, secret: str = "sk-test") -> None:
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: say(client, url, number, secret=secret), numbers))


def farthing(gateway: GatewayServer, toml: str, *words: str) -> Result:
    home = Path(gateway.settings.home)
    config = home / "farthing.toml"
    config.write_text(toml, encoding="utf-8")
    return CliRunner().invoke(main, ["--home", str(home), "--config", str(config), *words])


def noted(one: LedgerEntry | Exchange) -> dict[str, str]:
    """What the experiment's decision says of a call."""
    for decision in one.decisions:
        if decision.stage == "experiment":
            return {"arm": decision.reason, **dict(decision.evidence)}
    return {}


def known(gateway: GatewayServer, *, within_s: float = 10.0) -> float:
    """Waits until a gateway knows of an experiment; how long that took."""
    began = time.monotonic()
    while gateway.installation.services.trials.running is None:
        assert time.monotonic() - began < within_s, "the gateway does not take the experiment up"
        time.sleep(0.05)
    return time.monotonic() - began


def begin(gateway: GatewayServer, off: tuple[Part, ...], share_bp: int, **changes: object) -> Experiment:
    """An experiment that has begun already, known to the gateway."""
    now = time.time_ns() // 1_000_000
    said = {"name": "e", "off": off, "share_bp": share_bp, "salt": "s", "starts_ms": now - 60_000, **changes}
    made = msgspec.convert(said, Experiment)
    register = bootstrap.open_practice(gateway.settings)
    register.begin(made, now_ms=now)
    register.close()
    known(gateway)
    return made


class Proved(NamedTuple):
    """A finished experiment."""

    gateway: GatewayServer
    toml: str
    truth: float
    """What the treated conversations really saved, by two invoices."""


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proved]:
    with SimServer() as sim, SimServer() as other:
        toml = CACHE + simulated_providers(sim.url)
        with GatewayServer(tmp_path_factory.mktemp("proved"), toml) as gateway:
            before = {"x-farthing-session": "talk 0", "authorization": "Bearer sk-test"}
            httpx.post(gateway.url + CHAT, json=talk(0)[0], headers=before, timeout=60).raise_for_status()
            started = farthing(gateway, toml, "experiment", "start", "cache-holdout", "--holdout", "20")
            assert started.exit_code == 0, started.output
            assert known(gateway) < 5
            register = bootstrap.open_practice(gateway.settings)
            made = register.running()
            register.close()
            assert made is not None
            time.sleep(max(0.0, made.starts_ms / 1000 - time.time() + 0.1))
            say_all(gateway.url, list(range(TALKS)))
            assert gateway.quiet()
            treated = [
                number
                for number in range(1, TALKS)
                if assign(made, Scope(session=f"talk {number}"), "", made.starts_ms).arm == "treated"
            ]
            say_all(other.url, treated, secret=SIM_KEY)
            paid = sum(
                entry.charge.total or 0
                for entry in gateway.books.entries()
                if noted(entry).get("arm") == "treated" and entry.scope.session != "talk 0"
            )
            assert sim.account.invoice.total_nusd == sum(one.charge.total or 0 for one in gateway.books.entries())
            yield Proved(gateway, toml, 1 - paid / other.account.invoice.total_nusd)


def test_every_call_bears_its_arm_and_control_is_never_served_from_the_cache(proved: Proved) -> None:
    entries, exchanges = proved.gateway.books.entries(), proved.gateway.books.exchanges()
    arms: dict[str, set[str]] = {}
    for one in (*entries[1:], *exchanges[1:]):
        note = noted(one)
        assert (note["experiment"], note["unit"]) == ("cache-holdout", "session")
        assert ("off" in note) == (note["arm"] == "control")
        arms.setdefault(one.scope.session, set()).add(note["arm"])
    assert all(len(found) == 1 for found in arms.values())
    control = sum(found == {"control"} for found in arms.values())
    assert 0.12 * TALKS < control < 0.28 * TALKS
    hits = [one for one in entries if one.charge.reason == "cache_hit"]
    assert len(hits) > 50
    assert {noted(one)["arm"] for one in hits} == {"treated"}
    assert not any(one.stage == "cache" for entry in entries if noted(entry).get("arm") == "control"
                   for one in entry.decisions)  # fmt: skip


def test_no_answer_that_control_paid_for_is_given_to_the_treated(proved: Proved) -> None:
    entries = {one.id: one for one in proved.gateway.books.entries()}
    for entry in entries.values():
        if entry.charge.reason == "cache_hit":
            (source,) = (value for one in entry.decisions for name, value in one.evidence if name == "source")
            assert noted(entries[source]).get("arm") != "control"


def test_the_measured_interval_covers_what_two_invoices_say(proved: Proved) -> None:
    said = farthing(proved.gateway, proved.toml, "experiment", "status", "--format", "json")
    (row,) = json.loads(said.stdout)["rows"]
    assert 0.1 < proved.truth < 0.6
    assert float(row["low_percent"]) / 100 < proved.truth < float(row["high_percent"]) / 100
    assert row["control"] + row["treated"] == TALKS - 1
    assert row["quality"] == "holds"


def test_the_report_in_each_form_and_its_own_command_makes_it_again(proved: Proved, tmp_path: Path) -> None:
    def report(*words: str) -> str:
        result = farthing(proved.gateway, proved.toml, "savings", "report", *words)
        assert result.exit_code == 0, result.output
        return result.stdout

    made = json.loads(report("--experiment", "cache-holdout", "--format", "json"))
    again = json.loads(report(*made["command"].split()[3:], "--format", "json"))
    assert (again["fingerprint"], again["measured"]) == (made["fingerprint"], made["measured"])
    hits = sum(one.baseline or 0 for one in proved.gateway.books.entries() if one.charge.reason == "cache_hit")
    assert sum(row["amount_nusd"] for row in made["exact"][0]["rows"]) == hits
    assert made["measured"][0]["rows"][0]["saved_nusd"] == pytest.approx(hits, rel=0.05)
    assert "# Proof of savings" in report("--format", "md")
    page = tmp_path / "page.html"
    said = report("--experiment", "cache-holdout", "--format", "html", "--out", str(page))
    assert made["headline"]["text"] in said
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps(made), encoding="utf-8")
    assert farthing(proved.gateway, proved.toml, "savings", "verify", str(kept)).exit_code == 0
    kept.write_text(json.dumps(made | {"fingerprint": "0" * 24}), encoding="utf-8")
    assert farthing(proved.gateway, proved.toml, "savings", "verify", str(kept)).exit_code == 1


def worked_out(gateway: GatewayServer, path: str) -> dict[str, Any]:
    """A page for programs, once it is worked out."""
    due = time.monotonic() + 60
    while time.monotonic() < due:
        answer = httpx.get(gateway.url + path, timeout=60)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return dict(answer.json())
        time.sleep(0.5)
    raise AssertionError(f"{path} is still being worked out")


def test_pages_and_api_show_the_same(proved: Proved) -> None:
    said = farthing(proved.gateway, proved.toml, "experiment", "status", "--format", "json")
    (row,) = json.loads(said.stdout)["rows"]
    page, api = (worked_out(proved.gateway, path) for path in ("/experiments.json", "/api/v1/proof"))
    assert [one["experiment"] for one in page["tables"]["experiments"]["rows"]] == ["cache-holdout"]
    treated = page["tables"]["arms"]["rows"][1]
    assert (treated["arm"], treated["conversations"]) == ("treated", row["treated"])
    (measured,) = api["tables"]["measured"]["rows"]
    assert (measured["control"], measured["saving_percent"]) == (row["control"], row["saving_percent"])
    assert httpx.get(f"{proved.gateway.url}/experiments?show=none", timeout=60).status_code == 404


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390)])
def test_the_pages_and_the_report_are_accessible_and_fit(
    proved: Proved, browser: Browser, theme: str, width: int
) -> None:
    for path in ("/experiments.json", "/proof.json"):
        worked_out(proved.gateway, path)
    report = farthing(proved.gateway, proved.toml, "savings", "report", "--format", "html").stdout
    found: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    visitor = Visit(context, proved.gateway.url)
    for name in ("experiments", "proof", "report"):
        if name == "report":
            visitor.page.goto("about:blank")
            visitor.page.set_content(report)
        else:
            drawn(visitor.open(f"/{name}"))
        visitor.page.screenshot(path=shots() / f"{name}-{theme}-{width}.png", full_page=True)
        violations = Axe().run(visitor.page).response["violations"]
        violations = [one for one in violations if one["impact"] in ("serious", "critical")]
        found += [f"{name}: {one['id']} {one['nodes'][0]['html'][:150]}" for one in violations]
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        found += [f"{name}: too wide"] if visitor.page.evaluate(wide) > 0 else []
    context.close()
    assert found == []
    assert visitor.complaints == []


def test_an_experiment_begins_and_ends_in_the_browser(
    stand: Callable[..., tuple[SimServer, GatewayServer]], browser: Browser
) -> None:
    _, gateway = stand(CACHE)
    visitor = Visit(browser.new_context(), gateway.url)
    page = visitor.open("/experiments")
    page.get_by_text("New experiment").click()
    page.get_by_label("Name").fill("Not this")
    page.get_by_label("Control, percent").fill("95")
    page.get_by_role("button", name="Begin").click()
    problem = page.get_by_role("alert").inner_text()
    assert "small letters" in problem
    assert "95 %" in problem
    visitor.open("/experiments")
    page.get_by_text("New experiment").click()
    page.get_by_label("Name").fill("by-hand")
    page.get_by_label("Control, percent").fill("20")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("link", name="by-hand", exact=True)).to_be_visible()
    assert known(gateway) < 5
    page.get_by_role("button", name="Stop by-hand").click()
    expect(page.get_by_role("cell", name="stopped", exact=True)).to_be_visible()
    register = bootstrap.open_practice(gateway.settings)
    assert register.running() is None
    assert [one.after for one in register.changes(subject="experiment")] == ["stopped", "started"]
    register.close()


def test_a_replay_under_the_policy_that_served_gives_every_entry_again(
    stand: Callable[..., tuple[SimServer, GatewayServer]],
) -> None:
    _, gateway = stand(CACHE)
    begin(gateway, ("caches",), 5_000)
    with httpx.Client(timeout=60) as client:
        for number in range(24):  # one after the other: who waits for whose answer is another test's
            say(client, gateway.url, number)
    assert gateway.quiet()
    entries: dict[str, list[LedgerEntry]] = {}
    for entry in gateway.books.entries():
        entries.setdefault(entry.request_id, []).append(msgspec.structs.replace(entry, booked_at_ms=0))
    exchanges = gateway.books.exchanges()
    found: list[Outcome] = []
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(gateway.settings, loop, provider, log),
        found.append,
        estimate=lambda logged, target: Usage(),
        entries_of=lambda request_id: entries.get(request_id, ()),
        longest_ms=max(one.latency_ms for one in exchanges),
    )
    assert len(found) == len(exchanges) > 40
    assert {noted(one)["arm"] for held in entries.values() for one in held} == {"control", "treated"}
    assert any(one.charge.reason == "cache_hit" for held in entries.values() for one in held)
    for one in found:
        again = [msgspec.structs.replace(entry, booked_at_ms=0) for entry in one.entries]
        assert again == entries[one.logged.request.id]


# -- workers, restarts, the end


def test_a_second_worker_sees_it_and_a_restart_keeps_it(tmp_path: Path) -> None:
    with SimServer() as sim:
        toml = CACHE + simulated_providers(sim.url)
        with GatewayServer(tmp_path, toml) as one, GatewayServer(tmp_path, toml) as two:
            begin(one, ("caches",), 9_000)
            assert known(two) < 5
            for number in range(8):
                for gateway in (one, two):
                    say_all(gateway.url, [number])
            arms: dict[str, set[str]] = {}
            for entry in one.books.entries():
                arms.setdefault(entry.scope.session, set()).add(noted(entry)["arm"])
            assert all(len(found) == 1 for found in arms.values())
            assert {"control"} in arms.values()
            before = len(one.books.entries())
        with GatewayServer(tmp_path, toml) as again:
            say_all(again.url, [0])
            later = again.books.entries()[before:]
            assert later
            assert {noted(entry)["arm"] for entry in later} == arms["talk 0"]


def test_a_stopped_experiment_is_over_for_running_gateways(
    stand: Callable[..., tuple[SimServer, GatewayServer]],
) -> None:
    sim, gateway = stand(CACHE)
    toml = CACHE + simulated_providers(sim.url)
    begin(gateway, ("caches",), 9_000)
    stopped = farthing(gateway, toml, "experiment", "stop", "e")
    assert stopped.exit_code == 0, stopped.output
    due = time.monotonic() + 60
    while gateway.installation.services.trials.running is not None:
        assert time.monotonic() < due
        time.sleep(0.05)
    for _ in range(2):
        say_all(gateway.url, [4])
    assert not any(noted(one) for one in gateway.books.entries())
    assert any(one.charge.reason == "cache_hit" for one in gateway.books.entries())
    assert farthing(gateway, toml, "experiment", "stop").exit_code == 1


# -- what control does without


def ask_as(gateway: GatewayServer, session: str, body: dict[str, object], **headers: str) -> httpx.Response:
    return httpx.post(
        gateway.url + CHAT,
        json=body,
        headers={"authorization": "Bearer k", "x-farthing-session": session, **headers},
        timeout=60,
    )


def sessions(made: Experiment) -> dict[str, str]:
    """One conversation of each arm."""
    found: dict[str, str] = {}
    for number in range(200):
        arm = assign(made, Scope(session=f"s{number}"), "", made.starts_ms).arm
        found.setdefault(arm, f"s{number}")
    return found


def test_control_does_without_routes_and_an_alias_goes_to_the_strong_model(
    stand: Callable[..., tuple[SimServer, GatewayServer]],
) -> None:
    routes = (
        '[[routes]]\nname = "all"\nmodels = ["gpt-4o", "auto"]\nby = ["length"]\n'
        'tiers = { simple = "gpt-4o-mini", complex = "gpt-4o" }\n'
    )
    _, gateway = stand(routes)
    by = sessions(begin(gateway, ("routes",), 5_000))
    models = {}
    for arm, session in by.items():
        for asked in ("gpt-4o", "auto"):
            answer = ask_as(gateway, session, {"model": asked, "messages": [{"role": "user", "content": "Hi"}]})
            assert answer.status_code == 200, answer.text
            models[arm, asked] = gateway.books.settled(len(models) + 1)[-1]
    assert [models["treated", asked].model_requested for asked in ("gpt-4o", "auto")] == ["gpt-4o", "auto"]
    for asked in ("gpt-4o", "auto"):
        treated, control = models["treated", asked], models["control", asked]
        assert "mini" in treated.model
        assert "mini" not in control.model
        assert control.baseline == control.charge.total
        assert treated.baseline > treated.charge.total


def test_a_roll_out_learns_from_the_treated_only(stand: Callable[..., tuple[SimServer, GatewayServer]]) -> None:
    routes = (
        '[[routes]]\nname = "all"\nmodels = ["gpt-4o"]\nby = ["length"]\n'
        'tiers = { simple = "gpt-4o-mini", complex = "gpt-4o" }\nrollout = { shadow_share = 1.0, holdout = 0.5 }\n'
    )
    _, gateway = stand(routes)
    by = sessions(begin(gateway, ("routes",), 5_000))
    for arm in ("control", "treated"):
        ask_as(gateway, by[arm], {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]})
    entries = gateway.books.settled(3)
    levers = [one for one in entries if one.charge.reason.startswith("lever:")]
    assert {one.scope.session for one in levers} == {by["treated"]}
    control = next(one for one in entries if one.scope.session == by["control"])
    assert not any(one.stage == "route" for one in control.decisions)


def test_a_gateway_that_has_nothing_to_test_looks_at_no_register(
    stand: Callable[..., tuple[SimServer, GatewayServer]],
) -> None:
    assert stand("")[1].installation.following is None
    assert stand(CACHE)[1].installation.following is not None


def test_control_does_without_levers(stand: Callable[..., tuple[SimServer, GatewayServer]]) -> None:
    _, gateway = stand('[[levers]]\nkind = "cap_output"\ntokens = 5\n')
    by = sessions(begin(gateway, ("levers",), 5_000))
    for arm in ("treated", "control"):
        ask_as(gateway, by[arm], {"model": "gpt-4o", "messages": [{"role": "user", "content": "Tell me a lot."}]})
    treated, control = gateway.books.settled(2)
    assert any(one.stage == "levers" for one in treated.decisions)
    assert not any(one.stage == "levers" for one in control.decisions)
    assert dict(treated.usage.parts[0].lines)["output"] <= 5 < dict(control.usage.parts[0].lines)["output"]


def test_a_call_that_wants_the_cache_only_is_told_why_it_gets_nothing(
    stand: Callable[..., tuple[SimServer, GatewayServer]],
) -> None:
    sim, gateway = stand(CACHE)
    by = sessions(begin(gateway, ("caches",), 5_000))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    assert ask_as(gateway, by["treated"], body).status_code == 200
    only = {"x-farthing-cache": "only-if-cached"}
    assert ask_as(gateway, by["treated"], body, **only).status_code == 200
    refused = ask_as(gateway, by["control"], body, **only)
    assert refused.status_code == 504
    assert "control arm of the experiment 'e'" in refused.text
    assert len(sim.account.invoice.lines) == 1
    assert noted(gateway.books.exchange(refused.headers.get("x-request-id", "") or last(gateway)))["arm"] == "control"


def last(gateway: GatewayServer) -> str:
    due = time.monotonic() + 60
    while time.monotonic() < due:
        refused = [one.request_id for one in gateway.books.exchanges() if one.outcome == "refused"]
        if refused:
            return refused[-1]
        time.sleep(0.05)
    raise AssertionError("the refusal was not logged")
