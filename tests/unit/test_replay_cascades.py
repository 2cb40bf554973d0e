"""Cascades, classifiers and shadows under the policy that served them: every entry again, those of levers too."""

import random
from collections import Counter

import msgspec

from farthing import bootstrap, config
from farthing.core.types import Exchange, Scope
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.lab.replay_outcome import Outcome
from farthing.sim.faults import FaultOrder, FaultRule
from farthing.sim.settings import SimSettings
from farthing.testing.replays import FAULTS, PROVIDERS, shared
from farthing.testing.world import Ask, World

ROUTE = (
    '[[routes]]\nname = "r"\nmodels = ["gpt-4o"]\ntiers = {{simple = "gpt-4o-mini", complex = "gpt-4o"}}\nby = {by}\n'
    "length_tokens = 60\n{more}"
)
CHECKS = (
    'verify = ["regex"]\npattern = "e a"\n',
    'verify = ["json"]\n',
    'verify = ["logprob"]\nlogprob_min = -0.9\n',
    'verify = ["agreement"]\npeer = "gpt-4.1-nano"\n',
    'verify = ["agreement", "judge"]\npeer = "gpt-4.1-nano"\njudge = "gpt-4.1-mini"\njudge_min = 5\n',
    'verify = ["self_check"]\n',
    'verify = ["regex", "judge"]\npattern = "."\njudge = "gpt-4o"\nwait_max = "2500ms"\n',
)


def policy(rng: random.Random) -> str:
    """A cascade, and now and then a budget that binds, retries, a cache, a cap."""
    lines = []
    if rng.random() < 0.5:
        lines.append(f'[[budgets]]\nname = "b"\nper = "hour"\nusd = "{rng.choice((0.004, 0.02))}"\n')
    if rng.random() < 0.3:
        lines.append('[[budgets]]\nname = "n"\nper = "minute"\neach = ["model"]\ntokens = 4000\n')
    if rng.random() < 0.5:
        lines.append("[retries]\nattempts_max = 1\n")
    if rng.random() < 0.4:
        lines.append("[limits]\noutput_tokens_max = 80\noutput_tokens_assumed = 400\n")
    if rng.random() < 0.3:
        lines.append('[[cache]]\nname = "all"\nttl = "10m"\n')
    by, more = '["length"]', ""
    if rng.random() < 0.3:
        by, more = '["classifier"]', 'classifier = "gpt-4.1-nano"\n'
    checks = rng.choice(CHECKS)
    return "".join(lines) + ROUTE.format(by=by, more=f"{more}cascade = {{ {_inline(checks)} }}\n")


def _inline(lines: str) -> str:
    return ", ".join(line for line in lines.splitlines() if line)


def traffic(rng: random.Random, count: int) -> list[Ask]:
    at, asks = 0, []
    for number in range(count):
        at += rng.choice((0, 3, 700, 3_000))
        words = rng.choice((3, 12, 80))
        body = {
            "model": rng.choice(("gpt-4o", "gpt-4o", "gpt-4o-mini")),
            "messages": [{"role": "user", "content": f"{number % 17} " + "word " * words}],
        }
        if rng.random() < 0.4:
            body["stream"] = True
        scope = Scope(org="o", team=rng.choice("ab"), key="k", session=f"s{number % 5}" if number % 2 else "")
        asks.append(Ask(at_ms=at, body=body, scope=scope))
    return asks


def served(seed: int, count: int = 40, chosen: str | None = None, *, faults: bool = True) -> World:
    rng = random.Random(seed)
    settings = config.parse(PROVIDERS + (chosen if chosen is not None else policy(rng)), env={}, source="t")
    prices, tokens = shared()
    world = World(settings, prices=prices, tokens=tokens, sim=SimSettings(seed=seed))
    if faults:
        rules = tuple(FaultRule(fault=fault, rate=rate) for fault, rate in FAULTS if rng.random() < 0.3)
        world.sim.account.faults.install(FaultOrder(rules=rules, seed=seed))
    world.run(traffic(rng, count))
    return world


def replayed(
    world: World,
    other: str | None = None,
    *,
    entries: bool = True,
    estimator: Estimator | None = None,
    log: list[Exchange] | None = None,
) -> list[Outcome]:
    prices, tokens = shared()
    booked, found = world.entries(), []
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=Exchange) for one in log or world.exchanges()]
    settings = world.settings if other is None else config.parse(PROVIDERS + other, env={}, source="t")
    if estimator is None:
        estimator = Estimator()
        estimator.learn(exchanges)
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        found.append,
        estimate=estimator.usage,
        verdicts=estimator.verdicts,
        entries_of=(lambda request_id: booked.get(request_id, ())) if entries else None,
    )
    return found


