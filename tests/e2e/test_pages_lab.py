"""What people do on the lab's pages: try an opportunity, replay the past, compare a bill, plan GPUs, read routes."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, expect

from farthing import bootstrap
from farthing.cli import main
from farthing.testing import months
from farthing.testing.browsing import Visit, chromium, drawn
from farthing.testing.gateway import GatewayProcess

TOML = """
[[providers]]
name = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "SIM_KEY"

[[providers]]
name = "anthropic"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "SIM_KEY"

[[routes]]
name = "answers"
models = ["gpt-4o"]
match = { feature = "answer" }
cost_usd_max = "0.01"
tiers = { simple = "gpt-4-turbo", medium = "gpt-4o-mini", complex = "gpt-4o" }
by = ["tag", "length"]
rollout = { margin = 0.02 }
"""
MILLION_USD = {"gpt-4o-mini": (150, 600), "gpt-4o": (2500, 10_000), "gpt-4.1-nano": (100, 400)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway with a configuration file and a company's last months."""
    server = GatewayProcess(tmp_path_factory.mktemp("lab") / "home", TOML)
    months.fill(server.settings, int(time.time() * 1000))
    with server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def visit(browser: Browser, gateway: GatewayProcess) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visitor = Visit(context, gateway.url)
    visitor.page.set_default_timeout(60_000)
    yield visitor
    context.close()
    assert visitor.complaints == []


def settled(gateway: GatewayProcess, path: str, **more: str) -> dict[str, dict[str, dict[str, object]]]:
    """A page's JSON once it is worked out."""
    due = time.monotonic() + 90
    while time.monotonic() < due:
        answer = httpx.get(gateway.url + path, params=more or None, timeout=60)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return answer.json()
        assert answer.headers["retry-after"] == "2"
        time.sleep(0.3)
    raise AssertionError(f"{path} is still being worked out")


def command(gateway: GatewayProcess, *words: str) -> str:
    config = str(gateway.home / "farthing.toml")
    done = CliRunner().invoke(main, ["--home", str(gateway.home), "--config", config, *words])
    assert done.exit_code in (0, 1), done.output
    return done.stdout


def test_an_opportunity_leads_to_its_command_and_is_written_and_taken_back(
    visit: Visit, gateway: GatewayProcess
) -> None:
    file = gateway.home / "farthing.toml"
    before = file.read_text(encoding="utf-8")
    page = drawn(visit.open("/opportunities"))
    page.get_by_role("link", name="provider_caching").click()
    expect(page.locator("pre.command")).to_have_text('farthing optimize --apply "provider_caching"')
    expect(page.get_by_text('+kind = "cache_breakpoints"')).to_be_visible()
    shown = page.locator("pre.receipt").inner_text()
    said = command(gateway, "optimize", "--apply", "provider_caching", "--dry-run")
    assert [line for line in shown.splitlines() if line[:1] == "+"][1:] == [
        line for line in said.splitlines() if line[:1] == "+"
    ][1:]

    page.get_by_role("button", name="Write this to farthing.toml").click()
    drawn(page)
    assert file.read_text(encoding="utf-8").endswith('[[levers]]\nkind = "cache_breakpoints"\nttl = "5m"\n')
    expect(page.get_by_text("Applied: provider_caching")).to_be_visible()
    assert "provider_caching applied in the dashboard" in command(gateway, "audit")
    page.get_by_role("button", name="Take it back").click()
    drawn(page)
    assert file.read_text(encoding="utf-8") == before
    expect(page.get_by_text("Applied: provider_caching")).to_have_count(0)


def test_the_page_and_the_command_find_the_same_opportunities_and_misses(gateway: GatewayProcess) -> None:
    told = json.loads(command(gateway, "optimize", "--top", "50", "--format", "json", "--since", "2026-01-01"))[
        "rows"
    ]
    same = settled(gateway, "/opportunities.json", since="2026-01-01")["tables"]["opportunities"]["rows"]
    assert [(row["opportunity"], row["requests"]) for row in same] == [
        (row["opportunity"], row["requests"]) for row in told
    ]
    doctor = settled(gateway, "/doctor.json", since="2026-01-01")["tables"]
    causes = json.loads(command(gateway, "cache", "doctor", "--since", "2026-01-01", "--format", "json"))["rows"]
    assert [(row["cause"], row["usd_nusd"]) for row in doctor["causes"]["rows"]] == [
        (row["cause"], row["usd_nusd"]) for row in causes
    ]
    assert {"no_breakpoint", "ttl_lapsed"} <= {row["cause"] for row in causes}
    assert any(row["after"] == "section 1 (system)" for row in doctor["places"]["rows"])
    assert [row["ttl"] for row in doctor["ttl"]["rows"]] == ["5m", "1h"]


