"""The desk of a worker with leases: what is held at once is what the whole rule would hold."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from farthing.adapters.journal import Post
from farthing.adapters.leases import ALL_ANSWERED, Account, Grant
from farthing.adapters.leases_calls import Tombstone
from farthing.adapters.leases_desk import Desk
from farthing.adapters.memory import counter_key
from farthing.adapters.postgres_leases import authority_of
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
        "claims": st.sampled_from([0, 0, 0, 1]),
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
)
def test_what_is_looked_at_quickly_is_decided_as_by_the_whole_rule(accounts, wanted):
    desk = Desk()
    for counter, state in accounts.items():
        key = (counter, "all", "usd")
        desk.accounts[key] = account = Account(key)
        for name, value in state.items():
            setattr(account, name, value)
    reservation = a_reservation("r1", *wanted)
    keys = [counter_key(hold) for hold in wanted]
    verdict = desk.decide(reservation, {}, {}, patient=True, late=True)
    unclaimed = desk.decide(reservation, {}, {}, patient=True)
    covered = desk.covering(reservation)
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
        desk.shares({})
    if account.dropped:
        account.authority, account.limit = 100, 100
        assert not desk.covers(reservation, [account])
    else:
        assert account.busy or account.claims


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
        desk.shares({})
    posts = [Post(f"c{n}", "all", "usd", spent, held) for n, (held, spent) in enumerate(amounts)]
    desk.exchange(desk.open["r1"], posts)
    for n, (_, spent) in enumerate(amounts):
        account = desk.account((f"c{n}", "all", "usd"))
        assert (account.held, account.pending) == (0, spent)
        assert account.authority >= account.used
    desk.bury(Tombstone(reservation, (), ()))
    assert desk.known(msgspec.structs.replace(reservation))


@given(
    state=states,
    wanted=st.lists(
        st.builds(
            lambda amount, limit: a_hold("team", amount, limit=limit), st.integers(0, 9), st.sampled_from([50, 100])
        ),
        min_size=2,
        max_size=3,
    ),
)
def test_a_call_is_decided_in_two_rounds_whatever_limits_it_has_on_a_counter(state, wanted):
    """An account knows one limit: two limits of one call on it must not take turns in being unknown."""
    desk = Desk()
    account = desk.account(("team", "all", "usd"))
    for name, value in state.items():
        setattr(account, name, value)
    account.busy = False
    reservation = a_reservation("r1", *wanted)
    for _ in range(2):
        verdict = desk.decide(reservation, {}, {}, patient=True)
        if isinstance(verdict, list):
            needs = list({need.terms: need for need in verdict}.values())
            wants = [desk.want(need) for need in needs]
            rooms = [want.limit + 1_000 for want in wants]
            grants = [
                Grant(authority=authority_of(want, room, scarce=False), room=room, answered=ALL_ANSWERED)
                for want, room in zip(wants, rooms, strict=True)
            ]
            desk.granted(needs, grants)
            fresh = {need.terms: grant for need, grant in zip(needs, grants, strict=True)}
            verdict = desk.decide(reservation, fresh, {}, patient=True)
        if not isinstance(verdict, list):
            break
    assert not isinstance(verdict, list)
