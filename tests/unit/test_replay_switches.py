"""Thresholds that slow calls down or move them to a cheaper model, and plain refusals: both ways agree."""

import pytest

from farthing import bootstrap, config
from farthing.lab.compare import Tally
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.testing.replays import busy_log, shared

HEAD = '[[providers]]\nname = "openai"\napi_key_env = "NO_KEY"\n'
DEGRADES = '{ at = 30, do = "degrade", to = "gpt-4o-mini" }'
DEARER = '{ at = 30, do = "degrade", to = "gpt-4o" }'
NOWHERE = '{ at = 30, do = "degrade", to = "claude-haiku-4-5" }'
SLOWS = '{ at = 10, do = "throttle", per_minute = 60 }'
LATER = '{ at = 60, do = "degrade", to = "o4-mini" }'
CAPS = '{ at = 90, do = "cap" }'
CACHE = '[[cache]]\nname = "all"\nttl = "5m"\npartition = ["team"]\n'
LEVER = '[limits]\noutput_tokens_max = 900\n[[levers]]\nkind = "cap_output"\ntokens = 300\n'


def budget(name: str, usd: str, *rules: str, each: str = "team", hard: str = "true") -> str:
    acts = f"thresholds = [{', '.join(rules)}]\n" if rules else ""
    return f'[[budgets]]\nname = "{name}"\nper = "day"\nusd = "{usd}"\neach = ["{each}"]\nhard = {hard}\n{acts}'


POLICIES = {
    "moved": budget("b", "0.1", DEGRADES),
    "slowed and moved": budget("b", "0.1", SLOWS, DEGRADES),
    "only some are cheaper there": budget("b", "0.1", DEARER),
    "nobody serves it": budget("b", "0.1", NOWHERE),
    "two budgets move": budget("b", "0.1", DEGRADES) + budget("c", "0.01", LATER, each="user"),
    "counted by model": budget("b", "0.1", SLOWS, DEGRADES, each="model") + budget("c", "0.2"),
    "cut to what is left": budget("b", "0.1", DEGRADES, CAPS),
    "soft and hard": budget("b", "0.1", DEGRADES, hard="false") + budget("c", "0.15", LATER),
    "a lever caps answers": LEVER + budget("b", "0.1", SLOWS, DEGRADES),
    "cached": CACHE + budget("b", "0.1", SLOWS, DEGRADES) + budget("c", "0.01", each="user"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_sums_are_those_of_the_pipeline_where_thresholds_act(name):
    log = list(busy_log(250, every_ms=400))
    settings = config.parse(POLICIES[name] + HEAD, env={}, source="t")
    prices, tokens = shared()
    found = []
    for pipeline_only in (False, True):
        estimator = Estimator()
        estimator.learn(log)
        tally = Tally(estimator)
        done = replay(
            log,
            lambda loop, provider, sink: bootstrap.replay_services(
                settings, loop, provider, sink, prices=prices, tokens=tokens
            ),
            tally,
            estimate=estimator.usage,
            longest_ms=20_000,
            pipeline_only=pipeline_only,
        )
        assert done.plain > 200 or pipeline_only
        found.append((tally.finish(), tally.changed()))
    assert found[0] == found[1]
    bill = found[0][0]
    assert bill.requests == 250
    assert bill.answered > 20
    assert bill.refused + bill.rerouted > 10
