"""What people do in the dashboard beside looking: try a rule, expect a day, report outcomes, follow what is new."""

import csv
import io
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from farthing import bootstrap
from farthing.core.types import Scope
from farthing.testing import months
from farthing.testing.browsing import Visit, chromium
from farthing.testing.gateway import GatewayServer
from farthing.testing.records import an_entry

PROVIDERS = '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'
BUDGETS = (
    '[[budgets]]\nname = "research-day"\nper = "day"\nusd = "2"\nmatch = {team = "research"}\n'
    '[[budgets]]\nname = "company-month"\nper = "month"\nusd = "40"\n'
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with GatewayServer(tmp_path_factory.mktemp("practice"), PROVIDERS + BUDGETS) as server:
        months.fill(server.settings, int(time.time() * 1000))
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def visit(browser: Browser, gateway: GatewayServer) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    visitor = Visit(context, gateway.url)
    yield visitor
    context.close()
    assert visitor.complaints == []


def book(gateway: GatewayServer, name: str, **fields: object) -> None:
    entry = an_entry(name, 10**9, received_at_ms=int(time.time() * 1000), **fields)
    bootstrap.open_importer(gateway.settings).import_batch([entry], [months.exchange(entry)])


def test_a_rule_is_tried_on_the_past_and_then_saved(visit: Visit) -> None:
    page = visit.open("/anomalies")
    page.get_by_role("link", name="The rule, and its back-test").click()
    expect(page.get_by_text("This is the rule that applies.")).to_be_visible()
    page.get_by_label("Score of one day").fill("2.4")
    page.get_by_label("At least, in USD").fill("0.05")
    page.get_by_role("button", name="Back-test").click()
    expect(page).to_have_url(re.compile(r"z=2\.4.*min_usd=0\.05"))
    assert int(page.locator("#tile-tried .value").inner_text()) >= int(
        page.locator("#tile-applies .value").inner_text()
    )
    expect(page.locator("#tile-false .value")).to_have_text(re.compile(r"about \d|fewer than"))
    page.get_by_role("button", name="Save as the rule").click()
    expect(page.get_by_text("This is the rule that applies.")).to_be_visible()
    expect(page.get_by_label("Score of one day")).to_have_value("2.4")

    changes = visit.open("/governance?subject=anomaly_rule")
    expect(changes.get_by_role("cell", name="z 3.6 to 2.4; impact_min 1.0 to 0.05")).to_be_visible()


def test_an_incident_opens_with_its_causes_and_a_day_that_was_expected_is_none(visit: Visit) -> None:
    page = visit.open("/anomalies")
    page.get_by_role("row", name=re.compile("agent")).get_by_role("link", name=re.compile("spike|step")).first.click()
    expect(page.get_by_role("heading", name=re.compile("^Incident an-"))).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("^req-agent-1-")).first).to_be_visible()
    expect(page.get_by_text(re.compile("Grew most: "))).to_be_visible()

    visit.open("/anomalies")
    page.get_by_text("Expect something").click()
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86_400))
    page.get_by_label("First day").fill(day)
    page.get_by_label("Only this slice").fill("agent")
    page.get_by_label("Why").fill("a load test")
    page.get_by_role("button", name="Add to the calendar").click()
    expect(page.get_by_role("row", name=re.compile("a load test"))).to_be_visible()
    for name in ("agent", "research"):  # nor is the same money told under the team
        expect(page.locator("section[aria-labelledby='h-anomalies'] a", has_text=name)).to_have_count(0)
    page.get_by_role("row", name=re.compile("a load test")).get_by_role("button").click()
    expect(page.get_by_text("Nothing unusual is expected")).to_be_visible()


