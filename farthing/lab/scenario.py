"""The calculator's scenarios: a workload, levers with their real conditions, and the bill that comes out.

A scenario is data (TOML). Rates come from the price book or from the scenario itself. Levers change the workload, not
the bill, so they interact as they do in life: a semantic cache takes away requests that routing would have made cheap
and lowers the rate at which a prompt cache is kept warm. The shares that are printed sum to the saving exactly, in
the order given and averaged over every order (Shapley).
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product
from typing import Final, Literal

import msgspec

from farthing.core.prefix_cache import minimum_tokens
from farthing.core.savings import in_order, shapley
from farthing.lab.formula import Formula, plain
from farthing.lab.tariff import Rates

Span = float | tuple[float, ...]
"""A number, (low, high), or (low, likely, high)."""

Ttl = Literal["5m", "1h"]
Arrival = Literal["poisson", "even", "always_warm"]

NUSD: Final = 10**9
CORNERS_MAX: Final = 10
_TTL_MIN: Final[Mapping[Ttl, int]] = {"5m": 5, "1h": 60}


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Traffic of one kind."""

    model: str
    requests_per_day: Span
    input_tokens: Span
    """Per request, the repeated prefix included."""
    output_tokens: Span
    days: float = 30
    active_hours: float = 24
    """Hours of the day over which the requests are spread."""
    prefixes: float = 1
    """Different repeated prefixes among the requests (tenants, system prompts): each needs its own cache entry."""


class PromptCache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="prompt_cache"):
    """The provider's prompt cache."""

    prefix_tokens: Span
    ttl: Ttl = "5m"
    arrival: Arrival = "poisson"
    """Requests come at random, evenly spaced, or always in time."""
    minimum_tokens: float | None = None
    """Shorter prefixes are not cached; None: what the model's provider says."""


class AnswerCache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="answer_cache"):
    """Farthing's exact or semantic cache."""

    hit: Span
    usd_per_million_lookups: Span = 0.0
    """Embeddings; one for each look-up and one for each entry stored."""
    wrong: Span = 0.0
    """Share of hits that serve a wrong answer."""
    usd_per_wrong: Span = 0.0


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="route"):
    """A share of the traffic goes to another model."""

    share: Span
    to: str
    usd_per_million_decisions: Span = 0.0
    escalated: Span = 0.0
    """Share of the routed requests that are asked again of the first model."""


class Shorten(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shorten"):
    """Shorter prompts and answers."""

    input: Span = 0.0
    """Fraction of the input tokens that goes away; where the scenario has a prompt cache, of those outside its
    prefix, whether that lever is switched on or not: an edit of the prefix would be a rewrite of the cache."""
    output: Span = 0.0


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="batch"):
    """A share of the traffic waits for the provider's batch API."""

    share: Span
    discount: Span | None = None
    """None: the batch prices of the rates, which say themselves what cached input costs in a batch."""
    stacks_with_cache: bool = True
    """Whether a stated discount also holds on cached input; providers differ."""


Lever = AnswerCache | Shorten | Route | PromptCache | Batch
_ORDER: Final = (AnswerCache, Shorten, Route, PromptCache, Batch)
"""The order in which levers act on a request, whatever the order in which they are listed."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the calculator."""

    workload: Workload
    name: str = ""
    levers: dict[str, Lever] = {}
    """Name -> lever, in the order in which their shares are told."""
    rates: dict[str, Rates] = {}
    """Rates that stand in for the price book's, by model."""


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What a period costs with some levers on."""

    nusd: int
    lines: tuple[str, ...]
    """Formulas with their numbers, from the requests to the bill."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario worked out. All amounts are nano-USD for the whole period, at the likely values."""

    baseline: Bill
    final: Bill
    low: int
    high: int
    """The least and the most that the final bill can be over all ranges."""
    saved_low: int
    saved_high: int
    ordered: dict[str, int]
    averaged: dict[str, int]
    notes: tuple[str, ...]
    """What the reader must know: caches that do not pay, minimums that are not met."""


