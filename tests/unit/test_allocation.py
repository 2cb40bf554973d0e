"""Allocation: every nano-dollar has exactly one owner, whatever the rules."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.allocation import AllocationRules, Line, Pool, Rule, allocate, owner_of, split, to_whole

TEAMS = st.sampled_from(["", "search", "chat", "batch"])
LINES = st.lists(
    st.builds(
        lambda team, feature, amount, tokens, requests: Line(
            values={"team": team, "feature": feature}, amount=amount, tokens=tokens, requests=requests
        ),
        TEAMS,
        st.sampled_from(["", "embed", "answer"]),
        st.integers(-(10**15), 10**18),
        st.integers(0, 10**12),
        st.integers(0, 10**6),
    ),
    max_size=12,
)
SHARES = st.dictionaries(st.sampled_from(["search", "chat", "ops"]), st.integers(0, 3_333), max_size=3)
POOLS = st.builds(
    lambda basis, shares: Pool(
        name="index",
        match=(("feature", "embed"),),
        basis=basis if shares or basis not in ("fixed", "weighted") else "even",
        shares=tuple(shares.items()),
    ),
    st.sampled_from(["even", "direct", "tokens", "requests", "fixed", "weighted"]),
    SHARES,
)


@given(st.integers(-(10**20), 10**20), st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_a_split_loses_nothing_and_each_part_is_within_one_of_its_exact_share(total, weights):
    parts = split(total, weights)
    assert sum(parts) == total
    whole = sum(weights) or len(weights)
    for part, weight in zip(parts, weights if sum(weights) else [1] * len(weights), strict=True):
        assert abs(part * whole - total * weight) < whole


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30))
def test_rounded_floats_sum_to_the_total(amounts):
    total = round(sum(amounts))
    parts = to_whole(amounts, total)
    assert sum(parts) == total
    assert all(abs(part - amount) < len(amounts) + 2 for part, amount in zip(parts, amounts, strict=True))


@given(LINES, POOLS)
def test_the_owners_bear_the_whole_and_nothing_else(lines, pool):
    rules = AllocationRules(rules=(Rule(owner="{team}"),), pools=(pool,))
    owners = allocate(rules, lines)
    assert sum(owner.total for owner in owners) == sum(line.amount for line in lines)
    assert owners[-1].owner == ""
    direct = Counter()
    for line in lines:
        if line.values["feature"] != "embed":
            direct[line.values["team"]] += line.amount
    assert {o.owner: o.direct for o in owners if o.direct} == {name: sum_ for name, sum_ in direct.items() if sum_}
    shared = sum(amount for owner in owners for _, amount in owner.shared)
    assert shared == sum(line.amount for line in lines if line.values["feature"] == "embed")


def test_the_first_matching_rule_decides_and_an_unsaid_dimension_stays_unallocated():
    rules = AllocationRules(
        rules=(
            Rule(owner="platform", match=(("model", "text-embedding-*"),)),
            Rule(owner="guests", match=(("user", ""), ("team", "chat"))),
            Rule(owner="{tag:cost-centre}"),
        )
    )
    assert owner_of(rules, {"model": "text-embedding-3-small", "tag:cost-centre": "4711"}) == "platform"
    assert owner_of(rules, {"model": "gpt-4o", "team": "chat", "tag:cost-centre": "4711"}) == "guests"
    assert owner_of(rules, {"model": "gpt-4o", "team": "chat", "user": "u1", "tag:cost-centre": "4711"}) == "4711"
    assert owner_of(rules, {"model": "gpt-4o"}) == ""


def test_a_fixed_pool_leaves_the_rest_unallocated():
    pool = Pool(name="p", match=(("feature", "x"),), basis="fixed", shares=(("a", 2_500), ("b", 5_000)))
    owners = allocate(AllocationRules(pools=(pool,)), [Line(values={"feature": "x"}, amount=1_000_001)])
    assert {owner.owner: owner.total for owner in owners} == {"b": 500_001, "a": 250_000, "": 250_000}


def test_proportional_pools_follow_direct_cost():
    rules = AllocationRules(rules=(Rule(owner="{team}"),), pools=(Pool(name="p", match=(("feature", "x"),)),))
    lines = [
        Line(values={"team": "a"}, amount=300),
        Line(values={"team": "b"}, amount=100),
        Line(values={"feature": "x"}, amount=41),
    ]
    assert {owner.owner: owner.total for owner in allocate(rules, lines)} == {"a": 331, "b": 110, "": 0}


def test_unpriced_entries_are_counted_with_their_owner():
    owners = allocate(
        AllocationRules(rules=(Rule(owner="{team}"),)), [Line(values={"team": "a"}, amount=5, unpriced=3)]
    )
    assert owners[0].unpriced == 3


def test_wrong_rules_are_refused_with_every_reason():
    rules = AllocationRules(
        rules=(Rule(owner=""),),
        pools=(
            Pool(name="p", match=()),
            Pool(name="p", match=(("team", "x"),), basis="fixed", shares=(("a", 9_000), ("b", 2_000))),
            Pool(name="q", match=(("team", "x"),), basis="weighted"),
            Pool(name="r", match=(("team", "x"),), shares=(("a", 1), ("a", 2))),
        ),
    )
    with pytest.raises(ValueError, match="rule 1 has no owner") as caught:
        allocate(rules, [])
    text = str(caught.value)
    for part in ("'p' is defined twice", "matches everything", "more than 10,000", "names none", "names 'a' twice"):
        assert part in text
