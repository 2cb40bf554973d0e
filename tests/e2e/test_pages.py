"""The dashboard in a real Chromium: what people do there, every page in both themes, with and without scripts."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import openai
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Route, expect

from farthing import bootstrap
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.core.types import LedgerQuery
from farthing.testing import months
from farthing.testing.browsing import Visit, chromium, drawn, shots
from farthing.testing.gateway import GatewayProcess, GatewayServer
from farthing.testing.records import an_entry, an_exchange

PROVIDERS = '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'
PAGES = (
    "/", "/explore", "/explore?by=team,model&grain=week&compare=1", "/requests", "/requests/req-agent-1-5",
    "/sessions", "/budgets", "/anomalies", "/allocation?owner=Lab&dimension=feature&pattern=note*", "/savings",
    "/calculator?prefix=2000&hit=20&routed=50&batched=10", "/prices?q=gpt-4o-mini", "/admin", "/nothing?since=x",
    "/requests?show=refused", "/requests/req-refused-agent-1", "/anomalies/rule?z=2.5", "/traces",
    "/traces/agent-1-12", "/unit", "/unit?per=user", "/maturity", "/governance",
    "/opportunities", "/opportunities?show=output_length:rank, gpt-4o-mini", "/doctor", "/routing", "/replay",
    "/reconcile",
    "/capacity?model=llama-3.1-70b&gpu=h100&gpus=2&requests=200000&api=openai%2Fgpt-4o", "/capacity?gpu=b200",
)  # fmt: skip
BUDGET = '[[budgets]]\nname = "company-month"\nper = "month"\nusd = "500.00"\n'
COVERED = """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap((chart) => {
  const legend = chart.querySelector(".legend")?.getBoundingClientRect();
  return [...chart.querySelectorAll(".xtick text")].filter((one) => {
    const at = one.getBoundingClientRect();
    return legend && legend.left < at.right && at.left < legend.right
      && legend.top < at.bottom && at.top < legend.bottom;
  }).map((one) => one.textContent);
})"""
"""Labels of an axis that lie under their chart's legend."""
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """A gateway that nobody signs in to, with a company's last months."""
    home = tmp_path_factory.mktemp("pages")
    with GatewayServer(home, PROVIDERS + BUDGET) as server:
        months.fill(server.settings, int(time.time() * 1000))
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def visit(browser: Browser, gateway: GatewayServer) -> Iterator[Visit]:
    context = browser.new_context(accept_downloads=True, viewport={"width": 1280, "height": 900})
    visitor = Visit(context, gateway.url)
    yield visitor
    context.close()
    assert visitor.complaints == []


def test_the_runaway_feature_leads_from_the_overview_to_its_receipt_in_four_clicks(visit: Visit) -> None:
    page = drawn(visit.open("/"))
    page.locator("#tile-anomalies .value").click()
    page.get_by_role("row", name=re.compile("agent")).get_by_role("link", name="agent").click()
    page.locator("table a[href^='/requests/req-agent']").first.click()

    expect(page.get_by_role("heading", name=re.compile("^Request req-agent-1-"))).to_be_visible()
    receipt = page.locator("pre.receipt").inner_text()
    assert "feature=agent" in receipt
    assert "× $3.00 / 1M" in receipt


def test_a_key_and_a_budget_made_in_the_browser_refuse_a_call(browser: Browser, tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "home", PROVIDERS) as server:
        context = browser.new_context()
        visitor = Visit(context, server.url)
        page = visitor.open("/admin")
        page.get_by_text("New key").click()
        page.get_by_label("Name").fill("lab")
        page.get_by_label("Team", exact=True).fill("research")
        page.get_by_role("button", name="Create key").click()
        secret = page.locator("pre.command").first.inner_text()
        visitor.open("/budgets")
        page.get_by_text("New budget").click()
        page.get_by_label("Name").fill("lab-day")
        page.get_by_label("Limit").fill("0.000001")
        page.get_by_label("Only calls whose").select_option("team")
        page.get_by_label("is", exact=True).fill("research")
        page.get_by_role("button", name="Write to farthing.toml").click()
        expect(page.get_by_text("The file has changed")).to_be_visible()
        assert secret not in visitor.open("/admin").content()
        context.close()
        server.terminate()
        server.start()

        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=secret, max_retries=0)
        with client, pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
        assert "lab-day" in str(refused.value)
        assert visitor.complaints == []