class Work:
    """Works a scenario out. ``rates_of`` gives the rates of a model that the scenario itself does not price."""

    def __init__(self, scenario: Scenario, rates_of: Callable[[str], Rates]) -> None:
        """Raises ``ValueError`` with everything that is wrong in the scenario."""
        self._scenario = scenario
        models = {scenario.workload.model, *(one.to for one in scenario.levers.values() if isinstance(one, Route))}
        self._rates = {model: scenario.rates.get(model) or rates_of(model) for model in sorted(models)}
        problems = [*_range_problems(scenario), *_lever_problems(scenario)]
        if problems:
            raise ValueError("; ".join(problems))

    def outcome(self) -> Outcome:
        """Baseline, final bill, shares and ranges."""
        names = list(self._scenario.levers)
        notes: list[str] = []
        baseline, final = self.bill(frozenset()), self.bill(frozenset(names), notes=notes)
        bills, saved = [], []
        for pick in self._corners():
            whole = self.bill(frozenset(names), pick).nusd
            bills.append(whole)
            saved.append(self.bill(frozenset(), pick).nusd - whole)
        return Outcome(
            baseline=baseline,
            final=final,
            low=min(bills),
            high=max(bills),
            saved_low=min(saved),
            saved_high=max(saved),
            ordered=in_order(names, lambda on: self.bill(on).nusd),
            averaged=shapley(names, lambda on: self.bill(on).nusd),
            notes=tuple(notes),
        )

    def bill(
        self, on: frozenset[str], pick: Mapping[str, int] | None = None, *, notes: list[str] | None = None
    ) -> Bill:
        """The bill with the levers of ``on``; ``pick`` says which end of each range (-1, 0, 1) to take."""
        state = _State(self._scenario, self._rates, pick or {}, notes if notes is not None else [])
        for kind in _ORDER:
            for name, lever in self._scenario.levers.items():
                if name in on and isinstance(lever, kind):
                    state.apply(name, lever)
        return state.bill()

    def _corners(self) -> list[dict[str, int]]:
        names = _ranges(self._scenario)
        if len(names) <= CORNERS_MAX:
            return [dict(zip(names, ends, strict=True)) for ends in product((-1, 1), repeat=len(names))]
        alone = [{name: end} for name in names for end in (-1, 1)]
        return [{}, dict.fromkeys(names, -1), dict.fromkeys(names, 1), *alone]


