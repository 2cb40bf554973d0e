"""Opportunities in tokens: marks for the prompt cache, long histories and answers, instructions, unused tools."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from farthing.config.editing import Toml
from farthing.core.lever import Facts
from farthing.core.levers.trim_history import TrimHistory, first_kept
from farthing.core.types import Exchange
from farthing.lab.doctor import RatesOf
from farthing.lab.doctor_ttl import TtlAdvice
from farthing.lab.optimize import Change, Opportunity, Seen

CALLS_MIN: Final = 50
"""Calls of a kind below which nothing is said of its lengths."""
TRIM: Final = TrimHistory(above_tokens=12_000, to_tokens=4_000)
SYSTEM_SHARE: Final = 0.3
_SYSTEM: Final = ("system", "developer", "instructions")


class Marks:
    """Prompts whose provider caches up to marks, and whose caller sets none."""

    def __init__(self, rates_of: RatesOf, needs_marks: Callable[[str], bool]) -> None:
        self._needs_marks = needs_marks
        self._advice = TtlAdvice(rates_of, needs_marks)

    def see(self, seen: Seen) -> None:
        pulled = any(one.action == "cache_breakpoints" for one in seen.exchange.decisions)
        if seen.answered and not seen.exchange.view.cache_marks and not pulled:
            for _ in self._advice.watch([seen.exchange]):
                pass

    def found(self) -> Iterator[Opportunity]:
        kept = self._advice.kept()
        if not kept:
            return
        best = max(kept, key=lambda one: one.saved_nusd)
        others = ", ".join(f"{one.rule.name} {one.saved_nusd / 1e9:.4f} USD" for one in kept)
        yield Opportunity(
            kind="provider_caching",
            nusd=best.saved_nusd,
            sure="repriced",
            requests=self._advice.prompts,
            evidence=f"{self._advice.prompts} prompts have no breakpoints; marked, net of writes: {others}",
            risk="none",
            effort="low",
            try_="farthing cache doctor says why prompts miss; this lever marks them",
            change=Change(section="levers", values={"kind": "cache_breakpoints", "ttl": best.rule.name}),
        )


class Histories:
    """What trimming long histories would not have sent again."""

    def __init__(self) -> None:
        self._calls = self._cut = self._nusd = self._longest = 0

    def see(self, seen: Seen) -> None:
        if not seen.answered:
            return
        sizes: list[int] = []
        whole = 0
        for section in seen.exchange.sections:
            whole += section.size
            if section.role in _SYSTEM or (section.role == "tool" and not sizes):
                continue
            if section.role == "user" or not sizes:
                sizes.append(0)
            sizes[-1] += section.size
        history = sum(sizes)
        self._longest = max(self._longest, history)
        first = first_kept(TRIM, Facts(form="chat"), sizes) if history > TRIM.above_tokens * 4 else 0
        if first:
            self._calls += 1
            self._nusd += seen.input_nusd * sum(sizes[:first]) // max(1, whole)

    def found(self) -> Iterator[Opportunity]:
        if self._calls:
            yield Opportunity(
                kind="context_accumulation",
                nusd=self._nusd,
                sure="estimated",
                requests=self._calls,
                evidence=(
                    f"{self._calls} calls brought histories of more than {TRIM.above_tokens:,} tokens "
                    f"(up to about {self._longest // 4:,}); by bytes, before what a cut costs the prompt cache"
                ),
                risk="medium",
                effort="low",
                try_="trim them in large steps; the lever weighs each cut against the cache",
                change=Change(
                    section="levers",
                    values={
                        "kind": "trim_history",
                        "above_tokens": TRIM.above_tokens,
                        "to_tokens": TRIM.to_tokens,
                    },
                ),
            )


class _Lengths(msgspec.Struct):
    lengths: list[int] = msgspec.field(default_factory=list)
    output_nusd: int = 0
    cut: int = 0


class Answers:
    """Answers without a cap that are far longer than most of their feature and model."""

    def __init__(self) -> None:
        self._kinds: defaultdict[tuple[str, str], _Lengths] = defaultdict(_Lengths)

    def see(self, seen: Seen) -> None:
        usage = seen.exchange.usage
        if not seen.answered or usage is None or seen.exchange.view.endpoint == "embeddings":
            return
        one = self._kinds[(seen.feature, seen.model)]
        one.cut += usage.finish_reason in ("length", "max_tokens")
        if seen.exchange.view.choices == 1:
            one.lengths.append(seen.output_tokens)
            one.output_nusd += seen.output_nusd

    def found(self) -> Iterator[Opportunity]:
        for (feature, model), one in self._kinds.items():
            if len(one.lengths) < CALLS_MIN or not sum(one.lengths):
                continue
            ordered = sorted(one.lengths)
            cap = max(16, ordered[len(ordered) * 95 // 100])
            beyond = sum(max(0, length - cap) for length in ordered)
            values: dict[str, Toml] = {"kind": "cap_output", "models": [model], "tokens": cap}
            if feature:
                values["match"] = {"feature": feature}
            where = f"{feature or 'no feature'}, {model}"
            yield Opportunity(
                kind="output_length",
                of=where,
                nusd=one.output_nusd * beyond // sum(ordered),
                sure="repriced",
                requests=sum(length > cap for length in ordered),
                evidence=(
                    f"95 % of {len(ordered)} answers have at most {cap:,} tokens, the longest {ordered[-1]:,}; "
                    f"{one.cut / len(ordered):.1%} end by length already"
                ),
                risk="medium",
                effort="low",
                try_="cap them there, or ask for short answers: a cap cuts, it does not shorten",
                change=Change(section="levers", values=values),
            )


class Instructions:
    """Instructions that are a large part of what is paid for input."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._input: Counter[str] = Counter()
        self._own: Counter[str] = Counter()
        self._tools: Counter[str] = Counter()

    def see(self, seen: Seen) -> None:
        sizes = Counter[str]()
        spoken = False
        for section in seen.exchange.sections:
            spoken = spoken or section.role in ("user", "assistant")
            tool = section.role == "tool" and not spoken
            sizes["own" if section.role in _SYSTEM else "tools" if tool else "rest"] += section.size
        whole = sum(sizes.values())
        if seen.answered and whole:
            self._calls[seen.feature] += 1
            self._input[seen.feature] += seen.input_nusd
            self._own[seen.feature] += seen.input_nusd * sizes["own"] // whole
            self._tools[seen.feature] += seen.input_nusd * sizes["tools"] // whole

    def found(self) -> Iterator[Opportunity]:
        for kind, sums, what in (
            ("system_prompt", self._own, "Instructions are"),
            ("tool_descriptions", self._tools, "Descriptions of tools are"),
        ):
            for feature, nusd in sums.items():
                share = nusd / self._input[feature] if self._input[feature] else 0.0
                if self._calls[feature] < CALLS_MIN or share < SYSTEM_SHARE:
                    continue
                yield Opportunity(
                    kind=kind,
                    of=feature or "no feature",
                    nusd=nusd // 4,
                    sure="estimated",
                    requests=self._calls[feature],
                    evidence=f"{what} {share:.0%} of what its input costs, after caching; a quarter shorter",
                    risk="medium",
                    effort="medium",
                    try_="shorten them, then compare answers with farthing eval",
                )