def test_an_acknowledged_anomaly_says_who_takes_care_of_it(visit: Visit) -> None:
    page = visit.open("/anomalies")
    page.get_by_role("row", name=re.compile("agent")).get_by_role("button", name=re.compile("^Acknowledge")).click()

    expect(page.get_by_role("row", name=re.compile("agent.*local"))).to_be_visible()
    overview = visit.open("/")
    expect(overview.locator("#tile-anomalies .value")).to_contain_text("0")


def test_sliders_change_the_figures_and_the_address_which_can_be_shared(visit: Visit) -> None:
    page = drawn(visit.open("/calculator"))
    before = page.locator("#tile-saved .value").inner_text()
    slider = page.get_by_label("Routed to the cheaper model, %")
    slider.focus()
    for _ in range(10):
        slider.press("PageUp")
    page.wait_for_url(re.compile(rf"routed={slider.input_value()}\b"))
    expect(page.locator("#tile-saved .value")).not_to_have_text(before)
    shared = page.context.new_page()
    shared.goto(page.url)
    after = shared.locator("#tile-saved .value").inner_text()
    expect(page.locator("#tile-saved .value")).to_have_text(after)  # figures of the slider's way there come first
    shared.close()


def test_the_life_of_a_cache_entry_decides_whether_it_saves(visit: Visit) -> None:
    """One request every quarter of an hour: cold after five minutes, warm for an hour."""
    address = "/calculator?model=anthropic%2Fclaude-sonnet-4-5&requests=100&input=10050&output=200&prefix=10000"
    page = drawn(visit.open(f"{address}&arrival=even"))
    assert page.locator("#tile-saved .value").inner_text().startswith("-$")
    page.get_by_label("Life of a cache entry").select_option("1h")
    page.wait_for_url(re.compile(r"ttl=1h"))
    expect(page.locator("#tile-saved .value")).not_to_contain_text("-")


def test_a_chargeback_downloads_and_sums_to_the_ledger(visit: Visit, gateway: GatewayServer) -> None:
    page = visit.open("/allocation")
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile("CSV of Chargeback")).click()
    rows = [line.split(",") for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]
    place = rows[0].index("cost_usd")
    charged = sum(round(float(row[place]) * 1e9) for row in rows[1:])

    month = time.strftime("%Y-%m", time.gmtime())
    (whole,) = bootstrap.open_ledger(gateway.settings).totals(LedgerQuery(where=(("month", month),)))
    assert charged == whole.amount


