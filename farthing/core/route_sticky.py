"""When a conversation may change its model: only where the lost prompt cache is earned back.

A change makes the new model write the whole prefix to its cache; staying would have read it. Per further call the
change saves on what is read and on what is written out. All prices in pico-USD per token, so that they are exact.
"""

from math import inf
from typing import NamedTuple


class Rates(NamedTuple):
    """A model's prices, pico-USD per token."""

    input: int
    output: int
    cache_read: int
    cache_write: int


def break_even_calls(stays: Rates, goes: Rates, *, prefix: int, output: int, first: int = 0) -> float:
    """Expected further calls from which a change from ``stays`` to ``goes`` pays; ``inf`` when it never does.

    ``(w·p_B − r·p_B)·L / (r·L·(p_A − p_B) + o·(q_A − q_B))`` with each model's own cache prices: ``prefix`` (L)
    tokens in the conversation so far, ``output`` (o) tokens an answer. ``first`` tokens of the prefix that the new
    model has cached already need no writing.
    """
    lost = (goes.cache_write - goes.cache_read) * max(0, prefix - first)
    gain = (stays.cache_read - goes.cache_read) * prefix + (stays.output - goes.output) * output
    if gain <= 0:
        return inf
    return lost / gain


class Turn(NamedTuple):
    """One call of a conversation, in tokens."""

    prefix: int
    """Prompt tokens that earlier calls of the conversation sent too."""
    fresh: int
    """New prompt tokens."""
    output: int


def conversation_cost(rates: Rates, turns: "list[Turn]", *, minimum: int = 0) -> int:
    """Pico-USD of a whole conversation on one model with a warm cache between its turns.

    Each turn reads what the turn before wrote and writes what is new; prompts below ``minimum`` tokens are not
    cached by the provider and cost plain input.
    """
    total = 0
    cached = 0
    for turn in turns:
        whole = turn.prefix + turn.fresh
        if whole < minimum:
            total += whole * rates.input
        else:
            read = min(cached, turn.prefix)
            total += read * rates.cache_read + (whole - read) * rates.cache_write
            cached = whole
        total += turn.output * rates.output
    return total
