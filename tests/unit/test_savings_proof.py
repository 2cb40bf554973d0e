"""From the books to the proof: conversations as a plain reference counts them, and rules that withhold a headline."""

import json
import random
from collections import defaultdict
from html.parser import HTMLParser

import msgspec
import pytest

from farthing.core.experiment import Experiment, assign, unit_of
from farthing.core.money import Nusd, Pusd
from farthing.core.savings import Conversation, measure
from farthing.core.types import (
    AttemptFact,
    Charge,
    ChargeLine,
    Decision,
    Exchange,
    LedgerEntry,
    PromptView,
    Scope,
    Target,
    Usage,
    UsagePart,
)
from farthing.insight.arms import ArmReader
from farthing.insight.gathering import gather, overlapping
from farthing.insight.proof import Measured, measured
from farthing.insight.proof_page import page
from farthing.insight.proof_report import Proof, proof
from farthing.insight.reports import experiments as report
from farthing.ports.outcomes import Outcome
from farthing.testing.records import an_entry

START = 1_795_000_000_000
DAY = 86_400_000
END = START + 10 * DAY


RATES = {"input": 10, "input_cache_read": 1, "input_cache_write": 12, "output": 40}


class Rates:
    """Prices by token: input 10 nano-USD, read from the provider's cache 1, written to it 12, output 40."""

    ref = "rates"

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        amount = sum(RATES[unit] * many for part in usage.parts for unit, many in part.lines)
        if usage.service_tier == "batch":
            amount //= 2
        return Charge(total=Nusd(amount), state="priced", price_ref=self.ref)

    def ceiling(self, bounds, target, *, at_ms):
        return None

    def context_window(self, target):
        return None


class Books:
    """What a ledger answers, from lists."""

    def __init__(self, entries: list[LedgerEntry], exchanges: list[Exchange]) -> None:
        self._entries, self._exchanges = entries, exchanges

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = ""):
        return (one for one in self._entries if one.received_at_ms >= since_ms)

    def exchanges(self, *, since_ms: int = 0, after: str = ""):
        return (one for one in self._exchanges if one.received_at_ms >= since_ms)


def design(**changes) -> Experiment:
    said = {"name": "e", "off": ("caches",), "share_bp": 2_000, "salt": "s", "starts_ms": START, **changes}
    return Experiment(**said)


def entry(id: str, cost: int | None, baseline: int | None, *, scope: Scope, at_ms: int, request_id: str,
          decisions: tuple[Decision, ...] = (), **changes) -> LedgerEntry:  # fmt: skip
    made = an_entry(id, cost, request_id=request_id, scope=scope, received_at_ms=at_ms, baseline=baseline)
    return msgspec.structs.replace(made, decisions=decisions, policy_ref="p1", **changes)


def exchange(request_id: str, scope: Scope, at_ms: int, decisions: tuple[Decision, ...], **changes) -> Exchange:
    said = {"outcome": "answered", "status": 200, "latency_ms": 100, **changes}
    return Exchange(
        request_id=request_id, received_at_ms=at_ms, scope=scope, dialect="openai", decisions=decisions,
        view=PromptView(endpoint="chat", model="gpt-4o"), **said,
    )  # fmt: skip


