"""``farthing demo`` from outside, and its referee, who must notice everything that is made wrong on purpose."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import anthropic
import msgspec
import openai
import pytest

from farthing import bootstrap
from farthing.core.errors import ConfigError
from farthing.core.types import LedgerEntry
from farthing.demo.clock import HOUR_MS, DayClock
from farthing.demo.plan import DAY, make_plan
from farthing.demo.referee import InvoicedCall, Verdict, compare, misattributed, parse_invoice
from farthing.demo.run import home_of
from farthing.demo.settings_file import write_settings

VERDICT = re.compile(
    r"referee: ([\d,]+) invoiced calls, ([\d,]+) entries; ([\d,]+) exact: "
    r"ledger \$(\d+\.\d{9}) = invoice \$(\d+\.\d{9}); ([\d,]+) apart, difference -?\$\d+\.\d{9}; PASS"
)


class Day:
    """One finished run of the command and what it left behind."""

    def __init__(self, home: Path, result: subprocess.CompletedProcess[str]) -> None:
        self.home = home
        self.result = result
        lines = (home / "invoice.jsonl").read_bytes().splitlines()
        self.invoice = [msgspec.json.decode(line, type=InvoicedCall) for line in lines]
        self.settings = bootstrap.load_settings(str(home / "farthing.toml"), str(home))
        self.entries: list[LedgerEntry] = list(bootstrap.open_ledger(self.settings).entries())

    def judged(
        self, *, invoice: list[InvoicedCall] | None = None, entries: list[LedgerEntry] | None = None
    ) -> Verdict:
        return compare(self.invoice if invoice is None else invoice, self.entries if entries is None else entries)

    def place(self, source: str) -> int:
        """Where the first entry of a source stands that cost something."""
        return next(
            place
            for place, one in enumerate(self.entries)
            if one.usage.source == source and (one.charge.total or 0) > 9
        )


def command(home: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "farthing", "demo", "--home", str(home), *options]


@contextmanager
def running(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command with its output piped; killed if the test fails before it ends."""
    with subprocess.Popen(
        command(home, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and hands that down to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    home = tmp_path_factory.mktemp("demo")
    result = subprocess.run(
        command(home, "--once", "--requests", "300", "--seed", "7"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("FARTHING_")},
    )
    return Day(home, result)


def test_the_demo_ends_with_the_referees_pass_and_exit_code_0(day: Day) -> None:
    output = day.result.stdout
    assert day.result.returncode == 0, output[-3_000:] + day.result.stderr
    assert day.result.stderr == ""
    verdict = VERDICT.fullmatch(output.splitlines()[-1])
    assert verdict is not None, output[-500:]
    invoiced, entries, exact, ledger, invoice, apart = verdict.groups()
    assert int(invoiced) == len(day.invoice) == int(entries) == len(day.entries)
    assert int(exact) > 200
    assert ledger == invoice
    assert int(exact) + int(apart) == int(entries)


def test_the_demo_prints_every_section(day: Day) -> None:
    for section in (
        "Spend by team and model",
        "Spend by feature",
        "Where the quantities come from",
        "Top users",
        "Refused before any money was spent",
        "Trouble on the way",
        "Budgets",
        "The provider's invoice against the ledger",
    ):
        assert f"\n{section}\n" in day.result.stdout, section


def test_the_day_has_everything_that_makes_metering_hard(day: Day) -> None:
    entries = day.entries
    assert {entry.usage.source for entry in entries} == {"reported", "partial", "estimated"}
    assert {entry.endpoint for entry in entries} == {"chat", "responses", "completions", "embeddings", "messages"}
    assert {entry.scope.team for entry in entries} == {"support", "search", "growth", "research", "platform"}
    units = {unit for entry in entries for part in entry.usage.parts for unit, _ in part.lines}
    assert units >= {
        "input",
        "input_cache_read",
        "input_cache_write_5m",
        "input_cache_write_1h",
        "output",
        "output_reasoning",
    }
    assert {"flex", "priority"} <= {entry.usage.service_tier for entry in entries}
    assert any(entry.client_gone and entry.stream for entry in entries)
    assert any(entry.client_gone and not entry.stream for entry in entries)
    exchanges = list(bootstrap.open_ledger(day.settings).exchanges())
    refused = {exchange.error for exchange in exchanges if exchange.outcome == "refused"}
    assert refused >= {"budget_exceeded:growth-month", "budget_exceeded:agent-day", "budget_exceeded:one-call"}
    failures = {attempt.error for exchange in exchanges for attempt in exchange.attempts if attempt.error}
    assert failures >= {
        "provider_overloaded",
        "provider_rate_limited",
        "provider_timed_out",
        "provider_stream_broken",
    }
    models = [{attempt.model for attempt in exchange.attempts} for exchange in exchanges]
    assert {"gpt-4.1", "gpt-4.1-mini"} in models, "the outage sends some requests to the fallback model"


def test_the_growth_budget_runs_out_in_the_course_of_the_day(day: Day) -> None:
    exchanges = [one for one in bootstrap.open_ledger(day.settings).exchanges() if one.scope.team == "growth"]
    served = [one.received_at_ms for one in exchanges if one.amount]
    refused = [one.received_at_ms for one in exchanges if one.error == "budget_exceeded:growth-month"]
    assert median(served) < max(refused)
    assert min(served) < min(refused)
    budget = next(one for one in day.settings.policy.budgets if one.name == "growth-month")
    spent = sum(entry.charge.total or 0 for entry in day.entries if entry.scope.team == "growth")
    assert budget.limits[0][1] // 2 < spent <= budget.limits[0][1]


def test_nothing_that_was_reported_cost_more_than_was_held_for_it_or_nothing_at_all(day: Day) -> None:
    reported = [one for one in day.entries if one.usage.source == "reported"]
    assert len(reported) > 100
    for entry in reported:
        assert entry.charge.total is not None
        assert entry.ceiling is not None
        assert 0 < entry.charge.total <= entry.ceiling, entry.id


def test_no_secret_but_the_printed_key_is_in_the_output_or_the_home(day: Day) -> None:
    assert re.search(r"fk-[\w-]{20}", day.result.stdout) is None
    for path in day.home.rglob("*"):
        assert path.is_dir() or re.search(rb"fk-[\w-]{20}", path.read_bytes()) is None, path


def test_an_untouched_ledger_passes(day: Day) -> None:
    assert day.judged().passed


def test_a_changed_invoice_amount_is_a_mismatch(day: Day) -> None:
    place = day.place("reported")
    wanted = day.entries[place].usage.upstream_id
    changed = [
        msgspec.structs.replace(call, amount_nusd=call.amount_nusd + 1) if call.id == wanted else call
        for call in day.invoice
    ]
    (mismatch,) = day.judged(invoice=changed).mismatches
    assert wanted in mismatch


def test_a_changed_token_class_is_a_mismatch_even_when_the_total_agrees(day: Day) -> None:
    place = next(place for place, call in enumerate(day.invoice) if len(call.charges) > 1 and call.fault == "")
    first, second, *rest = day.invoice[place].charges
    charges = (
        msgspec.structs.replace(first, amount_nusd=first.amount_nusd - 1),
        msgspec.structs.replace(second, amount_nusd=second.amount_nusd + 1),
        *rest,
    )
    changed = [*day.invoice]
    changed[place] = msgspec.structs.replace(changed[place], charges=charges)
    (mismatch,) = day.judged(invoice=changed).mismatches
    assert first.unit in mismatch
    assert second.unit in mismatch


def test_a_missing_entry_is_a_mismatch(day: Day) -> None:
    for source in ("reported", "partial", "estimated"):
        entries = [*day.entries]
        entries.pop(day.place(source))
        verdict = day.judged(entries=entries)
        assert len(verdict.mismatches) == 1, source
        assert verdict.mismatches[0].startswith("not in the ledger")


def test_a_doubled_entry_is_a_mismatch(day: Day) -> None:
    for source in ("reported", "partial"):
        double = msgspec.structs.replace(day.entries[day.place(source)], id="another id")
        verdict = day.judged(entries=[*day.entries, double])
        assert len(verdict.mismatches) == 1, source
        assert "twice" in verdict.mismatches[0]
    assert "twice" in day.judged(entries=[*day.entries, day.entries[0]]).mismatches[0]


def test_an_invented_entry_is_a_mismatch(day: Day) -> None:
    for source in ("reported", "estimated"):
        real = day.entries[day.place(source)]
        usage = msgspec.structs.replace(real.usage, upstream_id="chatcmpl-invented")
        scope = msgspec.structs.replace(real.scope, tags=(("call", "no such call"),))
        invented = msgspec.structs.replace(
            real, id="invented", request_id="req_invented", usage=usage, scope=scope, fidelity="exact"
        )
        (mismatch,) = day.judged(entries=[*day.entries, invented]).mismatches
        assert mismatch.startswith("not on the invoice")


def test_an_unpriced_entry_is_a_mismatch(day: Day) -> None:
    entries = [*day.entries]
    charge = msgspec.structs.replace(entries[0].charge, total=None, state="unpriced", reason="unknown_model")
    entries[0] = msgspec.structs.replace(entries[0], charge=charge)
    (mismatch,) = day.judged(entries=entries).mismatches
    assert mismatch.startswith("without a price")


def test_a_ceiling_that_the_invoice_passes_is_a_mismatch(day: Day) -> None:
    place = next(place for place, entry in enumerate(day.entries) if entry.fidelity == "unknown")
    entries = [*day.entries]
    charge = msgspec.structs.replace(entries[place].charge, total=1)
    entries[place] = msgspec.structs.replace(entries[place], charge=charge)
    (mismatch,) = day.judged(entries=entries).mismatches
    assert mismatch.startswith("above its ceiling")


def test_an_attempt_that_was_never_invoiced_stands_apart_when_its_outcome_was_unknown(day: Day) -> None:
    unknown = next(entry for entry in day.entries if entry.fidelity == "unknown")
    lost = msgspec.structs.replace(
        unknown, id="lost", request_id="req_lost", scope=msgspec.structs.replace(unknown.scope, tags=())
    )
    verdict = day.judged(entries=[*day.entries, lost])
    assert verdict.passed
    assert sum(apart.unbilled for apart in verdict.apart) == 1


def test_an_entry_on_the_wrong_team_is_a_mismatch(day: Day) -> None:
    callers = {call.id: (call.feature.team, call.feature.name, call.user) for call in make_plan(300, 7).calls}
    assert misattributed(day.entries, callers) == ()
    wrong = msgspec.structs.replace(
        day.entries[0], scope=msgspec.structs.replace(day.entries[0].scope, team="another team")
    )
    (mismatch,) = misattributed([wrong, *day.entries[1:]], callers)
    assert "another team" in mismatch


def test_problems_found_elsewhere_fail_the_verdict(day: Day) -> None:
    verdict = compare(day.invoice, day.entries, ["budget passed: team-month"])
    assert not verdict.passed
    assert verdict.mismatches == ("budget passed: team-month",)


def test_an_invoice_whose_total_is_wrong_is_refused(day: Day) -> None:
    lines = (day.home / "invoice.jsonl").read_bytes()
    total = msgspec.json.encode({"total": {"lines": len(day.invoice), "amount_nusd": 1}})
    with pytest.raises(ValueError, match="do not add up"):
        parse_invoice(lines + total)


def test_the_plan_is_fixed_by_its_seed() -> None:
    assert make_plan(300, 7) == make_plan(300, 7)
    assert make_plan(300, 7) != make_plan(300, 8)


def test_a_plan_has_about_the_calls_that_were_asked_for_in_order_of_time() -> None:
    calls = make_plan(2_000, 1).calls
    assert 1_900 < len(calls) < 2_200
    assert [call.at_ms for call in calls] == sorted(call.at_ms for call in calls)
    assert 0 <= calls[0].at_ms <= calls[-1].at_ms < DAY
    assert len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize("hour", range(24))
@pytest.mark.parametrize("minute", [0, 31, 59])
def test_the_demos_day_is_one_calendar_day_of_its_zone(hour: int, minute: int, tmp_path: Path) -> None:
    now = [(20_000 * 24 + hour) * HOUR_MS + minute * 60_000 + 59_000]
    real = [0.0]
    clock = DayClock(30, wall=lambda: now[0] + int(real[0] * 1000), monotonic=lambda: real[0])
    settings = write_settings(
        tmp_path, make_plan(100, 1), port=1, provider_url="http://127.0.0.1:1", zone=clock.zone, speed=1
    )
    zone = next(budget.timezone for budget in settings.policy.budgets if budget.name == "user-day")
    sign = {"+": -1, "-": 1}
    offset = 0 if zone == "UTC" else sign[zone[7]] * int(zone[8:])
    local = [(at + offset * HOUR_MS) // (24 * HOUR_MS) for at in (clock.starts_at_ms, clock.ends_at_ms + 60_000)]
    assert local[0] == local[1]
    assert (clock.starts_at_ms + offset * HOUR_MS) % (24 * HOUR_MS) == 0
    assert 22 * HOUR_MS < clock.span_ms < 24 * HOUR_MS


def test_the_clock_stands_then_runs_fast_and_is_the_walls_in_the_end() -> None:
    now, real = [100 * 24 * HOUR_MS], [5.0]
    clock = DayClock(10, wall=lambda: now[0], monotonic=lambda: real[0])
    real[0] += 3
    assert clock.now_ms() == clock.starts_at_ms
    clock.start()
    real[0] += 5
    assert abs(clock.now_ms() - (clock.starts_at_ms + clock.ends_at_ms) // 2) < 1_000
    assert abs(clock.wait_s(clock.ends_at_ms) - 5) < 0.01
    real[0] += 60
    now[0] += 1234
    assert clock.now_ms() == now[0]


def test_a_home_with_an_installation_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "farthing.db").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds an installation already"):
        home_of(str(tmp_path))


def test_ctrl_c_ends_the_demo_in_the_middle_of_the_day(tmp_path: Path) -> None:
    with running(tmp_path, "--requests", "2000") as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        while "calls, until" not in demo.stdout.readline():
            pass
        demo.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert demo.wait(30) == 130
        assert time.monotonic() - started < 20
        assert demo.stderr.read() == "Error: stopped before the verdict\n"


def test_after_the_day_the_printed_lines_serve_both_clients(tmp_path: Path) -> None:
    with running(tmp_path, "--requests", "100", "--speed", "30000") as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        found: dict[str, tuple[str, str]] = {}
        while "Ctrl-C ends the demo" not in (line := demo.stdout.readline()):
            assert line, demo.stderr.read()
            match = re.search(r'client = (\w+)\(base_url="(\S+)", api_key="(\S+)"\)', line)
            if match:
                found[match[1]] = (match[2], match[3])
        _say_hello(*found["OpenAI"], *found["Anthropic"])
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
        assert demo.stderr.read() == ""
    settings = bootstrap.load_settings(str(tmp_path / "farthing.toml"), str(tmp_path))
    yours = [one for one in bootstrap.open_ledger(settings).entries() if one.scope.team == "visitors"]
    assert [entry.model_requested for entry in yours] == ["gpt-4o-mini", "claude-sonnet-4-6"]
    assert all(abs(entry.received_at_ms - time.time() * 1000) < 60_000 for entry in yours)


def _say_hello(openai_url: str, openai_key: str, anthropic_url: str, anthropic_key: str) -> None:
    said: list = [{"role": "user", "content": "One word: hello"}]
    with openai.OpenAI(base_url=openai_url, api_key=openai_key) as client:
        assert client.chat.completions.create(model="gpt-4o-mini", messages=said).choices[0].message.content
    with anthropic.Anthropic(base_url=anthropic_url, api_key=anthropic_key) as client:
        assert client.messages.create(model="claude-sonnet-4-6", max_tokens=20, messages=said).content