@pytest.mark.timeout(600)  # the machine may be busy; thirty pages, each looked at by axe
@pytest.mark.parametrize(
    ("theme", "size"), [("light", "desktop"), ("dark", "desktop"), ("light", "phone"), ("dark", "phone")]
)
def test_every_page_is_accessible_stays_on_its_origin_and_fits(
    browser: Browser, gateway: GatewayServer, theme: str, size: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    visitor, found = Visit(context, gateway.url), []
    (incident, *_) = httpx.get(f"{gateway.url}/anomalies.json", timeout=60).json()["tables"]["anomalies"]["rows"]
    for path in (*PAGES, f"/anomalies/{incident['id']}"):
        page = visitor.open(path)
        if "nothing" not in path:
            drawn(page)
        name = re.sub(r"\W+", "-", re.sub(r"an-[0-9a-f]+", "incident", path)).strip("-") or "overview"
        page.screenshot(path=shots() / f"{name}-{theme}-{size}.png", full_page=True)
        if (theme, size) in (("light", "desktop"), ("dark", "phone")):
            problems = Axe().run(page).response["violations"]
            found += [f"{path}: {one['id']} {one['nodes'][0]['html'][:150]}" for one in problems
                      if one["impact"] in ("serious", "critical")]  # fmt: skip
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found += [f"{path}: {wide} pixels too wide"] if wide > 0 else []
        found += [f"{path}: the legend covers {label}" for label in page.evaluate(COVERED)]
    context.close()
    assert found == []
    assert visitor.complaints == []


def test_pages_are_complete_without_scripts(browser: Browser, gateway: GatewayServer) -> None:
    context = browser.new_context(java_script_enabled=False)
    visitor = Visit(context, gateway.url)
    page = visitor.open("/explore")
    expect(page.get_by_role("table", name=re.compile("Spend by day"))).to_be_visible()
    page.locator("a", has_text="7 days").first.click()
    expect(page).to_have_url(re.compile("since=7d"))
    context.close()


def test_the_keyboard_reaches_the_page_first_and_every_control_shows_where_it_is(visit: Visit) -> None:
    page = visit.open("/explore")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"


def test_a_chosen_theme_stays(visit: Visit) -> None:
    page = visit.open("/explore?since=7d")
    page.locator(".side").get_by_role("button", name="Dark").click()
    expect(page).to_have_url(re.compile("since=7d"))
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert visit.open("/budgets").locator("html").get_attribute("data-theme") == "dark"


def test_an_empty_installation_says_what_to_do_next(browser: Browser, tmp_path: Path) -> None:
    with GatewayServer(tmp_path, PROVIDERS) as server:
        context = browser.new_context()
        visitor = Visit(context, server.url)
        expect(visitor.open("/").get_by_text("Nothing is booked yet")).to_be_visible()
        for path in ("/explore", "/requests", "/sessions", "/budgets", "/anomalies", "/allocation", "/admin",
                     "/opportunities", "/doctor", "/routing", "/replay", "/reconcile"):  # fmt: skip
            page = drawn(visitor.open(path))
            assert page.locator("pre.command").count() or page.locator(".message").count(), path
        context.close()
        assert visitor.complaints == []
        assert httpx.get(f"{server.url}/explore.json", timeout=60).status_code == 200
        importer = SqliteImporter(tmp_path / "farthing.db")
        now_ms = int(time.time() * 1000)
        refused = msgspec.structs.replace(an_exchange("r", received_at_ms=now_ms), outcome="refused", attempts=(),
                                          status=402, error="budget_exceeded", amount=None)  # fmt: skip
        importer.import_batch((), [refused])
        front = httpx.get(server.url, timeout=60).text
        assert "Calls come in, but nothing could be booked yet" in front
        assert "with budget_exceeded" in front
        importer.import_batch([an_entry("e", None, received_at_ms=now_ms)], ())
        importer.close()
        tiles: dict[str, dict[str, object]] = {}
        until = time.monotonic() + 30
        while "spend_month" not in tiles and time.monotonic() < until:  # the empty answer is kept for seconds
            time.sleep(0.2)
            tiles = httpx.get(f"{server.url}/overview.json", timeout=60).json()["figures"]
        for name in ("spend_month", "spend_today", "forecast"):
            assert (tiles[name]["shown"], tiles[name]["value"]) == ("unpriced", None)


def test_a_page_that_waits_for_its_answer_does_not_call_back_whoever_leaves_it(visit: Visit) -> None:
    """The answer comes while the next page is on its way: loading this one anew would end that journey."""
    page = visit.page

    def still_waiting(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("<main", '<main data-pending="1"', 1))

    def slowly(route: Route) -> None:
        page.wait_for_timeout(3000)
        route.continue_()

    drawn(visit.open("/opportunities"))
    page.route("**/opportunities", still_waiting, times=1)
    visit.open("/opportunities")
    page.route("**/budgets", slowly, times=1)
    page.evaluate("setTimeout(() => location.assign('/budgets'))")
    expect(page.get_by_role("heading", level=1, name="Budgets")).to_be_visible(timeout=30_000)