class World:
    """A simulated installation: entries, exchanges, and beside them what a plain count comes to."""

    def __init__(
        self, seed: int, made: Experiment, *, talks: int = 600, saves: float = 0.3, noise: float = 0.0
    ) -> None:
        self.noise = noise
        self.rng = random.Random(seed)
        self.made = made
        self.entries: list[LedgerEntry] = []
        self.exchanges: list[Exchange] = []
        self.truth: dict[str, dict[str, list[int]]] = {"control": {}, "treated": {}}
        self.calls = 0
        for number in range(talks):
            self.talk(number, saves)
        self.rng.shuffle(self.entries)

    def talk(self, number: int, saves: float) -> None:
        rng = self.rng
        kind = rng.choices(("session", "user", "request"), (7, 2, 1))[0]
        scope = Scope(
            team=rng.choice(("a", "b")), **({} if kind == "request" else {kind: f"{self.made.name} {kind}{number}"})
        )
        calls = 1 if kind == "request" else 1 + min(30, int(rng.lognormvariate(0.7, 1)))
        heft = rng.lognormvariate(8, 1.2)
        for _ in range(calls):
            at_ms = START + rng.randrange(10 * DAY)
            self.call(scope, at_ms, 1 + int(heft * rng.lognormvariate(0, 0.5)), saves)

    def call(self, scope: Scope, at_ms: int, baseline: int, saves: float) -> None:
        self.calls += 1
        request_id = f"{self.made.name}-{self.calls}"
        assigned = assign(self.made, scope, request_id, at_ms)
        if assigned is None:
            self.entries.append(entry(f"{request_id}-1", baseline, baseline, scope=scope, at_ms=at_ms,
                                      request_id=request_id))  # fmt: skip
            return
        note = (assigned.note(),)
        kept = 1.0 if assigned.arm == "control" else 1 - saves * self.rng.uniform(0.2, 1.8)
        cost = round(baseline * kept * (1 + self.noise * self.rng.uniform(-1, 1)))
        key = ":".join(unit_of(scope, request_id))
        held = self.truth[assigned.arm].setdefault(key, [0, 0])
        self.entries.append(entry(f"{request_id}-1", cost, baseline, scope=scope, at_ms=at_ms, request_id=request_id,
                                  decisions=note))  # fmt: skip
        held[0] += cost
        held[1] += baseline
        if assigned.arm == "treated" and self.rng.random() < 0.2:
            lever = Charge(total=Nusd(7), state="priced", reason="lever:cache")
            self.entries.append(entry(f"{request_id}-embed-0", 7, 0, scope=scope, at_ms=at_ms, request_id=request_id,
                                      charge=lever))  # fmt: skip
            held[0] += 7
        if self.rng.random() < 0.05:
            self.entries.append(entry(f"adj-{request_id}", -3, -3, scope=scope, at_ms=at_ms, request_id=request_id,
                                      kind="adjustment", corrects=f"{request_id}-1"))  # fmt: skip
            held[0] -= 3
            held[1] -= 3
        self.exchanges.append(exchange(request_id, scope, at_ms, note))

    def read(self, until_ms: int = END) -> Measured:
        reader = ArmReader(self.made, since_ms=0, until_ms=until_ms, worth=lambda one, tokens: 10 * tokens)
        for one in self.entries:
            reader.entry(one)
        for one in self.exchanges:
            reader.exchange(one)
        return measured(reader, until_ms=until_ms)

    def reference(self, *, always_valid: bool):
        arms = [
            [Conversation(float(cost), float(base)) for cost, base in self.truth[arm].values()]
            for arm in ("control", "treated")
        ]
        return measure(arms[0], arms[1], always_valid=always_valid)


# -- the arms


@pytest.mark.parametrize("seed", range(4))
def test_conversations_are_counted_as_a_plain_reference_counts_them(seed):
    world = World(seed, design(match=(("team", "a"),) if seed % 2 else ()))
    found = world.read()
    for arm, sums in (("control", found.control), ("treated", found.treated)):
        talks = world.truth[arm].values()
        assert (sums.conversations, sums.cost, sums.baseline) == (
            len(talks), sum(one[0] for one in talks), sum(one[1] for one in talks),
        )  # fmt: skip
    for name, always in (("planned", False), ("always", True)):
        mine, plain = getattr(found, name), world.reference(always_valid=always)
        for field in ("estimate", "low", "high", "control", "treated", "missing"):
            assert getattr(mine, field) == pytest.approx(getattr(plain, field)), (name, field)
    assert found.unassigned == found.left_out.__len__() == 0
    assert found.draw_p > 0.001


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        made = design(salt=f"s{seed}", share_bp=5_000, ends_ms=END)
        found = World(seed, made, talks=200).read()
        assert found.saving is found.planned
        covered += found.saving.low <= 0.3 <= found.saving.high
    assert covered >= 52


def test_while_it_runs_only_the_interval_for_any_number_of_looks_is_read():
    planned, stopped = design(ends_ms=END), design(ends_ms=END, stopped_ms=END - 5 * DAY)
    assert World(1, planned, talks=50).read(END - DAY).saving == World(1, planned, talks=50).read(END - DAY).always
    assert World(1, planned, talks=50).read(END).saving == World(1, planned, talks=50).read(END).planned
    early = World(1, stopped, talks=50).read(END)
    assert (early.over, early.saving) == (True, early.always)


