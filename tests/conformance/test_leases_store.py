"""The scripts in Valkey against the same rules in a few lines of Python: amounts, versions, recalls, any name."""

import random

from farthing.adapters.leases import ALL_ANSWERED, Posted, Share, Want
from farthing.adapters.postgres_leases import authority_of
from farthing.adapters.valkey_leases import ValkeyLeases
from farthing.testing.records import AT_MS
from farthing.testing.servers import valkey_url
from farthing.testing.stores import namespace_of

WORKERS = ("w1", "w2", "w3")
WINDOWS = ("2026-11", "2026-12")


class NoLedger:
    """A ledger without counters or workers."""

    def living(self):
        return ()

    def counters(self, *, now_ms):
        return ()


class Rules:
    """What the store is to do."""

    def __init__(self):
        self.posted, self.versions = {}, {}
        self.authority, self.acks = {}, {}
        self.recalled = set()

    def renew(self, worker, shares):
        for share in shares:
            one = share.booked
            if one is not None and one.version > self.versions.get(one.key, 0):
                self.posted[one.key], self.versions[one.key] = one.amount, one.version
            has = self.authority.setdefault(share.key, {})
            acks = self.acks.setdefault(share.key, {})
            if not share.authority:
                has.pop(worker, None)
                acks.pop(worker, None)
            else:
                has[worker] = share.authority
                if share.answers:
                    acks[worker] = share.answers

    def grant(self, worker, wants, numbers):
        """(authority, room, oldest recall answered), one a want; ``numbers`` are those the store gave to recalls."""
        found, most = [], {}
        for want, number in zip(wants, numbers, strict=True):
            keys = (want.key, *want.also)
            others = [
                (authority, self.acks.get(key, {}).get(who, 0))
                for key in keys
                for who, authority in self.authority.get(key, {}).items()
                if who != worker
            ]
            room = want.limit - sum(self.posted.get(key, 0) for key in keys) - sum(one for one, _ in others)
            assert bool(number) == want.recall
            self.recalled |= set(keys) if number else set()
            authority = authority_of(want, room, scarce=not self.recalled.isdisjoint(keys))
            found.append((authority, room, min((ack for _, ack in others), default=ALL_ANSWERED)))
            most[want.key] = max(most.get(want.key, authority), authority)
            self.authority.setdefault(want.key, {})[worker] = most[want.key]
            for key in keys:  # who asks has not answered
                self.acks.get(key, {}).pop(worker, None) if key == want.key else None
        return found


def a_want(chance, keys):
    scale = chance.choice([1, 1, 10**9, 10**21])
    key, *also = chance.sample(keys, chance.choice([1, 1, 1, 2]))
    also = [one for one in also if one[0] == key[0] and one[2] == key[2]]
    return Want(
        key=key,
        also=tuple(also),
        limit=scale * chance.randrange(200) + chance.randrange(3),
        used=scale * chance.randrange(-2, 60),
        ask=scale * chance.randrange(1, 60),
        slice=0 if also else scale * chance.randrange(500),
        ends_at_ms=chance.choice([0, AT_MS * 2]),
        recall=chance.random() < 0.15,
    )


async def test_scripts_do_what_the_rules_say(tmp_path):
    stores = {worker: ValkeyLeases(valkey_url(), namespace_of(tmp_path), worker, NoLedger()) for worker in WORKERS}
    chance = random.Random(4)
    try:
        for leases in stores.values():
            await leases.declare([])
        for script in range(60):
            rules = Rules()
            names = (f"user|user=ü{script} x", f"org{script}")
            keys = [(name, window, unit) for name in names for window in WINDOWS for unit in ("usd", "tokens")]
            for _ in range(8):
                worker = chance.choice(WORKERS)
                if chance.random() < 0.6:
                    wants = [a_want(chance, keys) for _ in range(chance.choice([1, 2, 5]))]
                    grants = await stores[worker].grant(wants, now_ms=AT_MS)
                    expected = rules.grant(worker, wants, [grant.recall for grant in grants])
                    assert [(one.authority, one.room, one.answered) for one in grants] == expected
                    continue
                some = [key for key in keys if chance.random() < 0.5]
                scale = chance.choice([1, 10**21])
                posted = {
                    key: Posted(key=key, amount=scale * chance.randrange(-3, 90), version=chance.randrange(1, 9))
                    for key in some
                    if chance.random() < 0.7
                }
                shares = [
                    Share(
                        key=key,
                        authority=scale * chance.randrange(-1, 4),
                        answers=chance.randrange(3),
                        booked=posted.get(key),
                    )
                    for key in some
                ]
                recalls = await stores[worker].renew(shares)
                rules.renew(worker, shares)
                assert {key for key in recalls if key in keys} == rules.recalled
    finally:
        for leases in stores.values():
            leases.close()
