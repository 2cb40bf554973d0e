"""The cache doctor: what each prompt could have read from the provider's cache, what it did read, and why not more.

It compares every request of the traffic log with the one before it that it should have shared a prefix with (the
same session, else the same feature), section by section, on salted hashes: no text is needed. Each miss gets one
cause, and a price: the tokens that were not read, at what reading them would have saved.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, get_args

import msgspec

from farthing.core.money import PUSD_PER_NUSD, round_half_even
from farthing.core.prefix_cache import CacheRule
from farthing.core.types import Exchange, PromptSection
from farthing.core.units import INPUT_UNITS

Cause = Literal[
    "first_seen",
    "below_minimum",
    "dynamic_value",
    "prompt_deployed",
    "prompt_variants",
    "tools_reordered",
    "tools_changed",
    "history_trimmed",
    "history_rewritten",
    "ttl_lapsed",
    "model_switched",
    "provider_switched",
    "key_switched",
    "settings_changed",
    "burst",
    "no_breakpoint",
    "evicted",
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

ADVICE: Final[dict[Cause, str]] = {
    "first_seen": "Nothing to do: someone has to be first.",
    "below_minimum": "The shared part is shorter than the provider caches. Put more of what is constant first.",
    "dynamic_value": "Part of the prefix changes with every call (a time, an id). Move it to the end.",
    "prompt_deployed": "A new prompt was deployed: a cost once. Deploy when traffic is low.",
    "prompt_variants": "Several prompts take turns in one feature. Keep each conversation on one of them.",
    "tools_reordered": "The same tools in another order. Sort them before sending.",
    "tools_changed": "The tools change from call to call. Send the same set and restrict it by tool_choice.",
    "history_trimmed": "Old messages were cut from the front, which moves all others. Cut rarely, in large steps.",
    "history_rewritten": "An earlier message was changed. Append instead.",
    "ttl_lapsed": "The pause was longer than the cache lives. See the time to live that pays.",
    "model_switched": "Another model has another cache. Switch between conversations, not within.",
    "provider_switched": "Another provider has another cache. Keep conversations on one.",
    "key_switched": "Another organisation or provider key has another cache. Spread conversations, not calls.",
    "settings_changed": "A setting that belongs to the prefix changed (service tier, tool choice).",
    "burst": "Calls began before the first had written the cache. Send one first, or accept it.",
    "no_breakpoint": "The provider caches only up to marks, and there is none. Let cache_breakpoints set them.",
    "evicted": "The provider dropped it early, or does not cache this model.",
}

RECENT_MAX: Final = 64
"""Requests of one family that are remembered."""
FAMILIES_MAX: Final = 50_000
OFTEN: Final = 3
"""Uses after which a section counts as constant."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's input costs, in pico-USD per token."""

    input: int
    read: int | None
    """None: the model has no prompt cache."""
    from_tokens: int = 0
    """The shortest prompt, cached tokens included, of which every token costs this."""
    longer: tuple["Rates", ...] = ()
    """Rates of longer prompts, ascending by ``from_tokens``."""

    def at(self, prompt_tokens: int) -> "Rates":
        """The rates of a prompt of that length."""
        return next((one for one in reversed(self.longer) if one.from_tokens <= prompt_tokens), self)


