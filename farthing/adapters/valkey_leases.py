"""Leases in Valkey (or Redis): one atomic script for each act, every key under one hash tag.

All keys of an installation share the tag ``{namespace}``: a reservation touches counters of org, team, user, key and
model at once, so they must live in one slot of a cluster. Valkey holds no truth: what is booked is the ledger's, what
is in use is known to the workers, and both are put together again when Valkey has lost its data.
"""

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
import valkey
from libvalkey import ReplyError
from valkey.exceptions import ResponseError, ValkeyError

from farthing.adapters.leases import GRACE, LEASE_S, Grant, LeaseLost, Posted, Rebuilding, Share, Want
from farthing.adapters.memory import CounterKey
from farthing.adapters.valkey_line import TIMEOUT_S, ValkeyLine, packed, words
from farthing.core.errors import StoreUnavailable

SEED_PAGE: Final = 2_000
_SEPARATOR: Final = "\x1f"
_SCRIPTS: Final = ("declare", "renew", "grant", "seed", "drop")
_READY: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end return 1"


def valkey_error(error: Exception) -> StoreUnavailable:
    """The error to raise for a failure of Valkey; never shows the URL."""
    text = " ".join(str(error).split())
    if isinstance(error, ResponseError | ReplyError) and "OOM" in text:
        return StoreUnavailable(
            "Valkey is out of memory.", hint="Raise maxmemory; maxmemory-policy must be noeviction."
        )
    return StoreUnavailable(f"Valkey cannot be used: {text}", hint="Check that it runs and can be reached.")


def connect(url: str) -> "valkey.Valkey":
    """A client; it connects when it is first used. Raises ``StoreUnavailable`` for a URL that is none."""
    try:
        return valkey.Valkey.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            decode_responses=True,
            client_name="farthing",
        )
    except ValueError as error:
        raise StoreUnavailable("The URL of Valkey cannot be used.", hint="Write valkey://host:6379/0.") from error


class Ledger(Protocol):
    """What a rebuild asks of the ledger; see ``postgres_shelf``."""

    def living(self) -> Sequence[str]:
        """Workers that are not known to be dead."""
        ...

    def counters(self, *, now_ms: int) -> Iterable[Posted]:
        """All counters that still count."""
        ...


_Answer = TypeVar("_Answer")
_encode: Final = msgspec.json.Encoder().encode
_grants: Final = msgspec.json.Decoder(list[Grant]).decode
KEPT_MS: Final = 2 * 86_400_000
"""How long a counter is kept after its window has ended."""


