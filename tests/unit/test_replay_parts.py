"""Replays shared out and interrupted: parts add up to the whole, and what was cut off goes on."""

import multiprocessing
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from farthing import bootstrap
from farthing.cli import main
from farthing.cli.replay_run import spread
from farthing.core.errors import NotFound
from farthing.lab.replay_apart import Split, conflict, splits
from farthing.lab.replay_parts import Found, Job, Period, added, part_of, partition, parts_of, survey
from farthing.testing.replays import busy_log
from farthing.testing.world import START_MS

REQUESTS = 3_000
DAY_MS = 86_400_000
HEAD = '[[providers]]\nname = "openai"\napi_key_env = "NO_KEY"\n'
FREE = '[[budgets]]\nname = "one"\nper = "request"\nusd = "0.012"\n'
BY_TEAM = """
[[budgets]]
name = "team"
per = "day"
usd = "0.9"
each = ["team"]

[[budgets]]
name = "user"
per = "day"
requests = 9
each = ["user", "team"]

[[cache]]
name = "all"
ttl = "5m"
partition = ["team"]
"""
CACHE = '[[cache]]\nname = "all"\nttl = "5m"\n'
SHARED = '[[budgets]]\nname = "org"\nper = "day"\nusd = "5"\n' + CACHE


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An installation with a night's traffic log, midnight in its midst, also as Parquet."""
    folder = tmp_path_factory.mktemp("parts")
    settings = settings_of(folder, "")
    start_ms = START_MS // DAY_MS * DAY_MS + DAY_MS - REQUESTS * 500
    log = sorted(
        busy_log(REQUESTS, start_ms=start_ms, every_ms=1_000), key=lambda one: one.received_at_ms + one.latency_ms
    )
    bootstrap.open_importer(settings).import_batch((), log)
    bootstrap.export_parquet(settings, folder / "parquet", since_ms=0)
    return folder


def settings_of(folder: Path, policy: str):
    path = folder / f"{len(policy)}.toml"
    path.write_text(HEAD + policy, encoding="utf-8")
    return bootstrap.load_settings(str(path), str(folder))


def job_of(home: Path, policy: str, **more) -> Job:
    settings = settings_of(home, policy)
    period = Period(since_ms=0, until_ms=2**60)
    found = survey(bootstrap.open_log(settings), period)
    assert found.requests == REQUESTS
    return Job(
        settings=settings,
        period=period,
        longest_ms=found.longest_ms,
        dimension=partition(settings.policy),
        key="k",
        **more,
    )


@pytest.mark.parametrize(("policy", "dimension", "count"), [(FREE, "request", 2), (BY_TEAM, "team", 3)])
def test_parts_of_an_export_in_processes_of_their_own_add_up_to_one_replay_of_the_ledger(
    home, policy, dimension, count
):
    whole = bootstrap.replay_part(job_of(home, policy))
    job = job_of(home, policy, source=f"parquet:{home / 'parquet'}")
    assert job.dimension == dimension
    parts = parts_of(job, count)
    assert [one.part for one in parts] == list(range(count))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert added(pool.map(bootstrap.replay_part, parts)) == whole
    assert whole.bill.requests == REQUESTS
    assert whole.plain > 0.99 * REQUESTS
    assert whole.bill.refused > 100
    assert len(whole.changed) == 20
    assert bool(whole.bill.cached) == (policy == BY_TEAM)


def test_calls_that_share_a_budget_are_not_parted(home):
    job = job_of(home, SHARED)
    assert parts_of(job, 3) == (job,)


def test_parts_that_share_a_budget_count_where_it_decided_nothing_and_are_done_again_where_it_did(home):
    for limit, refuses in (("5", True), ("500000", False)):
        policy = f'[[budgets]]\nname = "org"\nper = "day"\nusd = "{limit}"\n' + BY_TEAM.replace("0.9", "900")
        job = job_of(home, policy)
        split = splits(job.settings.policy)[0]
        assert split == Split("team", ("org",))
        parted = msgspec.structs.replace(job, dimension=split.dimension, shared=split.shared)
        parts = [bootstrap.replay_part(part) for part in parts_of(parted, 2)]
        whole = bootstrap.replay_part(job)
        assert bool(conflict([part.levels for part in parts])) == refuses
        assert (added(parts) == whole) != refuses
        assert whole.levels == ()
        if refuses:
            assert spread([parted], 2) == [whole]