class _State:
    """The workload as the levers leave it."""

    def __init__(
        self, scenario: Scenario, rates: Mapping[str, Rates], pick: Mapping[str, int], notes: list[str]
    ) -> None:
        workload = scenario.workload
        self._pick, self._rates, self._notes, self._workload = pick, rates, notes, workload
        self._lines: list[str] = []
        self._days = Fraction(str(workload.days))
        self._requests = self._number("workload.requests_per_day", workload.requests_per_day)
        self._input = self._number("workload.input_tokens", workload.input_tokens)
        self._output = self._number("workload.output_tokens", workload.output_tokens)
        self._mix: list[tuple[Fraction, str]] = [(Fraction(1), workload.model)]
        self._cache: tuple[str, PromptCache] | None = None
        self._batch: tuple[str, Batch] | None = None
        self._extra = Fraction(0)
        """USD per day beside the calls themselves."""
        self._kept = sum((self._prefix(name, one) for name, one in scenario.levers.items()), Fraction(0))
        """Input tokens that no shortening touches: the prefix that a cache holds."""

    def apply(self, name: str, lever: Lever) -> None:
        match lever:
            case AnswerCache():
                self._answer_cache(name, lever)
            case Shorten():
                self._shorten(name, lever)
            case Route():
                self._route(name, lever)
            case PromptCache():
                self._cache = (name, lever)
            case Batch():
                self._batch = (name, lever)

    def _prefix(self, name: str, lever: Lever) -> Fraction:
        if not isinstance(lever, PromptCache):
            return Fraction(0)
        prefix = min(self._input, self._number(f"{name}.prefix_tokens", lever.prefix_tokens))
        return prefix if prefix >= _minimum(lever, self._workload.model) else Fraction(0)

    def bill(self) -> Bill:
        day = sum((self._model_day(share, model) for share, model in self._mix), Fraction(0))
        total = self._line("bill", "days*(calls + beside)", days=self._days, calls=day, beside=self._extra)
        return Bill(nusd=round(total * NUSD), lines=tuple(self._lines))

    def _answer_cache(self, name: str, lever: AnswerCache) -> None:
        hit = self._number(f"{name}.hit", lever.hit)
        look = self._number(f"{name}.usd_per_million_lookups", lever.usd_per_million_lookups)
        wrong = self._number(f"{name}.wrong", lever.wrong)
        loss = self._number(f"{name}.usd_per_wrong", lever.usd_per_wrong)
        self._extra += self._line(
            f"{name} beside",
            "requests*((2-hit)*lookup/10**6 + hit*wrong*loss)",
            requests=self._requests,
            hit=hit,
            lookup=look,
            wrong=wrong,
            loss=loss,
        )
        self._requests = self._line(f"{name} requests", "requests*(1-hit)", requests=self._requests, hit=hit)

    def _shorten(self, name: str, lever: Shorten) -> None:
        cut = self._number(f"{name}.input", lever.input)
        short = self._number(f"{name}.output", lever.output)
        if self._kept:
            text = "prefix + (input - prefix)*(1-cut)"
            self._input = self._line(f"{name} input", text, prefix=self._kept, input=self._input, cut=cut)
        else:
            self._input = self._line(f"{name} input", "input*(1-cut)", input=self._input, cut=cut)
        self._output = self._line(f"{name} output", "output*(1-cut)", output=self._output, cut=short)

    def _route(self, name: str, lever: Route) -> None:
        share = self._number(f"{name}.share", lever.share)
        escalated = self._number(f"{name}.escalated", lever.escalated)
        decision = self._number(f"{name}.usd_per_million_decisions", lever.usd_per_million_decisions)
        self._extra += self._line(
            f"{name} router", "requests*decision/10**6", requests=self._requests, decision=decision
        )
        first = self._workload.model
        mix = []
        for part, model in self._mix:
            if model != first:
                mix.append((part, model))
                continue
            stays = self._line(
                f"{name} to {first}",
                "part*(1 - share + share*escalated)",
                part=part,
                share=share,
                escalated=escalated,
            )
            mix += [(stays, first), (part * share, lever.to)]
        self._mix = mix

    def _model_day(self, share: Fraction, model: str) -> Fraction:
        """USD per day of the calls to one model."""
        rates = self._rates[model].at(self._input)
        if rates.from_tokens:
            self._notes.append(
                f"{model}: prompts of {plain(self._input)} tokens pay the rates from {rates.from_tokens:,} tokens on"
            )
        requests = self._requests * share
        fresh, prefix_cost = self._input, Fraction(0)
        if self._cache is not None:
            fresh, prefix_cost = self._cached(model, rates, requests)
        numbers = {
            "requests": requests,
            "fresh": fresh,
            "input_rate": Fraction(str(rates.input)),
            "output": self._output,
            "output_rate": Fraction(str(rates.output)),
            "prefix": prefix_cost,
        }
        text = "requests*(fresh*input_rate + output*output_rate + prefix)/10**6"
        day = self._line(f"{model} per day", text, **numbers)
        if self._batch is None:
            return day
        name, lever = self._batch
        numbers |= {"day": day, "share": self._number(f"{name}.share", lever.share)}
        if lever.discount is None:
            return self._batched(name, model, numbers)
        numbers["discount"] = self._number(f"{name}.discount", lever.discount)
        paid = "(fresh*input_rate + output*output_rate + prefix)"
        if not lever.stacks_with_cache:
            paid = "(fresh*input_rate + output*output_rate)"
        return self._known(f"{model} with {name}", f"day - requests*share*discount*{paid}/10**6", numbers)

    def _batched(self, name: str, model: str, numbers: dict[str, Fraction]) -> Fraction:
        """USD per day where a share of the calls pays the provider's batch prices."""
        batch = self._rates[model].batch
        if batch is None:
            self._notes.append(f"{name}: no batch price of {model} is known; nothing is saved there")
            return numbers["day"]
        rates = batch.at(self._input)
        prefix = Fraction(0) if self._cache is None else self._cached(model, rates, numbers["requests"])[1]
        given = {"batch_input": rates.input, "batch_output": rates.output}
        numbers |= {label: Fraction(str(value)) for label, value in given.items()} | {"batch_prefix": prefix}
        less = "fresh*(input_rate - batch_input) + output*(output_rate - batch_output) + prefix - batch_prefix"
        return self._known(f"{model} with {name}", f"day - requests*share*({less})/10**6", numbers)

    def _known(self, label: str, text: str, numbers: Mapping[str, Fraction]) -> Fraction:
        """A line of those numbers that its formula names."""
        return self._line(label, text, **{name: numbers[name] for name in Formula(text).names})

    def _cached(self, model: str, rates: Rates, requests: Fraction) -> tuple[Fraction, Fraction]:
        """(tokens billed at the input rate, USD per million requests for the prefix)."""
        assert self._cache is not None
        name, lever = self._cache
        prefix = min(self._input, self._number(f"{name}.prefix_tokens", lever.prefix_tokens))
        least = _minimum(lever, model)
        if rates.cache_read is None or prefix < least:
            why = "has no priced prompt cache"
            if rates.cache_read is not None:
                why = f"is below the minimum of {model}, {plain(least)}"
            what = model if rates.cache_read is None else f"a prefix of {plain(prefix)} tokens"
            self._notes.append(f"{name}: {what} {why}; nothing is cached there")
            return self._input, Fraction(0)
        written = rates.cache_write_1h if lever.ttl == "1h" else rates.cache_write_5m
        write = Fraction(str(rates.input if written is None else written))
        read = Fraction(str(rates.cache_read))
        hit = self._hit(name, model, lever, requests)
        if (1 - hit) * write + hit * read > Fraction(str(rates.input)):
            self._notes.append(
                f"{name}: at {plain(hit * 100, 4)} % hits on {model} the {lever.ttl} cache costs more than it saves; "
                "switch it off or try the other TTL"
            )
        cost = self._line(
            f"{name} prefix on {model}",
            "prefix*((1-hit)*write + hit*read)",
            prefix=prefix,
            hit=hit,
            write=write,
            read=read,
        )
        return self._input - prefix, cost

    def _hit(self, name: str, model: str, lever: PromptCache, requests: Fraction) -> Fraction:
        if requests <= 0:
            return Fraction(0)
        hours, prefixes = Fraction(str(self._workload.active_hours)), Fraction(str(self._workload.prefixes))
        label = f"{name} hit on {model}"
        ttl = Fraction(_TTL_MIN[lever.ttl])
        if lever.arrival == "always_warm":
            return self._line(label, "1 - prefixes/requests", prefixes=min(prefixes, requests), requests=requests)
        gap = self._line(
            f"{name} minutes between requests on {model}",
            "hours*60*prefixes/requests",
            hours=hours,
            prefixes=prefixes,
            requests=requests,
        )
        if lever.arrival == "even":
            return Fraction(1 if gap < ttl else 0)
        return self._line(label, "1 - exp(-ttl/gap)", ttl=ttl, gap=gap)

    def _number(self, name: str, span: Span) -> Fraction:
        return Fraction(str(_end(span, self._pick.get(name, 0))))

    def _line(self, label: str, text: str, **numbers: Fraction) -> Fraction:
        formula = Formula(text)
        value = formula.value(numbers)
        self._lines.append(f"{label} = {text} = {formula.shown(numbers)} = {plain(value, 8)}")
        return value


