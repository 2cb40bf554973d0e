"""``farthing alert`` over a real log: listing, testing, acknowledging, muting; and what the configuration refuses."""

import json
import re

import pytest
from click.testing import CliRunner

from farthing.adapters.alert_sinks import open_sinks
from farthing.adapters.alert_sqlite import SqliteAlerts
from farthing.cli import main
from farthing.cli.context import App
from farthing.config import notes, parse
from farthing.core.alerts import Alert, Contributor
from farthing.core.errors import ConfigError
from farthing.engine.alerting import is_wanted, make_alerting, quiet_of, watches_calls
from farthing.testing.fakes import VirtualClock
from farthing.testing.receiver import Receiver

NOW = 1_795_255_200_000
BUDGET = '[[budgets]]\nname = "b"\nper = "day"\nusd = "1"\n'
HOOK = '[[alert_sinks]]\nname = "hook"\nkind = "webhook"\nurl_env = "HOOK_URL"\nsecret_env = "HOOK_SECRET"\n'


@pytest.fixture
def run(tmp_path):
    def call(*words, toml=BUDGET + HOOK, env=None):
        (tmp_path / "f.toml").write_text(toml, encoding="utf-8")
        words = ("--home", str(tmp_path), "--config", str(tmp_path / "f.toml"), "alert", *words)
        return CliRunner().invoke(main, words, obj=App(now_ms=lambda: NOW), env=env)

    return call


@pytest.fixture
def log(tmp_path):
    opened = SqliteAlerts(tmp_path / "farthing.db")
    yield opened
    opened.close()


def an_alert(name="x", at_ms=NOW):
    top = (Contributor(key="k1", feature="agent", model="gpt-4o", amount=5),)
    return Alert(
        id=f"al-{name}", key=name, kind="threshold", severity="warning", budget="b", counter="b", window="2026-11-21",
        unit="usd", limit=1_000_000_000, used=900_000_000, percent=90, at_ms=at_ms, top=top,
    )  # fmt: skip


def test_the_list_says_what_happened_who_was_told_and_who_takes_care(run, log):
    log.claim(an_alert("one"), (("hook", NOW),))
    log.claim(an_alert("two", NOW + 1), ())
    assert run("ack", "al-one", "--by", "ada").exit_code == 0
    rows = json.loads(run("ls", "--format", "json").output)["rows"]
    assert [row["id"] for row in rows] == ["al-two", "al-one"]
    assert rows[0]["what"] == "budget 'b' has used 90 % of its $1.00 (2026-11-21)"
    assert rows[0]["top"] == "k1, agent, gpt-4o"
    assert (rows[0]["told"], rows[1]["told"]) == (None, "hook: dropped")
    assert rows[1]["acknowledged"].startswith("ada 2026-11-21 ")
    still_open = json.loads(run("ls", "--open", "--format", "json").output)["rows"]
    assert [row["id"] for row in still_open] == ["al-two"]


def test_an_empty_list_says_where_nothing_is_watched(run):
    assert "Nothing is watched" in run("ls", toml=BUDGET).output
    assert "Nothing is watched" not in run("ls").output


def test_acknowledging_what_does_not_exist_is_a_mistake(run):
    done = run("ack", "al-none")
    assert done.exit_code == 1
    assert "There is no alert al-none" in done.output


def test_a_mute_names_a_budget_lasts_and_can_be_ended(run, log):
    assert "muted until 2026-11-21" in run("mute", "b", "--for", "2h").output
    assert log.mutes(now_ms=NOW) == (("b", NOW + 7_200_000),)
    assert "Muted until" in run("ls").output
    assert run("mute", "b", "--for", "0").exit_code == 0
    assert log.mutes(now_ms=NOW) == ()
    assert run("mute", "b|user=ada").exit_code == 0
    assert 'no budget "other"; configured: b' in run("mute", "other").output
    assert "a duration" in run("mute", "b", "--for", "soon").output


def test_a_test_alert_goes_through_every_sink_and_says_which_failed(run):
    log_sink = '[[alert_sinks]]\nname = "log"\nkind = "log"\n'
    with Receiver() as receiver:
        env = {"HOOK_URL": receiver.url, "HOOK_SECRET": "s"}
        done = run("test", toml=BUDGET + HOOK + log_sink, env=env)
        assert (done.exit_code, done.output) == (0, "hook: delivered\nlog: delivered\n")
        assert receiver.received[0].json()["kind"] == "test"
        receiver.status = 302
        done = run("test", "--sink", "hook", env=env)
        assert done.exit_code == 1
        assert "hook: the webhook answered 302" in done.output
    down = run("test", env=env)
    assert "hook: the webhook cannot be reached (ConnectError)" in down.output
    assert receiver.url not in down.output
    assert "no sink to test. Configured: hook" in run("test", "--sink", "none", env=env).output


