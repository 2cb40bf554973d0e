"""An incident in the ledger reaches a webhook once, from several workers and over a restart."""

import time

from farthing import bootstrap, config
from farthing.core.signing import verify
from farthing.testing import months
from farthing.testing.gateway import GatewayProcess
from farthing.testing.receiver import Receiver

SECRET = "a-secret-of-the-webhook"
TOML = (
    "[server]\nworkers = 3\n"
    '[[alert_sinks]]\nname = "hook"\nkind = "webhook"\nurl_env = "HOOK_URL"\nsecret_env = "HOOK_SECRET"\n'
    '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'
)


def test_three_workers_and_a_restart_page_a_runaway_feature_once(tmp_path):
    home = tmp_path / "home"
    months.fill(config.parse("", env={"FARTHING_HOME": str(home)}, source="f.toml"), int(time.time() * 1000))
    with Receiver() as hook:
        env = {"HOOK_URL": f"{hook.url}/in", "HOOK_SECRET": SECRET}
        with GatewayProcess(home, TOML, env=env) as gateway:
            due = time.monotonic() + 60
            while not hook.received:
                assert time.monotonic() < due, "nobody was told"
                time.sleep(0.1)
            time.sleep(3)  # the other workers have looked too
            gateway.terminate()
            gateway.start()
            time.sleep(3)
            log = bootstrap.open_alerts(gateway.settings)
            (told,) = log.records()
            log.close()
        (one,) = hook.received
    headers = one.headers
    stamp, signature = headers["x-farthing-timestamp"], headers["x-farthing-signature"]
    assert verify(SECRET.encode(), stamp, signature, one.body, now_s=int(time.time()))
    assert told.alert.id == one.json()["id"]
    assert told.deliveries == (("hook", "sent"),)
    said = one.json()
    assert (said["kind"], said["counter"], said["severity"]) == ("incident", "feature=agent", "critical")
    assert said["projected"] == said["used"] * 7 > 0
    assert said["used_usd"]
    assert [name.rpartition("-")[0] for name in said["examples"]] == ["req-agent-1"] * 3
    assert said["grew_most"]
    assert "farthing anomalies explain an-" in said["next_step"]
