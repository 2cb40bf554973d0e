"""``[[levers]]`` as it is written in ``farthing.toml``."""

import pytest

from farthing.config import parse
from farthing.core.errors import ConfigError
from farthing.core.levers.cache_breakpoints import CacheBreakpoints
from farthing.core.levers.trim_history import TrimHistory

ENV = {"HOME": "/h"}


def test_levers_are_part_of_the_policy_and_of_its_name():
    plain = parse("", env=ENV, source="t").policy
    text = (
        '[[levers]]\nkind = "cache_breakpoints"\nttl = "1h"\nmodels = ["claude-*"]\n'
        '[[levers]]\nkind = "trim_history"\nmatch = { team = "a" }\nabove_tokens = 9\nto_tokens = 3\n'
    )
    policy = parse(text, env=ENV, source="t").policy
    assert policy.levers == (
        CacheBreakpoints(ttl="1h", models=("claude-*",)),
        TrimHistory(match=(("team", "a"),), above_tokens=9, to_tokens=3),
    )
    assert plain.levers == ()
    assert plain.ref != policy.ref


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('kind = "trim_histroy"', ['levers[0].kind: is "trim_histroy"; allowed: ']),
        ('name = "x"', ["levers[0].kind: is missing"]),
        ('kind = "prune_tools"', ['levers[0].tools: is missing; kind = "prune_tools" needs it']),
        ('kind = "cap_output"\ntokens = 5\nttl = "5m"', ['levers[0].ttl: means nothing with kind = "cap_output"']),
        ('kind = "trim_history"\nabove_tokens = 5\nto_tokens = 5', ["levers[0].to_tokens: is 5; it must be less"]),
        ('kind = "extractive_pruning"', ['levers[0].evaluated: is missing; kind = "extractive_pruning" needs it']),
        ('kind = "extractive_pruning"\nevaluated = " "', ["levers[0].evaluated: is empty"]),
        (
            'kind = "history_summary"\nabove_tokens = 9\nto_tokens = 9',
            ["levers[0].model: is missing", "to_tokens: is 9"],
        ),
        ('kind = "max_tool_calls"\ncalls = 0\nttl = "2h"', ["levers[0].calls: ", "levers[0].ttl: "]),
        ('kind = "compact_json"\nmatch = { model = "x" }', ["levers[0].match: "]),
    ],
)
def test_what_is_wrong_is_said_all_at_once_and_where(text, problems):
    with pytest.raises(ConfigError) as raised:
        parse(f"[[levers]]\n{text}\n", env=ENV, source="t")
    for problem in problems:
        assert problem in str(raised.value)
