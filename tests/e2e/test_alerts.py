"""Alerts over HTTP: each crossing reaches people once, over all workers, restarts and sinks that are down."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from farthing.core.signing import verify
from farthing.sim.server import SimServer
from farthing.testing.fakes import VirtualClock
from farthing.testing.gateway import GatewayProcess, GatewayServer, simulated_providers
from farthing.testing.receiver import Receiver
from farthing.testing.servers import store_env

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Harbours?"}], "max_tokens": 100}
SECRET = "a-secret-of-the-webhook"
HOOK = '[[alert_sinks]]\nname = "hook"\nkind = "webhook"\nurl_env = "HOOK_URL"\nsecret_env = "HOOK_SECRET"\n'
TWENTY = '[[budgets]]\nname = "twenty"\nper = "total"\nrequests = 20\neach = ["team"]\n'


@pytest.fixture
def hook():
    with Receiver() as receiver:
        yield receiver


def env_of(hook):
    return {"HOOK_URL": f"{hook.url}/in?token=hidden", "HOOK_SECRET": SECRET}


def post(url, headers=None, **fields):
    return httpx.post(f"{url}/v1/chat/completions", json={**CHAT, **fields}, headers=headers or {}, timeout=60)


def told(hook):
    return Counter((one["kind"], one["percent"], one["counter"]) for one in (r.json() for r in hook.received))


def until(check, *, within_s=60.0):
    due = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < due, "it never happened"
        time.sleep(0.05)


def crossings(*percents, counter="twenty|team=a"):
    return {("threshold", percent, counter): 1 for percent in percents}


@pytest.mark.slow
def test_four_workers_and_a_restart_tell_each_crossing_once(tmp_path, hook):
    with SimServer() as sim:
        toml = "[server]\nworkers = 4\n" + TWENTY + HOOK + simulated_providers(sim.url)
        gateway = GatewayProcess(tmp_path / "home", toml, env=env_of(hook))
        team = {"x-farthing-team": "a"}
        with gateway, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: post(gateway.url, team).raise_for_status(), range(15)))
            until(lambda: told(hook) == crossings(50, 75))
            gateway.terminate()
            gateway.start()
            list(pool.map(lambda _: post(gateway.url, team).raise_for_status(), range(3)))
            # Killed at once: whether the crossing was seen before or is found after the start, it is told once.
            gateway.kill()
            gateway.start()
            until(lambda: told(hook) == crossings(50, 75, 90))
            list(pool.map(lambda _: post(gateway.url, team), range(12)))
            exhausted = {("exhausted", 0, "twenty|team=a"): 1}
            until(lambda: told(hook) == {**crossings(50, 75, 90, 100), **exhausted})
            time.sleep(2.5)
            assert told(hook) == {**crossings(50, 75, 90, 100), **exhausted}
    first = hook.received[0]
    stamp, signature = first.headers["x-farthing-timestamp"], first.headers["x-farthing-signature"]
    assert verify(SECRET.encode(), stamp, signature, first.body, now_s=int(time.time()))
    assert first.headers["x-farthing-alert-id"] == first.json()["id"]


def test_a_sink_that_is_down_gets_each_alert_once_when_it_is_back(tmp_path, hook):
    hook.status = 503
    with (
        SimServer() as sim,
        GatewayServer(tmp_path, TWENTY + HOOK + simulated_providers(sim.url), env=env_of(hook)) as gateway,
    ):
        for _ in range(10):
            post(gateway.url, {"x-farthing-team": "a"}).raise_for_status()
        until(lambda: hook.refused >= 2)
        assert "farthing_alerts_pending 1.0" in httpx.get(f"{gateway.url}/metrics", timeout=60).text
        hook.status = 204
        until(lambda: told(hook) == crossings(50))
        until(lambda: "farthing_alerts_pending 0.0" in httpx.get(f"{gateway.url}/metrics", timeout=60).text)
    assert told(hook) == crossings(50)


def test_no_secret_is_in_any_message(tmp_path, hook, caplog):
    hook.status = 500
    env = env_of(hook)
    toml = TWENTY + HOOK + '[[alert_sinks]]\nname = "chat"\nkind = "apprise"\nurl_env = "CHAT_URL"\n'
    env["CHAT_URL"] = "json://user:hidden@127.0.0.1:1/"
    with SimServer() as sim, GatewayServer(tmp_path, toml + simulated_providers(sim.url), env=env) as gateway:
        for _ in range(10):
            post(gateway.url, {"x-farthing-team": "a"}).raise_for_status()
        until(lambda: hook.refused >= 1)
        until(lambda: "'chat'" in caplog.text)
        pages = httpx.get(f"{gateway.url}/metrics", timeout=60).text
    assert "did not reach 'hook' yet: the webhook answered 500" in caplog.text
    for text in (caplog.text, pages):
        assert "hidden" not in text
        assert SECRET not in text


def test_apprise_delivers_the_words(tmp_path, hook):
    toml = TWENTY + '[[alert_sinks]]\nname = "chat"\nkind = "apprise"\nurl_env = "CHAT_URL"\n'
    env = {"CHAT_URL": hook.url.replace("http:", "json:") + "/notify"}
    with SimServer() as sim, GatewayServer(tmp_path, toml + simulated_providers(sim.url), env=env) as gateway:
        for _ in range(10):
            post(gateway.url, {"x-farthing-team": "a", "x-farthing-feature": "search"}).raise_for_status()
        until(lambda: hook.received)
    message = json.loads(hook.received[0].body)
    assert message["title"] == "[info] budget 'twenty' has used 50 % of its 20 requests (all)"
    assert "Top 1: key (none), feature search, model gpt-4o: 10 requests" in message["message"]


STORM = """
[alerts]
velocity_usd_per_minute = "0.01"
velocity_action = "block"