def test_a_page_about_the_time_before_the_stop_does_not_know_of_it():
    world = World(1, design(stopped_ms=END - DAY), talks=50)
    assert not world.read(END - 2 * DAY).over
    assert world.read(END).until_ms == END - DAY


def test_what_began_before_or_has_no_price_is_left_out_and_said():
    world = World(3, design(), talks=100)
    before, unpriced, unknown = (Scope(session=name) for name in ("before", "unpriced", "unknown"))
    note = (Decision(stage="experiment", action="assign", reason="treated", evidence=(("experiment", "e"),)),)
    world.entries += [
        entry("b0", 5, 5, scope=before, at_ms=START - 1, request_id="b0"),
        entry("b1", 5, 9, scope=before, at_ms=START + 1, request_id="b1", decisions=note),
        entry("u1", None, None, scope=unpriced, at_ms=START + 1, request_id="u1", decisions=note),
        entry("u2", 5, 9, scope=unpriced, at_ms=START + 2, request_id="u2", decisions=note),
        entry("k1", 5, None, scope=unknown, at_ms=START + 2, request_id="k1", decisions=note),
    ]
    plain = World(3, design(), talks=100).read()
    found = world.read()
    assert dict(found.left_out) == {"began before it": 1, "a price is not known": 2}
    assert (found.treated, found.planned) == (plain.treated, plain.planned)
    priced = entry("adj-u1", 4, 6, scope=unpriced, at_ms=START + 1, request_id="u1", kind="adjustment", corrects="u1")
    world.entries.append(priced)
    again = world.read()
    assert dict(again.left_out) == {"began before it": 1, "a price is not known": 1}
    assert again.treated.cost == plain.treated.cost + 9


def test_what_levers_removed_is_added_to_what_their_calls_are_compared_with():
    world = World(2, design(off=("levers",)), talks=40, saves=0.0)
    scope = Scope(session="trimmed")
    note = assign(design(off=("levers",), share_bp=10, salt="x"), scope, "r", START)
    trim = Decision(stage="levers", action="trim_history", reason="lever_applied",
                    evidence=(("bytes_less", "400"), ("tokens_less_about", "100")))  # fmt: skip
    before = world.read().treated.baseline
    world.entries.append(entry("t", 5_000, 5_000, scope=scope, at_ms=START, request_id="t",
                               decisions=(note.note(), trim)))  # fmt: skip
    found = world.read()
    assert found.treated.baseline - before == 5_000 + 1_000
    assert found.removed == 1_000


# -- no headline


def test_fifty_control_conversations_are_needed_however_clear_it_looks():
    found = World(5, design(), talks=120).read()
    assert not found.headline
    assert found.missing > 0
    assert "more control conversations" in found.objections[0]
    assert found.days >= 1


def test_a_broken_draw_is_told():
    world = World(5, design(), talks=900)
    world.made = design(share_bp=5_000)
    assert any("do not fit the draw" in one for one in world.read().objections)


def test_a_treatment_that_changes_its_own_yardstick_is_measured_without_it():
    """A cheap model that writes twice as much doubles the baseline of its own calls: the ratio would flatter it."""
    world = World(6, design(off=("routes",), share_bp=5_000), talks=2_500, saves=0.5)
    assert world.read().alike
    world.entries = [
        msgspec.structs.replace(one, baseline=one.baseline * 2)
        if one.decisions and one.decisions[0].reason == "treated" else one
        for one in world.entries
    ]  # fmt: skip
    found = world.read()
    assert not found.alike
    assert found.saving == found.bare_always
    assert found.saving.low < 0.5 < found.saving.high < found.planned.estimate
    assert "without the repriced baseline" in report.interval_name(found)
    assert any("changes its own yardstick" in line for line in report.notes(found))


def test_where_answers_are_only_given_again_there_is_nothing_to_compare_yardsticks_for():
    assert World(6, design(), talks=60).read().likeness is None
    assert World(6, design(off=("levers",)), talks=60).read().likeness is not None


