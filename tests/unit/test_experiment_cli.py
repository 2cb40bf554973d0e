"""``farthing experiment`` and ``farthing savings``: what they refuse, all at once, and what they keep."""

import pytest

from farthing.adapters.practice_sqlite import SqlitePractice
from farthing.core.experiment import Experiment
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry

CACHE = '[[cache]]\nname = "all"\n'
DAY = 86_400_000


@pytest.fixture
def home(tmp_path) -> Home:
    made = Home(tmp_path, config=CACHE)
    made.book([an_entry("old", received_at_ms=NOW_MS - DAY)])
    return made


def registered(home: Home) -> tuple[Experiment, ...]:
    register = SqlitePractice(home.folder / "farthing.db")
    try:
        return register.experiments()
    finally:
        register.close()


def test_a_start_registers_the_design_and_the_audit_log_has_it(home):
    said = home.ok("experiment", "start", "q4-caches", "--holdout", "12.5%", "--until", "14d", "--why", "to know",
                   "--match", "team=search", "--match", "tag:env=prod", "--margin", "1.5")  # fmt: skip
    assert "12.5% of conversations do without caches" in said
    (made,) = registered(home)
    assert (made.share_bp, made.margin_bp, made.kind, made.off) == (1_250, 150, "holdout", ("caches",))
    assert made.match == (("tag:env", "prod"), ("team", "search"))
    assert NOW_MS < made.starts_ms < NOW_MS + 10_000
    assert made.ends_ms == NOW_MS + 14 * DAY
    (change,) = home.json("audit", "--subject", "experiment")["rows"]
    assert (change["name"], change["after"]) == ("q4-caches", "started")


def test_salts_differ_so_that_the_next_experiment_draws_anew(home):
    for name in ("a", "b"):
        home.ok("experiment", "start", name)
        home.now_ms += 60_000
        home.ok("experiment", "stop")
    assert len({one.salt for one in registered(home)}) == 2


def test_everything_wrong_is_said_at_once(home):
    result = home.run("experiment", "start", "Not This", "--off", "routes,chaches", "--holdout", "95",
                      "--until", "2020-01-01", "--match", "model=x", "--margin", "many",
                      "--washout", "1h")  # fmt: skip
    assert result.exit_code == 2
    for words in ("8 problems", '"chaches" is none of', "no [[routes]]", '"Not This"', "95 %", "is past", '"model"',
                  '"many" is no number', "only a switchback"):  # fmt: skip
        assert words in result.output
    assert registered(home) == ()


@pytest.mark.parametrize("holdout", ["nan", "inf", "1e400", "-5", "0", "x"])
def test_a_share_that_is_none_is_refused(home, holdout):
    result = home.run("experiment", "start", "e", f"--holdout={holdout}")
    assert result.exit_code == 2, result.output


def test_where_nothing_can_be_switched_off_nothing_can_be_tested(tmp_path):
    result = Home(tmp_path).run("experiment", "start", "e")
    assert result.exit_code == 2
    assert "there is nothing to test" in result.output


def test_a_switchback_draws_half_of_its_blocks_unless_told_otherwise(home):
    said = home.ok("experiment", "start", "blocks", "--switchback", "2h")
    assert "50.0% of the blocks of time" in said
    (made,) = registered(home)
    assert (made.kind, made.period_ms, made.washout_ms) == ("switchback", 7_200_000, 720_000)
    assert home.run("experiment", "start", "x", "--switchback", "2026-11-21").exit_code == 2


def test_one_runs_at_a_time_and_a_name_is_used_once(home):
    home.ok("experiment", "start", "a")
    second = home.run("experiment", "start", "b")
    assert (second.exit_code, "'a' is running" in second.output) == (2, True)
    other = home.run("experiment", "stop", "b")
    assert (other.exit_code, "'a' is" in other.output) == (1, True)
    home.ok("experiment", "stop", "a")
    assert home.run("experiment", "stop").exit_code == 1
    again = home.run("experiment", "start", "a")
    assert (again.exit_code, "already" in again.output) == (2, True)


def test_the_list_says_where_each_stands(home):
    home.ok("experiment", "start", "a", "--until", "1d")
    assert home.json("experiment", "ls")["rows"][0]["state"] == "begins soon"
    home.now_ms += 3_600_000
    assert home.json("experiment", "ls")["rows"][0]["state"] == "running"
    home.now_ms += DAY
    assert home.json("experiment", "ls")["rows"][0]["state"] == "over"
    home.ok("experiment", "start", "b")
    home.now_ms += 3_600_000
    home.ok("experiment", "stop")
    assert [one["state"] for one in home.json("experiment", "ls")["rows"]] == ["stopped", "over"]


def test_status_without_calls_says_what_is_missing(home):
    assert home.run("experiment", "status").exit_code == 1
    home.ok("experiment", "start", "a")
    home.now_ms += 3_600_000
    said = home.ok("experiment", "status")
    assert "no headline, an arm has fewer than two conversations" in said
    unknown = home.run("experiment", "status", "b")
    assert (unknown.exit_code, "known are a" in unknown.output) == (1, True)


def test_a_report_without_an_experiment_is_a_page_that_says_so(home):
    said = home.json("savings", "report")
    assert not said["headline"]["stands"]
    assert said["books"][0]["rows"]
    assert home.run("savings", "report", "--experiment", "none").exit_code == 1
    assert home.run("savings", "report", "--since", "now", "--until", "1d").exit_code == 2
    assert home.run("savings", "report", "--where", "model=x").exit_code == 2
    assert "tag:env=a b" in home.ok("savings", "report", "--where", "tag:env=a b")


def test_a_file_that_is_no_page_cannot_be_verified(home, tmp_path):
    file = tmp_path / "x.json"
    file.write_text("{}")
    result = home.run("savings", "verify", str(file))
    assert (result.exit_code, "is no page" in result.output) == (1, True)
    file.write_text(home.ok("savings", "report", "--format", "json"))
    assert "every figure is as the books have it" in home.ok("savings", "verify", str(file))
    home.book([an_entry("late", received_at_ms=NOW_MS - DAY)])
    assert home.run("savings", "verify", str(file)).exit_code == 1