def test_a_variable_that_is_not_set_is_named_and_all_problems_come_at_once(run):
    done = run("test", env={"HOOK_URL": "", "HOOK_SECRET": ""})
    assert done.exit_code == 2
    assert "the environment variable HOOK_URL (url_env) is not set or empty" in done.output
    assert "the environment variable HOOK_SECRET (secret_env) is not set or empty" in done.output


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("apprise", "nosuchservice://token-hidden", "of no service that apprise knows"),
        ("webhook", "ftp://hidden.example", "is not http or https"),
    ],
)
def test_an_address_that_cannot_work_is_refused_without_being_shown(kind, url, says):
    more = 'secret_env = "S"\n' if kind == "webhook" else ""
    toml = f'[[alert_sinks]]\nname = "x"\nkind = "{kind}"\nurl_env = "U"\n{more}'
    settings = read(toml)
    with pytest.raises(ConfigError, match=says) as refused:
        open_sinks(settings.alerts.sinks, env={"U": url, "S": "s"}, clock=VirtualClock())
    assert "hidden" not in str(refused.value)


def read(toml):
    return parse(toml, env={"HOME": "/home/ada"}, source="f.toml")


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[[alert_sinks]]\nname = "a"\nkind = "webhook"\nurl_env = "U"\n', "secret_env: is missing"),
        ('[[alert_sinks]]\nname = "a"\nkind = "apprise"\n', "url_env: is missing"),
        ('[[alert_sinks]]\nname = "a"\nkind = "log"\nurl_env = "U"\n', 'means nothing with kind = "log"'),
        ('[[alert_sinks]]\nname = "a"\nkind = "pager"\n', 'allowed: "apprise"'),
        ('[[alert_sinks]]\nkind = "log"\n', "name: is missing"),
        (2 * '[[alert_sinks]]\nname = "a"\nkind = "log"\n', 'the name "a" is used 2 times'),
        ("[alerts]\nthresholds = [0]\n", "allowed is 1 to 1,000"),
        ("[alerts]\nthresholds = [50, 50]\n", "the same thing twice"),
        ('[alerts]\nquiet_hours = "22-7"\n', 'such as "22:00-07:00"'),
        ('[alerts]\nquiet_hours = "24:00-07:00"\n', 'such as "22:00-07:00"'),
        ('[alerts]\nquiet_hours = "07:00-07:00"\n', "begin when they end"),
        ("[alerts]\nvelocity_usd_per_minute = 0.5\n", "floats are inexact"),
        ('[alerts]\nvelocity_action = "stop"\n', '"notify", "block"'),
        ("[alerts]\ntresholds = [1]\n", 'did you mean "thresholds"'),
    ],
)
def test_mistakes_in_the_configuration_are_told_with_their_place(toml, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(toml)


def test_settings_reach_the_quiet_hours():
    settings = read(
        '[alerts]\nquiet_hours = "22:30-07:05"\nquiet_timezone = "Asia/Tokyo"\nquiet_passes = "warning"\n'
    )
    quiet = quiet_of(settings.alerts)
    assert (quiet.starts, quiet.ends, quiet.timezone, quiet.passes) == (1350, 425, "Asia/Tokyo", "warning")
    assert quiet_of(read("").alerts) is None


@pytest.mark.parametrize(
    ("toml", "watched", "acts"),
    [
        (BUDGET, False, False),
        (HOOK, False, False),
        (BUDGET + HOOK, True, False),
        (BUDGET + "thresholds = [50]\n", True, False),
        (BUDGET + 'thresholds = [{at = 50, do = "block"}]\n', True, True),
        ('[alerts]\nvelocity_factor = 5\nvelocity_action = "block"\n' + BUDGET, True, True),
        ("[alerts]\nvelocity_factor = 5\n" + BUDGET, True, False),
        ('[[budgets]]\nname = "r"\nper = "request"\nusd = "1"\n' + HOOK, False, False),
    ],
)
def test_calls_pay_for_alerts_only_where_somebody_wants_them(toml, watched, acts, log):
    settings = read(toml)
    assert watches_calls(settings.alerts, settings.policy) == watched
    assert is_wanted(settings.alerts, settings.policy) == (watched or HOOK in toml)
    if is_wanted(settings.alerts, settings.policy):
        sinks = open_sinks(
            settings.alerts.sinks, env={"HOOK_URL": "http://x", "HOOK_SECRET": "s"}, clock=VirtualClock()
        )
        made = make_alerting(
            settings.alerts, settings.policy, budgets=None, books=None, ledger=None, log=log, sinks=sinks,
            clock=VirtualClock(), workers=1,
        )  # fmt: skip
        assert (made.actions is not None) == acts
        assert (made.watched is not None) == watched


def test_incidents_are_looked_for_where_somebody_is_told(log):
    for toml, looked in ((HOOK, True), ("[alerts]\nincidents = false\n" + HOOK, False), (BUDGET, False)):
        settings = read(toml)
        made = make_alerting(
            settings.alerts, settings.policy, budgets=None, books=None, ledger=None, log=log,
            sinks=open_sinks(settings.alerts.sinks, env={"HOOK_URL": "http://x", "HOOK_SECRET": "s"},
                             clock=VirtualClock()),
            clock=VirtualClock(), workers=1, incidents=lambda now_ms, told: (),
        )  # fmt: skip
        assert (made.patrol is not None) == looked


def test_check_notes_that_nobody_would_be_told():
    assert any("nobody is told" in note for note in notes(read(BUDGET)))
    assert not any("nobody is told" in note for note in notes(read(BUDGET + HOOK)))
