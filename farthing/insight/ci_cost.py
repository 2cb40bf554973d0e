"""What a change of prompts costs a month: tokens, models, caps and cache prefixes, by the baseline's traffic.

Calls, the tokens that calls put in, output lengths below a new cap, and hit shares are taken from the baseline; only
what the change touches moves. No network, no clock: equal inputs give equal outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from farthing.core.prefix_cache import minimum_tokens
from farthing.insight.ci_baseline import Baseline, Traffic
from farthing.insight.ci_prompts import Prompt

Level = Literal["error", "warning"]
ERROR_UNKNOWN: Final = 0.10
"""Relative error of token counts that nobody measured."""
Tokens = tuple[int, int, int, int]
"""Plain input, cache read, cache write, output."""


class Pricer:
    """Prices and token counts of one installation."""

    def __init__(
        self,
        price: Callable[[str, Tokens], int | None],
        count: Callable[[str, str], tuple[int, float | None]],
    ) -> None:
        """``price(model, tokens)``: nano-USD of a million such calls. ``count(text, model)``: tokens and error."""
        self.price = price
        self.count = count


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something to look at."""

    level: Level
    file: str
    line: int = 1
    what: str


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt before and after. Amounts in nano-USD; None: unpriced."""

    prompt: str
    file: str
    state: Literal["changed", "new", "removed"]
    model: str
    """``gpt-4o → gpt-4o-mini`` where it changes."""
    calls_month: int
    tokens_before: int
    tokens_after: int
    month_before: int | None
    month_after: int | None
    low: int | None
    high: int | None
    cache: str = ""

    @property
    def change(self) -> int | None:
        """Nano-USD a month."""
        if self.month_before is None or self.month_after is None:
            return None
        return self.month_after - self.month_before


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """The whole change."""

    costs: tuple[Cost, ...]
    findings: tuple[Finding, ...]
    unchanged: int
    whole_month: int
    """What all traffic of the baseline costs a month before the change, at today's prices where they are known."""

    @property
    def change(self) -> int:
        """Nano-USD a month over all priced prompts."""
        return sum(cost.change or 0 for cost in self.costs)


def diff(
    before: Mapping[str, Prompt],
    after: Mapping[str, Prompt],
    baseline: Baseline,
    pricer: Pricer,
    *,
    quality: Mapping[str, float] | None = None,
) -> Diff:
    """Every prompt that changed, came or went; keys are ids."""
    costs, findings = [], []
    whole = 0
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        seen = traffic_of(baseline, new or old)
        whole += _month(pricer, seen.model, _spent(seen), seen.calls_month) or 0 if seen else 0
        if old is not None and new is not None and _same(old, new):
            continue
        cost, found = _Change(old, new, seen, pricer).cost()
        costs.append(cost)
        findings += found
    findings += _dominated(after, quality or {}, pricer)
    costs.sort(key=lambda cost: (-abs(cost.change or 0), cost.prompt))
    return Diff(
        costs=tuple(costs),
        findings=tuple(findings),
        unchanged=len({*before} & {*after}) - sum(cost.state == "changed" for cost in costs),
        whole_month=whole,
    )


def traffic_of(baseline: Baseline, prompt: Prompt | None) -> Traffic | None:
    """The traffic of a prompt: by its id, else by its feature; of several models, the one with most calls."""
    if prompt is None:
        return None
    for name in (prompt.id, prompt.feature):
        rows = [row for row in baseline.traffic if name and row.prompt == name]
        if rows:
            return max(rows, key=lambda row: (row.model == prompt.model, row.calls_month, row.model))
    return None


def _same(old: Prompt, new: Prompt) -> bool:
    return (old.text, old.model, old.max_tokens) == (new.text, new.model, new.max_tokens)


def _spent(seen: Traffic) -> Tokens:
    plain = max(0, seen.input_tokens - seen.cache_read_tokens - seen.cache_write_tokens)
    return plain, seen.cache_read_tokens, seen.cache_write_tokens, seen.output_tokens


def _month(pricer: Pricer, model: str, tokens: Tokens, calls: int) -> int | None:
    million = pricer.price(model, tokens)
    return None if million is None else million * calls // 1_000_000