class ValkeyLeases:
    """``LeaseStore`` in Valkey. ``ledger`` is asked when Valkey has lost its data.

    What is asked all the time goes over a line of the event loop; what is rare and may read the ledger has a thread.
    """

    in_ledger = False

    def __init__(self, url: str, namespace: str, worker: str, ledger: Ledger) -> None:
        self._client = connect(url)
        self._line = ValkeyLine(url)
        self._thread = ThreadPoolExecutor(1, "farthing-leases")
        self._worker = worker
        self._ledger = ledger
        self._tag = f"{{{namespace}}}"
        self._counters = f"{self._tag}:c:"
        self._epoch = ""
        self._numbers = itertools.count(1)
        """Of messages: one that is acted upon late, after a newer one, must change nothing."""
        self._lease_ms = int(LEASE_S * GRACE * 1000)
        folder = files("farthing.adapters") / "valkey"
        common = (folder / "common.lua").read_text(encoding="utf-8")
        self._scripts = {name: common + (folder / f"{name}.lua").read_text(encoding="utf-8") for name in _SCRIPTS}
        self._hashes = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in self._scripts.items()}
        first = [self._name("epoch"), self._pulse(), self._name("recalls")]
        self._first = {"renew": [*first, self._mine()], "grant": [*first, self._name("number"), self._mine()]}
        """Names that are not of counters."""
        self._first_words = {name: words(names) for name, names in self._first.items()}

    async def declare(self, shares: Sequence[Share]) -> None:
        await self._apart(partial(self._declare, shares))

    async def renew(self, shares: Sequence[Share]) -> Mapping[CounterKey, tuple[int, int]]:
        keys: list[str] = []
        told: list[tuple[int, ...]] = []
        for share in shares:
            counter, window, unit = share.key
            keys.append(f"{self._counters}{counter}{_SEPARATOR}{window}{_SEPARATOR}{unit}")
            one = share.booked
            if one is None:
                told.append((share.authority, share.answers))
            else:
                ends_ms = one.ends_at_ms and one.ends_at_ms + KEPT_MS
                told.append((share.authority, share.answers, one.amount, one.version, ends_ms))
        answer = await self._ask("renew", keys, [self._worker, str(self._lease_ms), _encode(told).decode()])
        pairs = answer[1]
        recalls = {}
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            number, now_ms, _ = str(value).split(" ")
            recalls[self._key_of(name)] = (int(number), int(now_ms))
        return recalls

    async def grant(self, wants: Sequence[Want], *, now_ms: int) -> Sequence[Grant]:
        keys: list[str] = []
        told = []
        for want in wants:
            counter, window, unit = want.key
            keys.append(f"{self._counters}{counter}{_SEPARATOR}{window}{_SEPARATOR}{unit}")
            if want.also:
                keys += map(self._counter, want.also)
            ends_ms = want.ends_at_ms and want.ends_at_ms + KEPT_MS
            told.append(
                (len(want.also), want.limit, want.used, want.ask, want.slice, 1 if want.recall else 0, ends_ms)
            )
        answer = await self._ask("grant", keys, [self._worker, str(now_ms), _encode(told).decode()])
        return _grants(answer[1])

    async def leave(self) -> None:
        await self.drop(self._worker, ())

    async def drop(self, worker: str, posted: Sequence[Posted]) -> None:
        keys = [self._pulse(worker), self._mine(worker), *(self._counter(one.key) for one in posted)]
        told: list[str | int] = [worker]
        for one in posted:
            told += [one.amount, one.version, _forget_ms(one.ends_at_ms)]
        await self._apart(lambda: self._run("drop", keys, told))

    async def leased(self, worker: str) -> Sequence[CounterKey]:
        names = await self._apart(lambda: self._call(lambda: self._client.smembers(self._mine(worker))))
        return [self._key_of(name) for name in names]

    async def silent(self, workers: Sequence[str]) -> Sequence[str]:
        return await self._apart(partial(self._silent, workers)) if workers else ()

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._line.close()
        self._client.close()  # type: ignore[no-untyped-call]

    # On the line

    async def _ask(self, name: str, keys: Sequence[str], told: Sequence[str]) -> Any:
        """A script's answer; ``keys`` are of counters. Raises ``LeaseLost``, ``StoreUnavailable``."""
        first, epoch = self._first[name], self._epoch
        count, counters, rest = len(first) + len(keys), words(keys), words(told)

        def command(verb: str, script: str) -> bytes:
            begin, end = words((verb, script, str(count))), words((epoch, str(next(self._numbers))))
            return packed(count + 5 + len(told), f"{begin}{self._first_words[name]}{counters}{end}{rest}")

        try:
            answer = await self._line.say(partial(command, "EVALSHA", self._hashes[name]))
            if isinstance(answer, ReplyError) and str(answer).startswith("NOSCRIPT"):
                answer = await self._line.say(partial(command, "EVAL", self._scripts[name]))
        except (ValkeyError, OSError) as error:
            raise valkey_error(error) from error
        if isinstance(answer, ReplyError):
            raise valkey_error(answer) from answer
        said = cast(list[Any], answer)
        if said[0] != "ok":
            raise LeaseLost(
                f"Valkey does not know this worker any more ({said[0]}).", hint="It joins again by itself."
            )
        return said

    # On the thread

    async def _apart(self, act: Callable[[], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def _declare(self, shares: Sequence[Share]) -> None:
        while True:
            keys = [self._name("epoch"), self._pulse(), self._mine(), *(self._counter(one.key) for one in shares)]
            number = next(self._numbers)
            arguments: list[str | int] = [self._worker, self._lease_ms, number, *(one.authority for one in shares)]
            epoch = self._run("declare", keys, arguments)
            if epoch:
                break
            now_s = self._call(lambda: self._client.time())[0]
            fresh = f"?{now_s}-{secrets.token_hex(8)}"
            self._call(partial(self._client.set, self._name("epoch"), fresh, nx=True))
        self._epoch = str(epoch).removeprefix("?")
        if str(epoch).startswith("?"):
            self._rebuild(str(epoch))

    def _silent(self, workers: Sequence[str]) -> Sequence[str]:
        alive = self._call(lambda: self._client.mget([self._pulse(worker) for worker in workers]))
        return [worker for worker, pulse in zip(workers, alive, strict=True) if pulse is None]

    def _rebuild(self, epoch: str) -> None:
        """Load the ledger's counters, wait until every living worker has said what it uses, then open.

        Raises ``Rebuilding`` while somebody is missing; any worker goes on with it at its next try.
        """
        now_s = self._call(lambda: self._client.time())[0]
        started_s = int(epoch[1:].split("-")[0])
        living = self._ledger.living()
        if now_s - started_s < LEASE_S * GRACE and living and self._silent(living):
            raise Rebuilding(
                "Valkey has lost its data; its counters are being rebuilt from the ledger.",
                hint="This takes some seconds; try again.",
            )
        page: list[Posted] = []
        for one in self._ledger.counters(now_ms=now_s * 1000 - KEPT_MS):
            page.append(one)
            if len(page) == SEED_PAGE:
                self._seed(page)
                page = []
        self._seed(page)
        self._call(lambda: self._client.eval(_READY, 1, self._name("epoch"), epoch, epoch[1:]))

    def _seed(self, page: Sequence[Posted]) -> None:
        if page:
            told = [value for one in page for value in (one.amount, one.version, _forget_ms(one.ends_at_ms))]
            self._run("seed", [self._counter(one.key) for one in page], told)

    def _run(self, name: str, keys: Sequence[str], told: Iterable[str | int]) -> Any:
        return self._call(lambda: self._client.eval(self._scripts[name], len(keys), *keys, *map(str, told)))

    def _call(self, act: Callable[[], Any]) -> Any:
        """Raises ``StoreUnavailable``."""
        try:
            return act()
        except (ValkeyError, OSError) as error:
            raise valkey_error(error) from error

    # Names

    def _name(self, what: str) -> str:
        return f"{self._tag}:{what}"

    def _pulse(self, worker: str = "") -> str:
        return f"{self._tag}:pulse:{worker or self._worker}"

    def _mine(self, worker: str = "") -> str:
        return f"{self._tag}:of:{worker or self._worker}"

    def _counter(self, key: CounterKey) -> str:
        return self._counters + _SEPARATOR.join(key)

    def _key_of(self, name: str) -> CounterKey:
        counter, window, unit = name[len(self._counters) :].split(_SEPARATOR)
        return counter, window, unit


def _forget_ms(ends_at_ms: int) -> int:
    """When Valkey may forget a counter; 0: never. A gateway's clock may be behind Valkey's, or be set back."""
    return ends_at_ms + KEPT_MS if ends_at_ms else 0


def clock_skew_ms(client: "valkey.Valkey") -> int:
    """The server's clock less ours."""
    before = time.time()
    seconds, micros = cast(tuple[int, int], client.time())
    middle = (before + time.time()) / 2
    return int((seconds + micros / 1e6 - middle) * 1000)