def test_without_the_baseline_a_headline_needs_more_conversations():
    world = World(6, design(off=("routes",), share_bp=5_000), talks=200, saves=0.5)
    world.entries = [
        msgspec.structs.replace(one, baseline=one.baseline * 20)
        if one.decisions and one.decisions[0].reason == "treated" else one
        for one in world.entries
    ]  # fmt: skip
    found = world.read()
    assert not found.alike
    assert found.missing >= 250 - found.control.conversations > 100
    assert not found.headline


def test_among_several_experiments_chance_findings_do_not_stand():
    nothing = [
        World(seed, design(name=f"n{seed}", share_bp=5_000), talks=300, saves=0.0, noise=0.9) for seed in range(3)
    ]
    real = World(9, design(name="real", share_bp=5_000), talks=300, saves=0.3)
    books = Books([e for w in (*nothing, real) for e in w.entries], [])
    made = [world.made for world in (*nothing, real)]
    found = gather(books, Rates(), made, lambda a, b: (), since_ms=START, until_ms=END).measured
    by = {one.experiment.name: one for one in found}
    assert not any("Benjamini" in line for line in by["real"].objections)
    assert all(any("Benjamini" in line for line in by[f"n{seed}"].objections) for seed in range(3))


# -- quality


def outcomes(world: World, rates: dict[str, float]) -> list[Outcome]:
    rng, arms = random.Random(4), {}
    for one in world.entries:
        if one.decisions and one.scope.session:
            arms[one.scope.session] = one.decisions[0].reason
    return [
        Outcome(id=name, kind="done", at_ms=END - 1, session=name, success=rng.random() < rates[arm])
        for name, arm in arms.items()
    ]


@pytest.mark.parametrize(
    ("control", "treated", "verdict"),
    [(0.97, 0.97, "holds"), (0.97, 0.85, "regressed"), (0.97, 0.955, "not enough evidence")],
)
def test_quality_is_judged_by_outcomes_that_were_reported(control, treated, verdict):
    world = World(8, design(off=("routes",), share_bp=5_000), talks=2_500)
    said = outcomes(world, {"control": control, "treated": treated})
    books = Books(world.entries, world.exchanges)
    (found,) = gather(books, Rates(), [world.made], lambda a, b: said, since_ms=START, until_ms=END).measured
    assert found.quality == verdict
    made = proof(gather(books, Rates(), [world.made], lambda a, b: said, since_ms=START, until_ms=END))
    assert made.stands
    assert made.struck == (verdict != "holds")
    (row,) = made.sections[0].tables[0].rows
    assert row[-1] == ("yes" if verdict == "holds" else "unverified quality")
    assert ("~~" in page(made, "md")) == ("<s>" in page(made, "html")) == made.struck


def test_without_outcomes_only_the_exact_cache_needs_no_judge():
    assert World(1, design(off=("routes",)), talks=60).read().quality == "not measured"
    assert World(1, design(), talks=60).read().quality == "holds"
    assert World(1, design(), talks=0).read().quality == "not measured"
    similar = World(1, design(), talks=60)
    hit = Decision(stage="cache", action="hit", reason="semantic_hit")
    similar.entries = [
        msgspec.structs.replace(one, attempt=0, decisions=(*one.decisions, hit)) if one.decisions else one
        for one in similar.entries
    ]
    assert similar.read().quality == "not measured"


def test_latency_tries_and_answers_are_compared_by_arm():
    world = World(1, design(share_bp=5_000), talks=0)
    fact = AttemptFact(attempt=1, provider="openai", model="m", status=200, started_at_ms=START, latency_ms=1)
    for number in range(200):
        scope = Scope(session=f"s{number}")
        note = assign(world.made, scope, "", START).note()
        slow = note.reason == "control"
        failed = slow and number % 4 == 0
        world.exchanges += [
            exchange(f"x{number}", scope, START, (note,), latency_ms=300 if slow else 100, attempts=(fact,) * 3),
            exchange(
                f"y{number}", scope, START, (note,), outcome="failed" if failed else "answered", attempts=(fact,)
            ),
        ]
    found = world.read()
    assert found.latency.control > 190
    assert found.latency.treated == 100
    assert found.latency.high < 0
    assert found.retries.treated == 1.0
    assert found.answered.treated == 1.0
    assert found.answered.value == pytest.approx(1 - found.answered.control)
    rows = {row[0]: row for row in report.quality(found).rows}
    assert rows["calls answered"][3] == "100.00"