def test_a_refused_call_leads_to_the_budget_that_refused_it(visit: Visit) -> None:
    page = visit.open("/requests?where=feature%3Dagent&since=7d")
    expect(page.get_by_role("link", name="req-refused-agent-1", exact=True)).to_be_visible()
    page.get_by_role("link", name="refused and failed").click()
    expect(page).to_have_url(re.compile("show=refused"))
    expect(page.get_by_role("row", name=re.compile("req-agent-"))).to_have_count(0)
    page.get_by_role("row", name=re.compile("req-refused-agent-1 ")).get_by_role(
        "link", name=re.compile("budget_")
    ).click()
    expect(page.get_by_text("Refused: status 429, budget_exceeded:research-day")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("research-day.*refused by it"))).to_be_visible()


def test_every_call_stands_on_one_page_of_the_list_refused_ones_in_their_place(gateway: GatewayServer) -> None:
    names, times, address = [], [], "/requests.json?since=7d"
    for _ in range(40):
        page = httpx.get(gateway.url + address, timeout=60)
        assert page.status_code == 200
        rows = page.json()["tables"]["requests"]["rows"]
        names += [row["request"] for row in rows]
        times += [row["received"] for row in rows]
        if page.json()["next"] is None:
            break
        address = "/requests.json" + page.json()["next"]
    ledger = bootstrap.open_ledger(gateway.settings)
    since = int(time.time() * 1000) // 86_400_000 * 86_400_000 - 7 * 86_400_000
    wanted = {one.request_id for one in ledger.exchanges(since_ms=since)}
    assert len(names) == len(set(names))
    assert {name for name in names if not name.startswith("live-")} >= {
        n for n in wanted if not n.startswith("live-")
    }


def test_a_download_of_requests_holds_them_all_or_says_where_the_rest_is(gateway: GatewayServer) -> None:
    """What an analyst sums in a table must be what the report says, not one screen of it."""
    period = "since=2d&until=today&show=booked"
    rows = list(csv.DictReader(io.StringIO(httpx.get(f"{gateway.url}/requests.csv?{period}", timeout=60).text)))
    spent = httpx.get(f"{gateway.url}/api/v1/explore?{period}&by=team", timeout=60).json()["tables"]["spend"]["total"]
    assert len(rows) == spent["entries"] > 50
    assert sum(Decimal(row["cost_usd"] or 0) for row in rows) == Decimal(spent["cost_usd"])

    part = httpx.get(f"{gateway.url}/requests.csv?{period}&limit=20", timeout=60)
    onward = re.fullmatch(r'<(\?.*)>; rel="next"', part.headers["link"])
    assert onward is not None
    rest = httpx.get(f"{gateway.url}/requests.csv{onward[1]}".replace("limit=20", "limit=10000"), timeout=60)
    assert len(part.text.splitlines()) - 1 + len(rest.text.splitlines()) - 1 == len(rows)
    assert httpx.get(f"{gateway.url}/requests.csv?limit=0", timeout=60).status_code == 400