def test_every_call_of_a_cascade_is_booked_again() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(32):
        world = served(seed)
        booked = world.entries()
        for one in replayed(world):
            source = one.logged.source
            where = (seed, source.request_id)
            again = [msgspec.structs.replace(entry, booked_at_ms=0) for entry in one.entries]
            logged = [msgspec.structs.replace(e, booked_at_ms=0) for e in booked.get(source.request_id, [])]
            assert again == logged, where
            assert (one.outcome, one.status, one.error) == (source.outcome, source.status, source.error), where
            verdicts.update(d.action for d in one.decisions if d.stage == "cascade")
    assert verdicts["accept"]
    assert verdicts["escalate"]


PLAIN = '[[budgets]]\nname = "all"\nper = "day"\nusd = "90"\n'
SELF = "cascade = { " + _inline(CHECKS[2]) + " }\n"


def test_a_log_without_verdicts_does_not_say_what_a_cascade_would_cost() -> None:
    outcomes = replayed(served(5, 60, "", faults=False), ROUTE.format(by='["length"]', more=SELF), entries=False)
    asked = [one for one in outcomes if any(d.stage == "cascade" for d in one.decisions)]
    assert asked
    assert {one.fidelity for one in asked} == {"unknown"}


def test_a_cascade_keeps_its_verdicts_where_something_else_of_the_policy_changes() -> None:
    """The log has every answer and every verdict: nothing is estimated, with the ledger at hand or without."""
    chosen = ROUTE.format(by='["length"]', more=SELF)
    world = served(6, 80, chosen, faults=False)
    billed = sum(entry.charge.total or 0 for entries in world.entries().values() for entry in entries)
    for entries in (True, False):
        outcomes = replayed(world, PLAIN + chosen, entries=entries)
        assert {one.fidelity for one in outcomes} == {"exact"}
        assert sum(one.amount or 0 for one in outcomes) == billed


def test_where_only_the_strong_answer_is_known_an_escalation_adds_the_cheap_one_to_it() -> None:
    """Half of the traffic went through a cascade: its verdicts say how often the other half would escalate."""
    chosen = ROUTE.format(by='["length"]', more=SELF)
    world = served(7, 600, chosen, faults=False)
    plain = served(8, 600, "", faults=False)
    log = [msgspec.structs.replace(one, request_id=f"p{one.request_id}") for one in plain.exchanges()]
    estimator = Estimator()
    estimator.learn([*world.exchanges(), *log])
    counts = estimator.verdicts("gpt-4o-mini", world.settings.policy.routes[0].cascade)
    said = Counter(
        d.action for one in world.exchanges() for d in one.decisions if d.stage == "cascade" and d.action != "ask"
    )
    assert 10 <= counts.all <= sum(said.values())
    found = replayed(plain, chosen, entries=False, estimator=estimator)
    drawn = [one for one in found if one.drawn is not None]
    assert abs(sum(one.drawn.escalates for one in drawn) / len(drawn) - counts.share) < 0.1
    for one in drawn:
        assert one.fidelity == "estimated"
        strong = one.logged.source.amount
        assert (one.entries[-1].charge.total == strong) is one.drawn.escalates


def test_checks_that_need_no_model_are_made_on_answers_that_the_log_keeps() -> None:
    """Half of the kept answers are JSON: just those are accepted, and nothing about them is a guess."""
    chosen = ROUTE.format(by='["length"]', more='cascade = { verify = ["json"] }\n')
    world = served(9, 60, "", faults=False)
    kept = []
    for number, one in enumerate(world.exchanges()):
        said = '{\\"a\\": 1}' if number % 2 else "words"
        answer = f'{{"choices":[{{"finish_reason":"stop","message":{{"content":"{said}"}}}}]}}'.encode()
        body = msgspec.json.encode({"model": one.view.model, "messages": [{"role": "user", "content": "hi"}]})
        facts = tuple(msgspec.structs.replace(fact, model="gpt-4o-mini") for fact in one.attempts)
        kept.append(msgspec.structs.replace(one, prompt=body, answer=answer, attempts=facts))
    outcomes = replayed(world, chosen, entries=False, log=kept)
    steps = [(one, d.action) for one in outcomes for d in one.decisions if d.stage == "cascade"]
    assert {action for _, action in steps} == {"accept", "escalate"}
    for one, action in steps:
        assert (action == "accept") is (b"a" in one.logged.source.answer.partition(b"content")[2][:8])
        assert one.fidelity == ("exact" if action == "accept" else "estimated")