def _minimum(lever: PromptCache, model: str) -> Fraction:
    """The shortest prefix that is cached."""
    return Fraction(str(minimum_tokens(model) if lever.minimum_tokens is None else lever.minimum_tokens))


def _end(span: Span, end: int) -> float:
    if not isinstance(span, tuple):
        return span
    if end:
        return span[0] if end < 0 else span[-1]
    return span[1] if len(span) == 3 else (span[0] + span[-1]) / 2


def _fields(scenario: Scenario) -> list[tuple[str, object]]:
    found = [(f"workload.{name}", getattr(scenario.workload, name)) for name in Workload.__struct_fields__]
    for name, lever in scenario.levers.items():
        found += [(f"{name}.{field}", getattr(lever, field)) for field in lever.__struct_fields__]
    return found


def _ranges(scenario: Scenario) -> list[str]:
    return [name for name, value in _fields(scenario) if isinstance(value, tuple)]


_FRACTIONS: Final = frozenset({"hit", "wrong", "share", "escalated", "discount"})


def _range_problems(scenario: Scenario) -> list[str]:
    problems = []
    for name, value in _fields(scenario):
        if isinstance(value, bool) or not isinstance(value, (int, float, tuple)):
            continue
        ends = value if isinstance(value, tuple) else (value,)
        if not 1 <= len(ends) <= 3 or (isinstance(value, tuple) and len(ends) == 1):
            problems.append(f"{name} = {list(ends)} must be one number, [low, high] or [low, likely, high]")
            continue
        if not all(math.isfinite(end) for end in ends):
            problems.append(f"{name} = {list(ends)} is no number to count with")
            continue
        if list(ends) != sorted(ends):
            problems.append(f"{name} = {list(ends)} must be given from low to high")
        field = name.rpartition(".")[2]
        fraction = field in _FRACTIONS or name.rpartition(".")[0] in _shortening(scenario)
        if min(ends) < 0:
            problems.append(f"{name} = {min(ends)} must not be negative")
        elif fraction and max(ends) > 1:
            problems.append(f"{name} = {max(ends)} is a fraction; write 0.3 for 30 %")
    if scenario.workload.active_hours > 24 or scenario.workload.active_hours <= 0:
        problems.append(f"workload.active_hours = {scenario.workload.active_hours} must be above 0 and at most 24")
    return problems


def _shortening(scenario: Scenario) -> frozenset[str]:
    return frozenset(name for name, lever in scenario.levers.items() if isinstance(lever, Shorten))


def _lever_problems(scenario: Scenario) -> list[str]:
    problems = []
    for kind in (PromptCache, Batch):
        names = [name for name, lever in scenario.levers.items() if isinstance(lever, kind)]
        if len(names) > 1:
            problems.append(f"{', '.join(names)}: only one lever of this kind can act at a time")
    if len(scenario.levers) > 7:
        problems.append(f"{len(scenario.levers)} levers; at most 7 can be shared out over every order")
    return problems
