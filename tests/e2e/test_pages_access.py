"""Who sees what of the dashboard: roles, sessions, forms from elsewhere, headers."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from argon2 import PasswordHasher

from farthing import bootstrap
from farthing.core.types import Scope
from farthing.insight.render import as_json
from farthing.insight.reports import spend
from farthing.server.pages.ask import View
from farthing.server.pages.views import VIEWS
from farthing.testing import months
from farthing.testing.gateway import GatewayServer
from farthing.testing.records import an_entry

PROVIDERS = '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'
PASSWORD = "correct horse"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
USERS = "".join(
    f'[[dashboard.users]]\nname = "{name}"\nrole = "{role}"\n{team}password_hash = "{CHEAP}"\n'
    for name, role, team in (("ann", "admin", ""), ("bob", "analyst", ""), ("tess", "team", 'team = "search"\n'))
)
OTHERS = ("growth", "support", "research", "agent", "triage", "claude")
"""What a member of the search team must never read."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with GatewayServer(tmp_path_factory.mktemp("access"), PROVIDERS + USERS) as server:
        months.fill(server.settings, int(time.time() * 1000))
        yield server


def csrf(text: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', text)
    assert found
    return found[1]


@contextmanager
def signed_in(gateway: GatewayServer, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, follow_redirects=True, timeout=60) as client:
        token = csrf(client.get("/signin").text)
        answer = client.post("/signin", data={"name": name, "password": PASSWORD, "csrf_token": token})
        assert answer.status_code == 200
        yield client


def test_nobody_sees_a_page_or_twin_without_signing_in(gateway: GatewayServer) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        for path in ("/", "/explore", "/requests", "/requests/req-rank-1-1", "/admin"):
            answer = client.get(path)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/signin")
        for path in ("/overview.json", "/explore.csv", "/api/v1/explore", "/api/v1/requests/req-rank-1-1"):
            assert client.get(path).status_code == 401, path


@pytest.mark.parametrize(
    "path",
    [
        "/", "/overview.json", "/explore?by=team", "/explore?by=team,feature&where=team%3Dgrowth",
        "/explore.json?by=team,model",
        "/explore.csv?by=feature", "/explore.csv?by=user&where=team%3Dresearch", "/api/v1/explore?by=team",
        "/api/v1/requests?where=feature%3Dagent", "/requests?where=team%3Dresearch", "/requests.csv", "/sessions",
        "/sessions.csv", "/api/v1/sessions?where=team%3Dgrowth", "/savings.json?by=team",
    ],
)  # fmt: skip
def test_a_team_member_sees_their_own_team_only(gateway: GatewayServer, path: str) -> None:
    with signed_in(gateway, "tess") as client:
        answer = client.get(path)
    own = r"<h1.*?</h1>|<p class=\"lead\">.*?</p>|<ul class=\"filters\".*?</ul>"  # what the page or the asker said
    shown = re.sub(r"<[^>]+>", " ", re.sub(own, "", answer.text, flags=re.S))

    assert answer.status_code == 200
    assert [word for word in OTHERS if word in shown] == []


def test_a_team_member_cannot_open_anothers_receipt_or_an_office_page(gateway: GatewayServer) -> None:
    with signed_in(gateway, "tess") as client:
        assert client.get("/requests/req-rank-1-1").status_code == 200
        for path in ("/requests/req-agent-1-5", "/requests/req-agent-1-5.json", "/api/v1/requests/req-agent-1-5"):
            assert client.get(path).status_code == 404, path
        for view in VIEWS:
            if "team" not in view.roles:
                here = view.address
                for path in (here, f"{here}.json", f"{here}.csv", f"/api/v1{here}"):
                    assert client.get(path).status_code == 403, path


def test_a_team_member_sees_no_call_of_another_team_booked_refused_or_traced(gateway: GatewayServer) -> None:
    with signed_in(gateway, "tess") as client:
        for path in (
            "/requests.json?show=refused",
            "/requests.json?show=all&since=7d",
            "/api/v1/requests?show=refused",
        ):
            rows = client.get(path).json()["tables"]["requests"]["rows"]
            assert rows, path
            assert {row["team"] for row in rows} == {"search"}, path
        for address in ("/requests/req-refused-agent-1", "/api/v1/requests/req-refused-agent-1"):
            assert client.get(address).status_code == 404
        own = client.get("/requests/req-refused-answer-3.json")
        assert own.status_code == 200
        assert "budgets" not in own.json()["tables"]  # what other teams have used of them is not theirs to see
        traces = client.get("/traces.json").json()["tables"]
        assert {row["trace"].partition("-")[0] for row in traces["traces"]["rows"]} == {"answer"}
        assert {row["agent"].partition("-")[0] for row in traces["agents"]["rows"]} <= {"search", "(none)"}
        assert client.get("/traces/answer-1-0").status_code == 200
        for address in ("/traces/agent-1-12", "/traces/agent-1-12.json", "/traces/agent-1-12.csv"):
            assert client.get(address).status_code == 404
        for path in ("/traces.csv?table=agents", "/traces.csv?table=units", "/explore.csv?by=trace"):
            text = client.get(path).text
            assert "research-" not in text, path
            assert "agent-1" not in text, path


def test_following_tells_a_team_member_nothing_of_other_teams(gateway: GatewayServer) -> None:
    now_ms = int(time.time() * 1000)

    def book(name: str, team: str) -> None:
        entry = an_entry(name, 10, scope=Scope(team=team), received_at_ms=now_ms)
        bootstrap.open_importer(gateway.settings).import_batch([entry], [])

    with signed_in(gateway, "tess") as tess, signed_in(gateway, "bob") as bob:
        tags = []
        for step in (lambda: None, lambda: book("x-1", "growth"), lambda: book("x-2", "search")):
            step()
            tags.append((tess.get("/live.json").headers["etag"], bob.get("/live.json").headers["etag"]))
        seen = {"if-none-match": tags[-1][0]}
        assert tess.get("/live.json", headers=seen).status_code == 304
    assert tags[0][0] == tags[1][0] != tags[2][0]
    assert len({theirs for _, theirs in tags}) == 3
    assert httpx.get(f"{gateway.url}/live.json", timeout=60).status_code == 401


def test_no_address_takes_sql_and_nothing_in_an_address_becomes_sql(gateway: GatewayServer) -> None:
    """SQL is for whoever may log in to the machine: over HTTP there is none, and values stay values."""
    evil = ("growth' OR '1'='1", "search' UNION SELECT * FROM entries --", "x'; DELETE FROM entries; --", "%", "*")
    with signed_in(gateway, "tess") as client:
        for path in ("/sql", "/sql.json", "/api/v1/sql", "/query", "/api/v1/query", "/mcp"):
            for method in ("GET", "POST"):
                answer = client.request(method, path, json={"sql": "SELECT * FROM entries"})
                assert answer.status_code in (404, 405), path
        before = client.get("/explore.json?until=today").json()["tables"]["spend"]
        for value in evil:
            for name in ("team", "feature", "trace", "tag:x' OR 1=1 --", "day"):
                for page in ("explore", "requests", "traces", "sessions"):
                    answer = client.get(f"/{page}.json", params={"where": f"{name}={value}"})
                    assert answer.status_code == 200
                    assert all(not table["rows"] for table in answer.json()["tables"].values()), (page, name, value)
            for broken in ({"by": value}, {"before": value}, {"since": value}, {"show": value}):
                assert client.get("/requests.json", params=broken).status_code == 400, broken
        assert client.get("/explore.json?until=today").json()["tables"]["spend"] == before
    paths = httpx.get(f"{gateway.url}/openapi.json", timeout=60).json()["paths"]
    assert [path for path in paths if "sql" in path] == []


def test_only_the_office_reports_outcomes_and_expects_days_and_only_admins_change_rules(
    gateway: GatewayServer,
) -> None:
    wanted = {"/unit/outcomes": ("ann", "bob"), "/anomalies/expect": ("ann", "bob"), "/anomalies/rule/save": ("ann",)}
    for name in ("ann", "bob", "tess"):
        with signed_in(gateway, name) as client:
            token = csrf(client.get("/").text)
            for path, allowed in wanted.items():
                data = {"csrf_token": token, "first": "no day", "z": "0"}  # whoever may is told what is wrong with it
                assert client.post(path, data=data).status_code == (400 if name in allowed else 403), (name, path)
    assert (
        httpx.post(f"{gateway.url}/unit/outcomes", files={"file": ("o.csv", b"id\n")}, timeout=60).status_code == 303
    )


def test_an_analyst_acknowledges_but_changes_no_key_and_no_budget(gateway: GatewayServer) -> None:
    with signed_in(gateway, "bob") as client:
        token = csrf(client.get("/anomalies").text)
        assert client.post("/anomalies/acknowledge", data={"id": "an-1", "csrf_token": token}).status_code == 200
        for path in ("/admin/keys/create", "/admin/keys/revoke", "/budgets/create"):
            assert client.post(path, data={"name": "x", "csrf_token": token}).status_code == 403, path
        assert client.get("/admin").status_code == 403


def test_a_form_without_its_sessions_token_changes_nothing(gateway: GatewayServer) -> None:
    with signed_in(gateway, "ann") as client, signed_in(gateway, "bob") as other:
        foreign = csrf(other.get("/").text)
        for data in ({}, {"csrf_token": ""}, {"csrf_token": foreign}):
            assert client.post("/admin/keys/create", data={"name": "stolen", **data}).status_code == 403
    assert bootstrap.open_keys(gateway.settings).all() == ()


def test_wrong_passwords_are_refused_alike_and_slowed_down(gateway: GatewayServer) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        token = csrf(client.get("/signin").text)
        texts = [
            client.post("/signin", data={"name": name, "password": "wrong", "csrf_token": token})
            for name in ("bob", "nobody", *["mallory"] * 6)
        ]
    assert {answer.status_code for answer in texts} == {401}
    assert "Name or password is wrong" in texts[0].text
    assert "Name or password is wrong" in texts[1].text
    assert "Too many wrong passwords" in texts[-1].text


def test_programs_send_name_and_password(gateway: GatewayServer) -> None:
    good = httpx.get(f"{gateway.url}/api/v1/explore", auth=("bob", PASSWORD), timeout=60)
    bad = httpx.get(f"{gateway.url}/api/v1/explore", auth=("bob", "wrong"), timeout=60)
    assert (good.status_code, bad.status_code) == (200, 401)
    assert (
        httpx.get(f"{gateway.url}/explore", auth=("bob", PASSWORD), timeout=60).status_code == 303
    )  # pages want a session


def _twin(view: View) -> str:
    return f"/{view.name}" if view.address == "/" else view.address


def test_every_answer_carries_the_security_headers(gateway: GatewayServer) -> None:
    with signed_in(gateway, "ann") as client:
        paths = ["/signin", "/static/style.css", "/static/plotly.min.js", "/static/none", "/explore?by=x"]
        paths += [
            form for view in VIEWS if "{" not in view.address for form in (view.address, f"/api/v1{_twin(view)}")
        ]
        for path in paths:
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "script-src 'self';" in policy, path
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(gateway: GatewayServer) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        cookie = client.get("/signin").headers["set-cookie"]
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_redirect_after_sign_in_stays_on_this_site(gateway: GatewayServer) -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        with httpx.Client(base_url=gateway.url, timeout=60) as client:
            token = csrf(client.get("/signin").text)
            data = {"name": "ann", "password": PASSWORD, "csrf_token": token}
            answer = client.post("/signin", params={"next": target}, data=data)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_page_of_another_name_for_this_machine_is_refused_while_sign_in_is_off(tmp_path) -> None:
    with GatewayServer(tmp_path, PROVIDERS) as server:
        assert httpx.get(f"{server.url}/explore", timeout=60).status_code == 200
        assert httpx.get(f"{server.url}/explore", headers={"host": "rebound.example"}, timeout=60).status_code == 403


def test_page_api_and_command_give_the_same_numbers(gateway: GatewayServer) -> None:
    since, until = "2026-01-01", time.strftime("%Y-%m-%d", time.gmtime())
    with signed_in(gateway, "bob") as client:
        api = client.get("/api/v1/explore", params={"by": "team,model", "since": since, "until": until}).json()
        page = client.get("/explore.json", params={"by": "team,model", "since": since, "until": until}).json()
    ledger = bootstrap.open_ledger(gateway.settings)
    query = spend.query(("team", "model"), since_ms=0, until_ms=months.day_start())
    whole = ledger.totals(spend.query((), since_ms=0, until_ms=months.day_start()))
    expected = as_json(spend.build(ledger.totals(query), whole, ("team", "model")))

    assert api["tables"]["spend"]["rows"] == expected["rows"]
    assert page == api


def worked_out(client: httpx.Client, path: str) -> httpx.Response:
    due = time.monotonic() + 200
    while True:
        answer = client.get(path)
        if answer.status_code != 202 or time.monotonic() > due:
            return answer
        time.sleep(0.3)


def test_a_team_members_findings_come_from_their_own_calls_only(gateway: GatewayServer) -> None:
    with signed_in(gateway, "tess") as own, signed_in(gateway, "bob") as office:
        for path, table in (("/opportunities", "opportunities"), ("/doctor", "places")):
            mine, all_ = (worked_out(client, f"{path}.json") for client in (own, office))
            assert (mine.status_code, all_.status_code) == (200, 200)
            assert [word for word in OTHERS if word in mine.text] == []
            assert [word for word in OTHERS if word in all_.text] != []
            rows, whole = (answer.json()["tables"][table]["rows"] for answer in (mine, all_))
            assert 0 < len(rows) < len(whole)
        beyond = worked_out(own, "/opportunities.json?where=team%3Dgrowth")
        assert beyond.json()["tables"]["opportunities"]["rows"] == []
        page = worked_out(own, "/opportunities")
        assert "[[dashboard" not in page.text
        assert "/replay" not in page.text


def test_an_analyst_sees_what_would_be_written_and_writes_nothing(gateway: GatewayServer) -> None:
    with signed_in(gateway, "bob") as client:
        worked_out(client, "/opportunities.json")
        page = client.get("/opportunities?show=output_length:rank, gpt-4o-mini").text
        assert "[[levers]]" in page
        assert "Write this to farthing.toml" not in page
        assert "password_hash" not in page + client.get("/replay").text
        token = csrf(page)
        for path in ("/opportunities/apply", "/opportunities/undo"):
            assert client.post(path, data={"name": "x", "csrf_token": token}).status_code == 403, path