class _Change:
    """One prompt's change, worked out step by step."""

    def __init__(self, old: Prompt | None, new: Prompt | None, seen: Traffic | None, pricer: Pricer) -> None:
        self._old, self._new, self._seen, self._pricer = old, new, seen, pricer
        one = new or old
        assert one is not None
        self._one = one
        self._findings: list[Finding] = []

    def cost(self) -> tuple[Cost, list[Finding]]:
        seen, old, new = self._seen, self._old, self._new
        was, now = self._model(old), self._model(new)
        count_was, count_now = self._count(old, was), self._count(new, now)
        calls = seen.calls_month if seen else 0
        base = _spent(seen) if seen else (count_was[0], 0, 0, 0)
        before = _month(self._pricer, was, base, calls) if old else 0
        after, low, high, cache = 0 if new is None else None, None, None, ""
        if new is not None:
            moved, cache = self._moved(base, count_was[0], count_now[0], was, now)
            after = _month(self._pricer, now, moved, calls)
            low, high = self._range(now, moved, count_was[0], count_now, calls)
            self._notes(now, calls)
        state: Literal["changed", "new", "removed"] = (
            "new" if old is None else "removed" if new is None else "changed"
        )
        return Cost(
            prompt=self._one.id,
            file=self._one.file,
            state=state,
            model=now if was == now or not was or not now else f"{was} → {now}",
            calls_month=calls,
            tokens_before=count_was[0],
            tokens_after=count_now[0],
            month_before=before,
            month_after=after,
            low=low,
            high=high,
            cache=cache,
        ), self._findings

    def _model(self, prompt: Prompt | None) -> str:
        return "" if prompt is None else prompt.model or (self._seen.model if self._seen else "")

    def _count(self, prompt: Prompt | None, model: str) -> tuple[int, float | None]:
        return (0, 0.0) if prompt is None else self._pricer.count(prompt.text, model or "gpt-4o")

    def _moved(self, base: Tokens, tokens_was: int, tokens_now: int, was: str, now: str) -> tuple[Tokens, str]:
        """Tokens of a call after the change, and what it does to the provider's cache."""
        plain, read, written, output = base
        grown = tokens_now - tokens_was
        output = self._capped(output)
        new, old = self._new, self._old
        assert new is not None
        if not read or old is None:
            return (max(0, plain + grown), read, written, output), ""
        prefix_was = self._pricer.count(old.prefix, was or "gpt-4o")[0]
        prefix_now = self._pricer.count(new.prefix, was or "gpt-4o")[0]
        total = max(0, plain + read + written + grown)
        share = read / max(1, plain + read + written)
        least = minimum_tokens(now or was)
        if prefix_now < least and prefix_was >= minimum_tokens(was):
            fallen = "falls to" if prefix_now < prefix_was else "has"
            lost = f"prefix {fallen} {prefix_now:,} tokens, below {least:,}: nothing is served from the cache"
            why = f": {new.dynamic} comes too early" if new.dynamic and new.dynamic != old.dynamic else ""
            self._find("warning", f"cache-prefix break: {lost}{why}", new.line)
            return (max(0, total - written), 0, min(written, total), output), f"break: {lost}"
        if prefix_now < prefix_was * 9 // 10 and new.dynamic != old.dynamic:
            self._find("warning", f"cache-prefix break: {new.dynamic} ends the prefix after {prefix_now:,} tokens "
                       f"(before: {prefix_was:,})", new.line)  # fmt: skip
            kept = min(read, round(read * prefix_now / prefix_was))
            return (max(0, total - kept - written), kept, written, output), f"prefix {prefix_was:,} → {prefix_now:,}"
        kept = max(0, min(total, round(total * share)))
        if new.prefix == old.prefix:
            return (max(0, total - read - written), read, written, output), "kept"
        return (max(0, total - kept - written), kept, written, output), self._rewrite(prefix_now, was)

    def _rewrite(self, tokens: int, model: str) -> str:
        """The one-time cost of writing the changed prefix anew, for each place that keeps it."""
        read, written = (self._pricer.price(model, (0, one, two, 0)) for one, two in ((tokens, 0), (0, tokens)))
        if read is None or written is None:
            return "rewritten once"
        return f"rewritten once, ${(written - read) / 1e15:.4f} for each cache"

    def _capped(self, output: int) -> int:
        new, seen = self._new, self._seen
        if new is None or seen is None or new.max_tokens is None or not seen.outputs:
            return output
        mean = sum(seen.outputs) / len(seen.outputs)
        capped = sum(min(one, new.max_tokens) for one in seen.outputs) / len(seen.outputs)
        return round(output * capped / mean) if mean else output

    def _range(
        self, model: str, moved: Tokens, tokens_was: int, now: tuple[int, float | None], calls: int
    ) -> tuple[int | None, int | None]:
        """What errors of token counts, and answers that a raised cap sets free, leave open."""
        error = ERROR_UNKNOWN if now[1] is None else now[1]
        slack = round(abs(now[0] - tokens_was) * error)
        plain, read, written, output = moved
        low = _month(self._pricer, model, (max(0, plain - slack), read, written, output), calls)
        high = _month(self._pricer, model, (plain + slack, read, written, output + self._freed()), calls)
        return low, high

    def _freed(self) -> int:
        """Mean output tokens that may come on top where answers stood at the old cap and the new one is higher."""
        old, new, seen = self._old, self._new, self._seen
        if old is None or new is None or seen is None or old.max_tokens is None or not seen.outputs:
            return 0
        at_cap = sum(one >= old.max_tokens for one in seen.outputs)
        room = (new.max_tokens or old.max_tokens * 4) - old.max_tokens
        return max(0, room) * at_cap // len(seen.outputs)

    def _notes(self, model: str, calls: int) -> None:
        if not model:
            self._find("warning", "names no model, and the baseline knows none")
        elif self._pricer.price(model, (1, 0, 0, 1)) is None:
            self._find("error", f'"{model}" has no known price; add one with farthing price set')
        if not calls:
            self._find("warning", "has no traffic in the baseline: its cost a month is not known, and counts as 0")

    def _find(self, level: Level, what: str, line: int = 1) -> None:
        self._findings.append(Finding(level=level, file=self._one.file, line=line, what=f"{self._one.id}: {what}"))


def _dominated(after: Mapping[str, Prompt], quality: Mapping[str, float], pricer: Pricer) -> Sequence[Finding]:
    """Models that another one beats in measured quality, input price and output price at once."""
    prices = {name: (pricer.price(name, (1, 0, 0, 0)), pricer.price(name, (0, 0, 0, 1))) for name in quality}
    found = []
    for prompt in after.values():
        own, score = prices.get(prompt.model), quality.get(prompt.model)
        if own is None or score is None or own[0] is None or own[1] is None:
            continue
        better = sorted(
            name
            for name, (into, out) in prices.items()
            if into is not None and out is not None and into < own[0] and out < own[1] and quality[name] >= score
        )
        if better:
            what = f"{prompt.id}: {prompt.model} is dominated by {better[0]}: cheaper and measured at least as good"
            found.append(Finding(level="warning", file=prompt.file, what=what))
    return found