def test_outcomes_come_from_a_file_all_of_it_or_nothing(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    today = int(time.time()) // 86_400
    head = "id,kind,session,value_usd,success\n"
    file.write_text(head + f"c-1,contract_drafted,reply-{today}-1,9.50,true\nc-2,contract_drafted,,9,true\n")
    page = visit.open("/unit")

    def send() -> None:
        page.get_by_text("Take outcomes from a CSV file").click()
        page.get_by_label("CSV file").set_input_files(file)
        page.get_by_role("button", name="Take them").click()

    send()
    expect(page.get_by_text(re.compile("Nothing was taken. line 3: session or request_id"))).to_be_visible()
    file.write_text(head + f"c-1,contract_drafted,reply-{today}-1,9.50,true\n")
    visit.open("/unit")
    send()
    expect(page.get_by_text("Took 1 outcomes; 0 were there already.")).to_be_visible()
    visit.open("/unit?outcome=contract_drafted")
    expect(page.get_by_role("heading", name="Cost per contract_drafted")).to_be_visible()


def test_a_trace_opens_call_by_call(visit: Visit, gateway: GatewayServer) -> None:
    page = visit.open("/traces?where=feature%3Dagent")
    page.locator("a[href^='/traces/agent-1-']").first.click()
    expect(page.get_by_role("heading", name=re.compile("^Trace agent-1-"))).to_be_visible()
    twin = httpx.get(page.url.replace("?", ".json?", 1), timeout=60).json()
    rows = twin["tables"]["spans"]["rows"]
    assert [row["step"] for row in rows] == ["plan", *["search"] * 6, "answer"]
    assert twin["figures"]["cost"]["value"] == sum(row["cost_nusd"] or 0 for row in rows)
    summed = httpx.get(f"{gateway.url}/explore.json?by=agent&where=feature%3Dagent", timeout=60).json()["tables"][
        "spend"
    ]["rows"]
    assert {row["tag:agent"] for row in summed} == {"research-planner", "research-searcher", "research-writer"}


def followed(visit: Visit, path: str) -> Page:
    """A page that follows, on a clock of the test's own."""
    visit.page.clock.install()
    page = visit.open(path)
    expect(page.locator("#live")).to_contain_text("Live")
    with page.expect_response(re.compile("/live.json")):
        page.clock.run_for(4_100)
    return page


def test_an_open_page_follows_what_is_booked_and_keeps_what_was_opened(visit: Visit, gateway: GatewayServer) -> None:
    page = followed(visit, "/requests?where=feature%3Dnews")
    page.get_by_text("Period, groups and filters").click()
    book(gateway, "live-1", scope=Scope(team="search", feature="news"))
    page.clock.run_for(4_100)
    expect(page.get_by_role("link", name="request-live-1")).to_be_visible()
    expect(page.get_by_role("button", name="Show")).to_be_visible()  # the opened form is still open
    expect(page.locator("#live [role=status]")).to_have_text(re.compile("New calls have come in"))


def test_a_page_that_was_told_to_stands_still(visit: Visit, gateway: GatewayServer) -> None:
    page = followed(visit, "/requests?where=feature%3Dnews")
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.get_by_role("button", name="Stop following new calls").click()
    book(gateway, "live-2", scope=Scope(team="search", feature="news"))
    page.clock.run_for(120_000)
    assert asked == []
    expect(page.get_by_role("link", name="request-live-2")).to_have_count(0)
    with page.expect_response(lambda one: one.url.startswith(f"{gateway.url}/requests?")):
        page.get_by_role("button", name="Follow new calls again").click()
        page.clock.run_for(4_100)
    expect(page.get_by_role("link", name="request-live-2")).to_be_visible()


def test_the_overview_follows_too_and_asks_little_while_nothing_is_new(visit: Visit, gateway: GatewayServer) -> None:
    page = followed(visit, "/")
    before = page.locator("#tile-spend_today .value").inner_text()
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url.removeprefix(gateway.url)))
    for _ in range(3):
        with page.expect_response(re.compile("/live.json")) as answer:
            page.clock.run_for(4_100)
        assert answer.value.status == 304
    assert set(asked) == {"/live.json"}
    book(gateway, "live-3", scope=Scope(team="search", feature="news"))
    for _ in range(40):
        page.clock.run_for(4_100)
        page.wait_for_timeout(100)
        if page.locator("#tile-spend_today .value").inner_text() != before:
            break
    assert page.locator("#tile-spend_today .value").inner_text() != before


def test_budgets_say_what_is_held_and_when_they_will_be_reached(visit: Visit, gateway: GatewayServer) -> None:
    page = visit.open("/budgets")
    expect(page.get_by_role("columnheader", name="held")).to_be_visible()
    expect(page.get_by_role("columnheader", name="reached (UTC)")).to_be_visible()
    tables = httpx.get(f"{gateway.url}/budgets.json", timeout=60).json()["tables"]
    (month,) = tables["month"]["rows"]
    assert month["budget"] == "company-month"
    assert {row["budget"] for row in tables["reached"]["rows"]} == {"research-day", "company-month"}
