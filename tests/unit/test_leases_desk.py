"""The desk of a worker with leases: what is held at once is what the whole rule would hold."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from farthing.adapters.journal import Post
from farthing.adapters.leases import Account
from farthing.adapters.leases_desk import Desk, Tombstone
from farthing.adapters.memory import counter_key
from farthing.core.types import Held
from farthing.testing.records import a_hold, a_reservation

COUNTERS = ("org", "team", "user")
small = st.integers(-5, 60)
states = st.fixed_dictionaries(
    {
        "held": st.integers(0, 30),
        "pending": st.integers(-10, 30),
        "authority": small,
        "limit": st.sampled_from([None, 50, 100]),
        "busy": st.sampled_from([False, False, False, True]),
    }
)
holds = st.builds(
    lambda counter, amount, limit, also: a_hold(counter, amount, limit=limit, also=also),
    st.sampled_from(COUNTERS),
    st.integers(0, 20),
    st.sampled_from([50, 100]),
    st.sampled_from([(), (), (), ("before",)]),
)


@given(
    accounts=st.dictionaries(st.sampled_from(COUNTERS), states),
    wanted=st.lists(holds, max_size=4),
    claimed=st.sets(st.sampled_from(COUNTERS)),
)
def test_what_is_looked_at_quickly_is_decided_as_by_the_whole_rule(accounts, wanted, claimed):
    desk = Desk()
    for counter, state in accounts.items():
        key = (counter, "all", "usd")
        desk.accounts[key] = Account(key=key, **state)
    taken = {(counter, "all", "usd") for counter in claimed}
    reservation = a_reservation("r1", *wanted)
    keys = [counter_key(hold) for hold in wanted]
    verdict = desk.decide(reservation, {}, {}, patient=True, claimed=taken)
    unclaimed = desk.decide(reservation, {}, {}, patient=True)
    covered = desk.covering(reservation, taken)
    if len(set(keys)) < len(keys):
        assert covered is None  # several holds on one counter are the whole rule's
        return
    found, needs = covered
    assert [account.key for account in found] == keys
    if isinstance(verdict, Held):
        assert needs == []
    else:
        assert [(need.terms, need.ask) for need in needs] == [(need.terms, need.ask) for need in verdict]
    assert desk.covers(reservation, found) == isinstance(unclaimed, Held)


@given(state=states, amount=st.integers(1, 20))
def test_a_forgotten_account_covers_nothing(state, amount):
    desk = Desk()
    reservation = a_reservation("r1", a_hold("team", amount))
    (account,), _ = desk.covering(reservation)
    for name, value in state.items():
        setattr(account, name, value)
    account.held = account.pending = 0
    desk.now_s = 10_000.0
    for _ in range(3):
        desk.drop_idle()
        desk.shares()
    if account.dropped:
        account.authority, account.limit = 100, 100
        assert not desk.covers(reservation, [account])
    else:
        assert account.busy


@given(amounts=st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 20)), min_size=1, max_size=3))
def test_what_is_settled_counts_where_an_account_was_forgotten_meanwhile(amounts):
    """A call that held nothing on a counter knows an account of it that the desk does not know any more."""
    desk = Desk()
    reservation = a_reservation("r1", *(a_hold(f"c{n}", held) for n, (held, _) in enumerate(amounts)))
    accounts, _ = desk.covering(reservation)
    desk.hold(reservation, accounts)
    desk.now_s = 10_000.0
    for _ in range(2):
        desk.drop_idle()
        desk.shares()
    posts = [Post(f"c{n}", "all", "usd", spent, held) for n, (held, spent) in enumerate(amounts)]
    desk.exchange(desk.open["r1"], posts)
    for n, (_, spent) in enumerate(amounts):
        account = desk.account((f"c{n}", "all", "usd"))
        assert (account.held, account.pending) == (0, spent)
        assert account.authority >= account.used
    desk.bury(Tombstone(reservation, (), ()))
    assert desk.known(msgspec.structs.replace(reservation))