# -- exact, modelled, cost of saving


def usage(*lines: tuple[str, int], tier: str = "") -> Usage:
    return Usage(parts=(UsagePart(lines=lines),), source="reported", service_tier=tier)


def paid(id: str, used: Usage, cost: int, baseline: int | None, *decisions: Decision, **changes) -> LedgerEntry:
    line = ChargeLine(unit="input", quantity=1, price=Pusd(1), amount=Nusd(cost))
    said = {"charge": Charge(lines=(line,), total=Nusd(cost), state="priced"), "usage": used, **changes}
    made = entry(id, cost, baseline, scope=Scope(team="a"), at_ms=START, request_id=id, decisions=decisions)
    return msgspec.structs.replace(made, **said)


def decision(stage: str, action: str, reason: str, *evidence: tuple[str, str]) -> Decision:
    return Decision(stage=stage, action=action, reason=reason, evidence=evidence)


HIT = Charge(total=Nusd(0), state="free", reason="cache_hit")
LEDGER = [
    paid("plain", usage(("input", 10), ("output", 5)), 300, 300),
    paid("hit", usage(), 0, 90, decision("cache", "hit", "exact_hit"), charge=HIT, attempt=0, fidelity="exact"),
    paid("old", usage(), 0, 70, decision("cache", "hit", "exact_hit"), charge=HIT, attempt=0, fidelity="repriced"),
    paid("like", usage(), 0, 50, decision("cache", "hit", "semantic_hit"), charge=HIT, attempt=0, fidelity="exact"),
    paid("read", usage(("input", 10), ("input_cache_read", 100)), 200, 200),
    paid("write", usage(("input_cache_write", 100)), 1_200, 1_200),
    paid("batch", usage(("input", 100), tier="batch"), 500, 500),
    paid("marked", usage(("input_cache_read", 100)), 100, 1_000, decision("levers", "cache_breakpoints", "x")),
    paid("routed", usage(("input", 10)), 100, 250, decision("route", "choose", "route_tag")),
    paid("worse", usage(("input", 10)), 100, 60, decision("route", "choose", "route_tag")),
    paid("fell", usage(("input", 10)), 100, 80, decision("fallback", "switch", "provider_failed")),
    paid("short", usage(("input", 10)), 100, 100,
         decision("levers", "trim_history", "x", ("tokens_less_about", "30"))),
    paid("judge", usage(("input", 10)), 11, 0, decision("cache", "judge", "lever_cost"),
         charge=Charge(total=Nusd(11), state="priced", reason="lever:cache")),
    paid("embed", usage(("input", 10)), 4, 0, decision("route", "embed", "lever_cost"),
         charge=Charge(total=Nusd(4), state="priced", reason="lever:route")),
    paid("chosen", usage(("input", 10)), 100, 100, decision("route", "embed", "lever_cost", ("entry", "embed"))),
]  # fmt: skip


def test_exact_and_modelled_savings_and_their_cost_stand_apart():
    found = gather(Books(LEDGER, []), Rates(), [], lambda a, b: (), since_ms=START, until_ms=END)
    assert {one.name: (one.calls, one.amount) for one in found.exact} == {
        "exact_hits": (1, 90),
        "provider_cache": (2, 900 - 200),
        "tiers": (1, 500),
    }
    assert {one.name: (one.calls, one.amount) for one in found.modelled} == {
        "hits_by_model": (1, 70),
        "similar_hits": (1, 50),
        "marks": (1, 900),
        "routes": (2, 150 - 40),
        "switched": (1, -20),
        "shorter": (1, 300),
    }
    assert {one.name: one.amount for one in found.own_cost} == {"cache/judge": 11, "route/embed": 4}
    assert found.whole.spend == sum(one.charge.total for one in LEDGER)


def test_a_discount_that_today_book_rates_otherwise_is_not_claimed():
    other = [paid("read", usage(("input", 10), ("input_cache_read", 100)), 999, 999)]
    found = gather(Books(other, []), Rates(), [], lambda a, b: (), since_ms=START, until_ms=END)
    assert (found.exact, found.whole.unvalued) == ((), 1)