RatesOf = Callable[[str, str], Rates | None]
"""(provider, model) -> rates; None: unpriced."""
RuleOf = Callable[[str, str], CacheRule]


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """What one request did not read."""

    request_id: str
    cause: Cause
    tokens: int
    nusd: int | None
    """Nano-USD that reading would have saved; None: unpriced."""
    where: str = ""
    """The section at fault, with the bytes of it that still agreed."""
    family: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, summed."""

    cause: Cause
    requests: int
    tokens: int
    nusd: int
    unpriced: int
    example: str
    where: str
    advice: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A log examined."""

    requests: int
    input_tokens: int
    read_tokens: int
    possible_tokens: int
    """Read, and missed for any cause but ``first_seen``."""
    findings: tuple[Finding, ...]
    """Dearest first."""

    @property
    def possible_share(self) -> float:
        """The part of all input that could have been read."""
        return self.possible_tokens / self.input_tokens if self.input_tokens else 0.0

    @property
    def read_share(self) -> float:
        """The part of all input that was read."""
        return self.read_tokens / self.input_tokens if self.input_tokens else 0.0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What the doctor keeps of a request."""

    id: str
    at_ms: int
    ends_ms: int
    provider: str
    model: str
    owner: str
    settings: tuple[str, ...]
    sections: tuple[PromptSection, ...]
    blocks: tuple[str, ...]
    size: int
    input_tokens: int
    read: int
    marks: int


class Doctor:
    """Examines requests in order of arrival. Memory is bounded: the families in use and a few requests of each."""

    def __init__(self, rates_of: RatesOf, rule_of: RuleOf, *, marks_needed: Callable[[str], bool]) -> None:
        """``marks_needed``: whether a provider caches only up to breakpoints that callers set."""
        self._rates_of = rates_of
        self._rule_of = rule_of
        self._marks_needed = marks_needed
        self._recent: OrderedDict[tuple[str, ...], list[Ask]] = OrderedDict()
        self._systems: dict[tuple[str, ...], Counter[str]] = {}
        self._last_system: dict[tuple[str, ...], str] = {}

    def examine(self, exchanges: Iterable[Exchange]) -> Iterator[tuple[Exchange, Miss | None]]:
        """Each answered request with its miss; None where it read all that it could."""
        for exchange in exchanges:
            ask = ask_of(exchange)
            if ask is None:
                continue
            family = _family(exchange)
            miss = self._miss(ask, family, exchange.scope.session)
            self._remember(ask, family, exchange.scope.session)
            yield exchange, miss

    def _miss(self, ask: Ask, family: tuple[str, ...], session: str) -> Miss | None:
        earlier = self._recent.get((*family, session), []) if session else []
        candidates = earlier or self._recent.get(family, [])
        if not candidates:
            return self._made(ask, family, "first_seen", ask.size, "")
        other = _closest(ask, candidates, self._rule_of(ask.provider, ask.model).ttl_ms)
        shared, place = _shared(ask.sections, other.sections)
        if place < min(len(ask.sections), len(other.sections)) and self._is_prefix_fault(ask, other, place):
            cause, size, where = self._broken(ask, other, family, place)
        else:
            cause, size, where = self._outside(ask, other, shared), shared, ""
        return self._made(ask, family, cause, size, where)

    def _is_prefix_fault(self, ask: Ask, other: Ask, place: int) -> bool:
        """Whether the difference is one that the caller could have avoided, not simply another question."""
        role = ask.sections[place].role
        if role in ("tool", "system", "instructions") or other.sections[place].role in ("tool", "system"):
            return True
        later = {section.digest for section in ask.sections[place + 1 :]}
        return any(section.digest in later for section in other.sections[place:]) or any(
            section.digest in {one.digest for one in other.sections[place + 1 :]} for section in ask.sections[place:]
        )

    def _broken(self, ask: Ask, other: Ask, family: tuple[str, ...], place: int) -> tuple[Cause, int, str]:
        """(cause, bytes that would have been shared, where): the prefix itself differs."""
        mine, theirs = ask.sections[place], other.sections[place]
        common = Counter(one.digest for one in other.sections)
        size = 0
        for section in ask.sections:
            if common[section.digest] > 0:
                common[section.digest] -= 1
                size += section.size
        if "tool" in (mine.role, theirs.role):
            ours = Counter(one.digest for one in ask.sections if one.role == "tool")
            same = ours == Counter(one.digest for one in other.sections if one.role == "tool")
            return ("tools_reordered" if same else "tools_changed"), size, f"tool {place + 1}"
        if mine.role in ("system", "instructions"):
            agreed = _agreed_bytes(ask, other)
            cause = self._system_cause(ask, other, family, place)
            if cause == "dynamic_value":
                size += mine.size  # all of it but the value would be the same
            return cause, max(size, agreed), f"{mine.role}, after byte {agreed}"
        digests = [one.digest for one in other.sections]
        kept = [section for section in ask.sections[place:] if section.digest in digests[place:]]
        cause = "history_trimmed" if kept and kept[0] is ask.sections[place] else "history_rewritten"
        return cause, size, f"message {place + 1}"

    def _system_cause(self, ask: Ask, other: Ask, family: tuple[str, ...], place: int) -> Cause:
        seen = self._systems.get(family, Counter())
        mine, theirs = ask.sections[place].digest, other.sections[place].digest
        if seen[mine] >= 1 and seen[theirs] >= 1 and seen[mine] + 1 >= 2:
            return "prompt_variants"
        if seen[theirs] >= OFTEN:
            return "prompt_deployed"
        return "dynamic_value"

    def _outside(self, ask: Ask, other: Ask, shared: int) -> Cause:
        """The prefix agrees: something around it kept it from being read."""
        rule = self._rule_of(ask.provider, ask.model)
        if _tokens(ask, shared) < rule.minimum_tokens:
            return "below_minimum"
        if ask.provider != other.provider:
            return "provider_switched"
        if ask.model != other.model:
            return "model_switched"
        if ask.owner != other.owner:
            return "key_switched"
        if ask.settings != other.settings:
            return "settings_changed"
        if self._marks_needed(ask.provider) and not ask.marks:
            return "no_breakpoint"
        if ask.at_ms < other.ends_ms:
            return "burst"
        if ask.at_ms - other.at_ms >= rule.ttl_ms:
            return "ttl_lapsed"
        return "evicted"

    def _made(self, ask: Ask, family: tuple[str, ...], cause: Cause, size: int, where: str) -> Miss | None:
        rule = self._rule_of(ask.provider, ask.model)
        tokens = max(0, _tokens(ask, size) - ask.read)
        tolerance = max(rule.step_tokens, ask.input_tokens // 50)
        if tokens <= tolerance:
            return None
        known = self._rates_of(ask.provider, ask.model)
        rates = known.at(ask.input_tokens) if known is not None else None
        nusd = None
        if rates is not None and rates.read is not None:
            nusd = round_half_even(tokens * (rates.input - rates.read), PUSD_PER_NUSD)
        elif rates is not None:
            nusd = 0
        return Miss(
            request_id=ask.id, cause=cause, tokens=tokens, nusd=nusd, where=where, family="/".join(family[1:])
        )

    def _remember(self, ask: Ask, family: tuple[str, ...], session: str) -> None:
        for key in {family, (*family, session)} if session else {family}:
            recent = self._recent.setdefault(key, [])
            recent.append(ask)
            if len(recent) > RECENT_MAX:
                del recent[: RECENT_MAX // 2]
            self._recent.move_to_end(key)
        while len(self._recent) > FAMILIES_MAX:
            gone, _ = self._recent.popitem(last=False)
            self._systems.pop(gone, None)
        seen = self._systems.setdefault(family, Counter())
        for section in ask.sections:
            if section.role in ("system", "instructions"):
                seen[section.digest] += 1
        if len(seen) > 10_000:
            self._systems[family] = Counter(dict(seen.most_common(1_000)))


def summarise(examined: Iterable[tuple[Exchange, Miss | None]]) -> Report:
    """The report over examined requests."""
    requests = taken = read = possible = 0
    sums: dict[Cause, list[int]] = {}
    examples: dict[Cause, Miss] = {}
    for exchange, miss in examined:
        requests += 1
        used, got = _input(exchange)
        taken += used
        read += got
        possible += got
        if miss is None:
            continue
        if miss.cause != "first_seen":
            possible += miss.tokens
        row = sums.setdefault(miss.cause, [0, 0, 0, 0])
        row[0] += 1
        row[1] += miss.tokens
        row[2] += miss.nusd or 0
        row[3] += miss.nusd is None
        best = examples.get(miss.cause)
        if best is None or miss.tokens > best.tokens:
            examples[miss.cause] = miss
    findings = [
        Finding(
            cause=cause,
            requests=row[0],
            tokens=row[1],
            nusd=row[2],
            unpriced=row[3],
            example=examples[cause].request_id,
            where=examples[cause].where,
            advice=ADVICE[cause],
        )
        for cause, row in sums.items()
    ]
    findings.sort(key=lambda one: (-one.nusd, -one.tokens, one.cause))
    return Report(
        requests=requests, input_tokens=taken, read_tokens=read, possible_tokens=possible, findings=tuple(findings)
    )


def ask_of(exchange: Exchange) -> Ask | None:
    """What the doctor looks at; None for requests without an answer, usage or prompt."""
    answering = next((one for one in reversed(exchange.attempts) if 0 < one.status < 300), None)
    if exchange.outcome != "answered" or answering is None or exchange.usage is None or not exchange.sections:
        return None
    taken, read = _input(exchange)
    view = exchange.view
    return Ask(
        id=exchange.request_id,
        at_ms=answering.started_at_ms,
        ends_ms=answering.started_at_ms + (answering.ttft_ms or answering.latency_ms),
        provider=answering.provider,
        model=answering.model,
        owner=exchange.scope.org,
        settings=(view.service_tier, *(f"{name}={value}" for name, value in view.facets)),
        sections=exchange.sections,
        blocks=exchange.blocks,
        size=sum(section.size for section in exchange.sections),
        input_tokens=taken,
        read=read,
        marks=view.cache_marks,
    )


def _input(exchange: Exchange) -> tuple[int, int]:
    """(all input tokens, those read from the cache)."""
    taken = read = 0
    for part in exchange.usage.parts if exchange.usage is not None else ():
        for unit, quantity in part.lines:
            if unit in INPUT_UNITS:
                taken += quantity
                read += quantity if "cache_read" in unit else 0
    return taken, read


def _family(exchange: Exchange) -> tuple[str, ...]:
    scope = exchange.scope
    return (exchange.view.endpoint, scope.team or scope.org, scope.feature)


def _closest(ask: Ask, candidates: Sequence[Ask], ttl_ms: int) -> Ask:
    """The earlier request with the longest common prefix.

    Of equals one that a common cache would still have; then one on the same cache; then the latest.
    """
    place = (ask.provider, ask.model, ask.owner, ask.settings)
    best, rank = candidates[-1], (-1, False, False, -1, -1)
    for order, other in enumerate(candidates):
        shared, _ = _shared(ask.sections, other.sections)
        alive = ask.at_ms - other.at_ms < ttl_ms
        same = (other.provider, other.model, other.owner, other.settings) == place
        alike = sum(a.size == b.size for a, b in zip(ask.sections, other.sections, strict=False)) if not shared else 0
        found = (shared, alive, same, alike, order)
        if found > rank:
            best, rank = other, found
    return best


def _shared(mine: Sequence[PromptSection], theirs: Sequence[PromptSection]) -> tuple[int, int]:
    """(bytes of the common leading sections, how many they are)."""
    size = place = 0
    for one, other in zip(mine, theirs, strict=False):
        if one.digest != other.digest:
            break
        size += one.size
        place += 1
    return size, place


def _agreed_bytes(ask: Ask, other: Ask) -> int:
    """Bytes of the common leading blocks: how far into the prompt the two still agree."""
    agreed = 0
    for one, two in zip(ask.blocks, other.blocks, strict=False):
        if one != two:
            break
        agreed += 1024
    return agreed


def _tokens(ask: Ask, size: int) -> int:
    """Tokens of so many bytes of this prompt, by its own ratio."""
    return ask.input_tokens * min(size, ask.size) // ask.size if ask.size else 0