class UnusedTools:
    """Tools that are described in call after call and never called; needs the text of prompts and answers."""

    def __init__(self, tools_of: Callable[[Exchange], tuple[tuple[str, int], ...]]) -> None:
        """``tools_of`` gives (name, size in bytes) of the tools in a logged prompt."""
        self._tools_of = tools_of
        self._offered: Counter[str] = Counter()
        self._nusd: Counter[str] = Counter()
        self._used: set[str] = set()

    def see(self, seen: Seen) -> None:
        exchange = seen.exchange
        if not seen.answered or exchange.prompt is None or exchange.answer is None:
            return
        for name, size in self._tools_of(exchange):
            self._offered[name] += 1
            self._nusd[name] += seen.input_nusd * size // max(1, len(exchange.prompt))
            said = f'"{name}"'.encode()
            if said in exchange.answer or exchange.prompt.count(said) > 1:
                self._used.add(name)

    def found(self) -> Iterator[Opportunity]:
        idle = sorted(name for name, calls in self._offered.items() if calls >= CALLS_MIN and name not in self._used)
        if idle:
            yield Opportunity(
                kind="unused_tools",
                nusd=sum(self._nusd[name] for name in idle),
                sure="estimated",
                requests=max(self._offered[name] for name in idle),
                evidence=f"never called: {', '.join(idle[:8])}{' …' if len(idle) > 8 else ''}; by bytes",
                risk="low",
                effort="low",
                try_="leave them out",
                change=Change(section="levers", values={"kind": "prune_tools", "tools": list(idle)}),
            )