def test_a_replay_survives_a_reload_and_says_what_each_section_saves(visit: Visit, gateway: GatewayProcess) -> None:
    page = drawn(visit.open("/opportunities?show=provider_caching&since=7d"))
    page.get_by_role("link", name="Replay the past with it").click()
    policy = page.get_by_label("The policy to try, as sections of farthing.toml")
    expect(policy).to_have_value(re.compile(r'kind = "cache_breakpoints"'))
    text = policy.input_value()
    assert "api_key_env" not in text
    policy.fill(f'{text}\n[[cache]]\nname = "repeated"\nttl = "1h"\n')
    page.get_by_label("Call it").fill("breakpoints and a cache")
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_role("heading", name="breakpoints and a cache", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name=re.compile("^breakpoints and a cache: "))).to_be_visible()
    visit.open("/replay")
    expect(page.get_by_role("row", name=re.compile("breakpoints and a cache running"))).to_be_visible()
    page.get_by_role("link", name="breakpoints and a cache").click()
    page.wait_for_selector("main:not([data-pending])", state="attached", timeout=120_000)

    drawn(page)
    expect(page.get_by_role("table", name=re.compile("^Replay of "))).to_contain_text("exact")
    expect(page.locator("a[href^='/requests/req-']").first).to_be_visible()
    found = settled(gateway, page.url.removeprefix(gateway.url) + ".json")
    bill, sections = found["tables"]["bills"]["total"], found["tables"]["sections"]
    saved = bill["before_nusd"] - bill["after_nusd"]
    assert saved > 0
    assert [row["section"] for row in sections["rows"]] == ["levers", "cache"]
    assert sum(row["shapley_nusd"] for row in sections["rows"]) == saved
    assert found["figures"]["saved"]["value"] == saved


def test_one_replay_runs_at_a_time_and_a_cancelled_one_ends(visit: Visit, gateway: GatewayProcess) -> None:
    page = visit.open("/replay?since=all")
    start_one(page, "first")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    here = page.url
    visit.open("/replay?since=all")
    start_one(page, "second")
    expect(page.get_by_role("alert")).to_contain_text("running already")
    page.goto(here)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("It was cancelled")).to_be_visible()
    visit.open("/replay")
    page.get_by_role("button", name="Delete first").click()
    expect(page.get_by_role("row", name=re.compile("^first"))).to_have_count(0)


def start_one(page: Page, title: str) -> None:
    page.get_by_label("The policy to try").fill('[[cache]]\nname = "all"\n[[levers]]\nkind = "cache_breakpoints"\n')
    page.get_by_label("Call it").fill(title)
    page.get_by_label("Shares of its sections").select_option("every order")
    page.get_by_role("button", name="Replay", exact=True).click()


def test_a_policy_that_is_none_is_refused_with_what_is_wrong_in_it(visit: Visit) -> None:
    page = visit.open("/replay")
    page.get_by_label("The policy to try").fill('[[cache]]\nname = "x"\nttl = "soon"\n')
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("ttl")


def bill(gateway: GatewayProcess, since: str, until: str) -> str:
    """What a provider would bill for the ledger's calls, a price changed and a model added that never came here."""
    sums: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for entry in bootstrap.open_ledger(gateway.settings).entries():
        day = f"{datetime.fromtimestamp(entry.received_at_ms / 1000, UTC):%Y-%m-%d}"
        if entry.provider != "openai" or not since <= day < until:
            continue
        for unit, tokens in entry.usage.parts[0].lines:
            one = sums[(day, entry.model, unit)]
            one[0] += tokens
            one[1] += tokens * MILLION_USD[entry.model][unit == "output"]
    rows = ["Date,Model,Class,Tokens,Cost"]
    for (day, model, unit), (tokens, amount) in sorted(sums.items()):
        billed = amount * 6 // 5 if model == "gpt-4o" else amount
        rows.append(f"{day},{model},{unit},{tokens},{billed // 10**9}.{billed % 10**9:09}")
    return "\n".join([*rows, f"{since},gpt-5-mini,input,120000,0.03", ""])


