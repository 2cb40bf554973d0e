"""Why a bill changed: the causes sum to the change exactly, and a single cause gets all of it."""

from hypothesis import given
from hypothesis import strategies as st

from farthing.core.decomposition import CAUSES, Slice, explain

SLICE = st.builds(
    lambda requests, tries, tokens, price, paid: Slice(
        requests=requests,
        attempts=requests + tries,
        tokens=(requests + tries) * tokens,
        list_nusd=(requests + tries) * tokens * price,
        cost_nusd=(requests + tries) * tokens * price * paid // 100,
    ),
    st.integers(0, 10**6),
    st.integers(0, 1_000),
    st.integers(0, 10**5),
    st.integers(0, 75_000),
    st.integers(0, 125),
)
PERIOD = st.dictionaries(st.sampled_from(["gpt-4o", "gpt-4o-mini", "claude", "o3"]), SLICE)


@given(PERIOD, PERIOD)
def test_the_causes_sum_to_the_change_to_the_nano_dollar(before, after):
    change = explain(before, after)
    difference = sum(one.cost_nusd for one in after.values()) - sum(one.cost_nusd for one in before.values())
    assert change.after_nusd - change.before_nusd == difference
    assert sum(effect.amount_nusd for effect in change.effects) == difference
    assert sum(change.by_cause.values()) == sum(change.by_slice.values()) == difference


BASE = Slice(requests=1_000, attempts=1_000, tokens=2_000_000, list_nusd=10_000_000_000, cost_nusd=8_000_000_000)


def only(after: Slice, cause: str, before: Slice = BASE, rest: int = 2) -> None:
    change = explain({"m": before}, {"m": after})
    assert abs(change.by_cause[cause] - (after.cost_nusd - before.cost_nusd)) <= rest, change.by_cause
    assert all(abs(change.by_cause[other]) <= rest for other in CAUSES if other != cause), change.by_cause


def scaled(**by: tuple[int, int]) -> Slice:
    return Slice(**{name: getattr(BASE, name) * by.get(name, (1, 1))[0] // by.get(name, (1, 1))[1]
                    for name in Slice.__struct_fields__})  # fmt: skip


def test_each_cause_alone_is_named_alone():
    everything = dict.fromkeys(Slice.__struct_fields__, (3, 2))
    only(scaled(**everything), "volume")
    tries = {name: (3, 2) for name in ("attempts", "tokens", "list_nusd", "cost_nusd")}
    only(scaled(**tries), "retries")
    only(scaled(tokens=(5, 4), list_nusd=(5, 4), cost_nusd=(5, 4)), "tokens")
    only(scaled(list_nusd=(1, 2), cost_nusd=(1, 2)), "price")
    only(scaled(cost_nusd=(1, 2)), "cache")


def test_traffic_that_moves_to_a_dearer_model_is_mix():
    cheap = Slice(requests=900, attempts=900, tokens=900, list_nusd=900, cost_nusd=900)
    dear = Slice(requests=100, attempts=100, tokens=100, list_nusd=10_000, cost_nusd=10_000)
    moved = {
        "cheap": Slice(requests=800, attempts=800, tokens=800, list_nusd=800, cost_nusd=800),
        "dear": Slice(requests=200, attempts=200, tokens=200, list_nusd=20_000, cost_nusd=20_000),
    }
    change = explain({"cheap": cheap, "dear": dear}, moved)
    assert change.by_cause["mix"] == 9_900
    assert change.effects[0].slice == "dear"


def test_traffic_out_of_nothing_or_gone_altogether_is_volume():
    there = {name: Slice(requests=5, attempts=6, tokens=70, list_nusd=80, cost_nusd=75) for name in "ab"}
    for before, after, amount in (({}, there, 150), (there, {}, -150)):
        assert {cause: found for cause, found in explain(before, after).by_cause.items() if found} == {
            "volume": amount
        }


def test_a_slice_that_came_or_went_is_mix():
    change = explain({"old": BASE}, {"new": BASE})
    assert change.by_cause["mix"] == 0
    assert change.by_slice == {"old": -8_000_000_000, "new": 8_000_000_000}