[[budgets]]
name = "each-key"
per = "day"
usd = "100"
each = ["feature"]
"""


def test_a_retry_storm_is_stopped_within_seconds_and_the_alert_names_who(tmp_path, hook):
    with (
        SimServer() as sim,
        GatewayServer(tmp_path, STORM + HOOK + simulated_providers(sim.url), env=env_of(hook)) as gateway,
    ):
        headers = {"x-farthing-feature": "agent", "x-sim-tokens": "90"}
        began = time.monotonic()
        statuses = []
        while not statuses or statuses[-1] == 200:
            answer = post(gateway.url, headers)
            statuses.append(answer.status_code)
            assert time.monotonic() - began < 30
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "spending_too_fast"
        assert answer.headers["x-should-retry"] == "false"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert post(gateway.url, {"x-farthing-feature": "calm"}).status_code == 200
        until(lambda: hook.received)
        alert = hook.received[0].json()
    assert (alert["kind"], alert["severity"], alert["action"]) == ("velocity", "critical", "block")
    assert alert["counter"] == "each-key|feature=agent"
    assert (alert["top"][0]["feature"], alert["top"][0]["model"]) == ("agent", "gpt-4o")
    assert alert["per_minute"] > 10_000_000


def test_a_limit_per_minute_stops_a_storm_at_once_and_tells_of_it_once(tmp_path, hook):
    budget = '[[budgets]]\nname = "guard"\nper = "minute"\nrequests = 5\neach = ["feature"]\n'
    toml, clock = budget + HOOK, VirtualClock()  # a minute that does not turn
    with (
        SimServer() as sim,
        GatewayServer(tmp_path, toml + simulated_providers(sim.url), env=env_of(hook), clock=clock) as gateway,
    ):
        statuses = Counter(post(gateway.url, {"x-farthing-feature": "agent"}).status_code for _ in range(40))
        assert statuses[200] == 5
        until(lambda: hook.received)
        for _ in range(10):
            post(gateway.url, {"x-farthing-feature": "agent"})
        time.sleep(2.2)
    (one,) = hook.received
    alert = one.json()
    assert (alert["kind"], alert["budget"], alert["top"][0]["feature"]) == ("exhausted", "guard", "agent")
    assert alert["top"][0]["model"] == "gpt-4o"


def test_with_postgresql_the_alerts_are_there_and_thresholds_act(tmp_path, hook):
    toml = (
        f'[store]\nkind = "postgres"\nnamespace = "alerts{tmp_path.name[-8:]}"\n'.replace("-", "").lower()
        + '[[budgets]]\nname = "ten"\nper = "total"\nrequests = 10\nthresholds = [50, { at = 80, do = "block" }]\n'
    )
    env = {**env_of(hook), **store_env()}
    with SimServer() as sim, GatewayServer(tmp_path, toml + HOOK + simulated_providers(sim.url), env=env) as gateway:
        statuses = Counter(post(gateway.url).status_code for _ in range(12))
        until(lambda: len(hook.received) == 2)
    assert statuses == {200: 8, 429: 4}
    assert told(hook) == {("threshold", 50, "ten"): 1, ("threshold", 80, "ten"): 1}
    assert {one.json()["percent"]: one.json()["action"] for one in hook.received} == {50: "", 80: "block"}