def test_an_uploaded_bill_is_compared_and_every_gap_has_its_name(visit: Visit, gateway: GatewayProcess) -> None:
    days = [time.strftime("%Y-%m-%d", time.gmtime(time.time() - back * 86_400)) for back in (10, 3)]
    text = bill(gateway, *days)
    page = visit.open("/reconcile")
    page.get_by_label("Whose").select_option("csv")
    page.get_by_label("File").set_input_files({"name": "bill.csv", "mimeType": "text/csv", "buffer": text.encode()})
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("the column of the day is not given")).to_be_visible(timeout=30_000)
    name = re.search(r"bill=([\w.-]+)", page.url)
    assert name
    columns = "day=Date,model=Model,class=Class,quantity=Tokens,amount=Cost"
    visit.open(f"/reconcile?bill={name[1]}&map={columns}&where=provider%3Dopenai&since={days[0]}&until={days[1]}")
    drawn(page)
    expect(page.locator("#tile-unnamed .value")).to_have_text("0.00 %")
    expect(page.get_by_role("row", name=re.compile("^past the gateway"))).to_contain_text("gpt-5-mini")

    path = gateway.home / "bills" / name[1]
    assert path.read_text(encoding="utf-8") == text
    words = ["reconcile", "--provider", "csv", "--file", str(path), "--since", days[0], "--until", days[1],
             "--where", "provider=openai", "--format", "json"]  # fmt: skip
    for pair in columns.split(","):
        words += ["--map", pair]
    told = json.loads(command(gateway, *words))
    here = settled(gateway, page.url.removeprefix(gateway.url).replace("/reconcile?", "/reconcile.json?"))
    assert here["tables"]["gap"]["rows"] == told["rows"]
    assert {row["cause"] for row in here["tables"]["causes"]["rows"]} >= {"past the gateway", "another price"}


def test_the_plan_of_own_gpus_follows_its_form_and_agrees_with_the_command(
    visit: Visit, gateway: GatewayProcess
) -> None:
    page = drawn(visit.open("/capacity?model=llama-3.1-8b&gpu=a10g&weights=int4&input=1000&output=500"))
    before = page.locator("#tile-own .value").inner_text()
    page.get_by_label("USD per GPU-hour").fill("0.43")
    page.wait_for_url(re.compile(r"usd=0\.43"))
    expect(page.locator("#tile-own .value")).not_to_have_text(before)
    page.get_by_label("GPUs of one replica").fill("0")
    expect(page.get_by_text("1 to 64")).to_be_visible()

    found = settled(gateway, "/capacity.json?model=llama-3.1-8b&gpu=a10g&weights=int4&input=1000&output=500")
    told = json.loads(
        command(gateway, "capacity", "--model", "llama-3.1-8b", "--gpu", "a10g", "--weights", "int4",
                "--input", "1000", "--output", "500", "--requests", "10000", "--instead-of", "gpt-4o-mini",
                "--format", "json")
    )  # fmt: skip
    assert found["tables"]["beside"]["rows"] == told[0]["rows"]
    assert found["tables"]["figures"]["rows"] == told[1]["rows"]


def test_routes_show_what_is_left_out_of_their_pools_and_why(visit: Visit, gateway: GatewayProcess) -> None:
    page = drawn(visit.open("/routing"))
    left_out = page.get_by_role("row", name=re.compile("gpt-4-turbo"))
    expect(left_out).to_contain_text("left out: a typical call costs more than the route allows")
    expect(page.get_by_role("table", name="Roll-outs")).to_contain_text("shadow")
    told = json.loads(command(gateway, "route", "ls", "--format", "json"))["rows"]
    assert settled(gateway, "/routing.json")["tables"]["routes"]["rows"] == told


def test_the_lab_is_usable_without_scripts(browser: Browser, gateway: GatewayProcess) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    due = time.monotonic() + 60
    page.goto(f"{gateway.url}/doctor?since=7d")
    while page.get_by_role("link", name="Look again").count():
        assert time.monotonic() < due
        page.get_by_role("link", name="Look again").click()
    expect(page.get_by_role("table", name="Where breakpoints belong")).to_be_visible()
    page.goto(f"{gateway.url}/capacity")
    page.get_by_label("Requests a day").fill("2000000")
    page.get_by_role("button", name="Work out").click()
    expect(page.locator("#tile-own")).to_be_visible()
    expect(page.get_by_role("table", name="A month by volume")).to_be_visible()
    context.close()