def test_a_job_travels_as_plain_data(home):
    job = job_of(home, BY_TEAM)
    assert multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(job)) == job


def test_a_request_is_in_the_same_part_on_every_machine():
    first = next(iter(busy_log(1)))
    assert [part_of(first, name, 1_000) for name in ("request", "team", "user", "org")] == [
        part_of(msgspec.json.decode(msgspec.json.encode(first), type=type(first)), name, 1_000)
        for name in ("request", "team", "user", "org")
    ]
    assert part_of(first, "org", 1_000) == 736


def test_requests_that_begin_alike_are_in_one_part():
    alike, other = [msgspec.structs.replace(one, blocks=("x", one.request_id)) for one in busy_log(50)], "request"
    assert len({part_of(one, other, 1_000) for one in alike}) == 1
    assert len({part_of(one, other, 1_000) for one in busy_log(50)}) > 40


def test_the_exported_log_gives_every_request_once_and_goes_on_after_any(home):
    settings = settings_of(home, "")
    ledger, export = bootstrap.open_log(settings), bootstrap.open_log(settings, f"parquet:{home / 'parquet'}")
    exported = list(export.exchanges())
    key = lambda one: one.request_id  # noqa: E731
    assert sorted(exported, key=key) == sorted(ledger.exchanges(), key=key)
    assert len({one.received_at_ms // DAY_MS for one in exported}) == 2
    assert list(export.exchanges(after=exported[1_700].request_id)) == exported[1_701:]
    late = exported[2_000].received_at_ms
    assert list(export.exchanges(since_ms=late)) == [one for one in exported if one.received_at_ms >= late]
    with pytest.raises(NotFound):
        list(export.exchanges(after="nobody"))


def dies(job: Job, after: int) -> None:
    bootstrap.replay_part(job, lambda done: os._exit(9) if done >= after else None)


def test_a_replay_whose_process_was_killed_goes_on_from_its_last_record(home, tmp_path):
    whole = bootstrap.replay_part(job_of(home, SHARED))
    state = tmp_path / "state"
    job = job_of(home, SHARED, state=str(state), keep_every=700)
    for after in (1_000, 2_000):
        process = multiprocessing.get_context("spawn").Process(target=dies, args=(job, after))
        process.start()
        process.join()
        assert process.exitcode == 9
        assert state.exists()
    begun: list[int] = []
    assert bootstrap.replay_part(job, begun.append) == whole
    assert begun == [2_000, 3_000]  # what was written down was not done again
    assert not state.exists()


def ask(home: Path, *words: str):
    return CliRunner().invoke(
        main, ["--home", str(home), "--config", str(home / f"{len(FREE)}.toml"), "replay", *words]
    )


def test_resuming_takes_the_period_of_what_was_interrupted_and_its_results(home, tmp_path):
    for policy in (FREE, FREE + CACHE):
        settings_of(home, policy)
    before = sorted(home.iterdir())
    policy, state = str(home / f"{len(FREE + CACHE)}.toml"), str(tmp_path / "kept")
    span = ("--since", "2020-01-01", "--until", "2100-01-01")
    nothing = ask(home, "--policy", policy, "--state", state, "--resume")
    assert nothing.exit_code == 1
    assert "Nothing was interrupted" in nothing.output
    first = ask(home, "--policy", policy, "--state", state, *span, "--jobs", "2", "--format", "json")
    assert first.exit_code == 0, first.output
    again = ask(home, "--policy", policy, "--state", state, "--resume", "--format", "json")
    assert again.stdout == first.stdout
    kept = msgspec.json.decode(Path(state).read_bytes())
    assert len(kept["found"]) == 2  # with the cache and without
    assert {msgspec.convert(one, Found).bill.requests for one in kept["found"].values()} == {REQUESTS}
    alone = ask(home, "--policy", policy, *span, "--from", f"parquet:{home / 'parquet'}", "--format", "json")
    assert alone.stdout == first.stdout
    Path(state).write_text("{}")
    assert "Remove it" in ask(home, "--policy", policy, "--state", state, *span).output
    assert sorted(home.iterdir()) == before  # short replays leave nothing behind