# -- the page


class Names(HTMLParser):
    """Which elements stand open."""

    void = ("meta", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.seen: dict[str, int] = defaultdict(int)

    def handle_starttag(self, tag, attrs):
        self.seen[tag] += 1
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def a_proof(talks: int = 900, **changes) -> Proof:
    world = World(7, design(share_bp=5_000, **changes), talks=talks)
    books = Books(world.entries + LEDGER, world.exchanges)
    chosen = overlapping([world.made], START, END)
    return proof(gather(books, Rates(), chosen, lambda a, b: (), since_ms=START, until_ms=END), experiment="e")


def test_the_page_is_the_same_whenever_it_is_made_and_another_when_the_books_change():
    assert a_proof().fingerprint == a_proof().fingerprint
    assert a_proof().fingerprint != a_proof(talks=901).fingerprint


def test_the_three_forms_say_the_same():
    made = a_proof()
    assert made.stands
    said = json.loads(page(made, "json"))
    parser = Names()
    parser.feed(page(made, "html"))
    assert parser.open == []
    assert parser.seen["script"] == parser.seen["link"] == 0
    assert parser.seen["h1"] == 1
    markdown = page(made, "md")
    for words in (made.headline, made.command, made.fingerprint, *made.not_claimed):
        assert words in markdown
        assert words in parser.text
    assert said["headline"]["text"] == made.headline
    assert {"measured", "exact", "modelled", "own_cost", "books"} <= set(said)
    assert "--experiment e" in said["command"]
    saving = said["measured"][0]["rows"][0]
    assert float(saving["low_percent"]) < 30 < float(saving["high_percent"])


def test_measured_modelled_and_exact_are_never_summed():
    made = a_proof()
    for section in made.sections:
        assert all(table.total is None for table in section.tables)
    assert "not added" in made.not_claimed[0]


def test_names_from_outside_do_no_harm_in_html():
    world = World(7, design(), talks=30)
    world.made = msgspec.structs.replace(world.made, match=(("team", "<script>alert(1)</script>"),), why="<b>")
    found = gather(Books([], []), Rates(), [world.made], lambda a, b: (), since_ms=START, until_ms=END,
                   where=(("team", "<i>"),))  # fmt: skip
    text = page(proof(found), "html")
    assert "<script>" not in text
    assert "<i>" not in text


def test_without_an_experiment_the_page_says_so_and_how_to_begin():
    found = gather(Books(LEDGER, []), Rates(), [], lambda a, b: (), since_ms=START, until_ms=END)
    made = proof(found)
    assert not made.stands
    assert "farthing experiment start" in made.headline


def test_a_switchback_is_measured_by_its_blocks():
    hour = 3_600_000
    made = design(kind="switchback", share_bp=5_000, period_ms=hour, washout_ms=hour // 4)
    rng = random.Random(3)
    entries, wanted = [], {"control": {}, "treated": {}}
    for number in range(4_000):
        at_ms = START + rng.randrange(5 * DAY)
        scope = Scope(session=f"s{rng.randrange(50)}")
        assigned = assign(made, scope, f"r{number}", at_ms)
        base = 1 + int(rng.lognormvariate(6, 1))
        cost = base if assigned.arm == "control" else round(base * 0.6)
        entries.append(entry(f"e{number}", cost, base, scope=scope, at_ms=at_ms, request_id=f"r{number}",
                             decisions=(assigned.note(),)))  # fmt: skip
        if (at_ms - START) % hour >= hour // 4:
            held = wanted[assigned.arm].setdefault((at_ms - START) // hour, [0, 0])
            held[0] += cost
            held[1] += base
    reader = ArmReader(made, since_ms=0, until_ms=END, worth=lambda one, tokens: None)
    for one in entries:
        reader.entry(one)
    found = measured(reader, until_ms=END)
    for arm, sums in (("control", found.control), ("treated", found.treated)):
        assert sums.conversations == len(wanted[arm])
        assert sums.cost == sum(cost for cost, _ in wanted[arm].values())
    assert found.headline
    assert found.saving.low < 0.4 < found.saving.high
    assert "Blocks of 1 h" in report.notes(found)[0]
