"""Metrics in Prometheus' text format under OpenTelemetry's GenAI names where those exist.

Requests add to plain dictionaries; names, labels and text are made only when somebody scrapes. Label sets are
bounded: what comes after the bound counts under ``other``.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from farthing.core.types import Exchange, LedgerEntry, PromptView
from farthing.core.units import TOKEN_UNITS, is_cache_read, is_cache_write, is_output
from farthing.ports.reply import Ended

SERIES_MAX: Final = 5_000
_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_PROVIDER: Final = "gen_ai_provider_name"
_TOKEN_FAMILIES: Final = ("input", "output", "cache_read", "cache_write", "reasoning")
_Place = tuple[str, str, str, str, int]
"""Endpoint, provider, model, outcome and status of calls."""
_OTHER_STATUS: Final = -1
_OTHER_CALLS: Final[_Place] = ("other", "other", "other", "other", _OTHER_STATUS)
_OTHER_USAGE: Final = ("other", "other", "other", "other")
_Labels = tuple[str, ...]
Counted = tuple[str, str, tuple[str, ...], Mapping[tuple[str, ...], float]]
"""(name, what it counts, names of its labels, value by labels)."""


def _families(unit: str) -> tuple[str, ...]:
    if is_output(unit):
        return ("output", "reasoning") if unit == "output_reasoning" else ("output",)
    if is_cache_read(unit):
        return ("input", "cache_read")
    return ("input", "cache_write") if is_cache_write(unit) else ("input",)


_FAMILIES_OF: Final = {unit: _families(unit) for unit in TOKEN_UNITS}


class _Histogram:
    """How long something took."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds

    def merge(self, other: "_Histogram") -> None:
        self.buckets = [mine + more for mine, more in zip(self.buckets, other.buckets, strict=True)]
        self.total += other.total


class _Calls:
    """Requests of one kind that ended alike."""

    __slots__ = ("count", "first", "took")

    def __init__(self) -> None:
        self.count = 0
        self.took: _Histogram | None = None
        self.first: _Histogram | None = None


class Metrics:
    """Implements ``farthing.ports.reply.Telemetry`` and renders ``/metrics``."""

    def __init__(
        self,
        gauges: Callable[[], dict[str, float]] | None = None,
        counters: Callable[[], Iterable[Counted]] | None = None,
    ) -> None:
        """``gauges`` answers the present state (requests in flight, settlements that wait, …) at scrape time.

        ``counters`` answers what other parts of the gateway count by themselves.
        """
        self._gauges = gauges or dict
        self._counters = counters or tuple
        self._requests: dict[_Place, _Calls] = {}
        self._tokens: dict[_Labels, dict[str, int]] = {}
        """By provider, asked-for model, model and source: units."""
        self._nusd: dict[_Labels, int] = {}
        self._unpriced: dict[_Labels, int] = {}
        self._anomalies: dict[_Labels, int] = {}
        self._refusals: dict[_Labels, int] = {}
        self._failures: dict[_Labels, int] = {}
        self._store: dict[_Labels, int] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exchange(self, exchange: Exchange, entries: tuple[LedgerEntry, ...]) -> None:
        attempts = exchange.attempts
        self.ended(exchange.view, attempts[-1].provider if attempts else "", exchange, entries)

    def ended(self, view: PromptView, provider: str, ending: Ended, entries: Sequence[LedgerEntry]) -> None:
        place: _Place = (view.endpoint, provider, view.model, ending.outcome, ending.status)
        calls = self._requests.get(place)
        if calls is None:
            if len(self._requests) >= SERIES_MAX:
                place = _OTHER_CALLS
            calls = self._requests.setdefault(place, _Calls())
        calls.count += 1
        if ending.outcome == "refused":
            _add(self._refusals, (ending.error.partition(":")[0], ending.error.partition(":")[2]), 1)
        if provider:
            if calls.took is None:
                calls.took = _Histogram()
            calls.took.add(ending.latency_ms / 1000)
            if ending.ttft_ms is not None and view.stream:
                if calls.first is None:
                    calls.first = _Histogram()
                calls.first.add(ending.ttft_ms / 1000)
        for entry in entries:
            self._entry(entry)

    def spent(self, entry: LedgerEntry) -> None:
        self._entry(entry)

    def attempt_failed(self, provider: str, code: str) -> None:
        _add(self._failures, (provider, code), 1)

    def store_failed(self, code: str) -> None:
        _add(self._store, (code,), 1)

    def _entry(self, entry: LedgerEntry) -> None:
        usage = entry.usage
        who = (entry.provider, entry.model_requested, entry.model, usage.source)
        units = self._tokens.get(who)
        if units is None:
            units = self._tokens.setdefault(who if len(self._tokens) < SERIES_MAX else _OTHER_USAGE, {})
        for part in usage.parts:
            for unit, quantity in part.lines:
                if unit in units:
                    units[unit] += quantity
                else:
                    units[unit] = quantity
        for anomaly in usage.anomalies:
            _add(self._anomalies, (entry.provider, entry.model, anomaly.partition(":")[0]), 1)
        charge = entry.charge
        if charge.total is None:
            _add(self._unpriced, (entry.provider, entry.model, charge.reason), 1)
        else:
            _add(self._nusd, (entry.provider, entry.model, entry.scope.team, usage.source), charge.total)

    def render(self) -> bytes:
        """The scrape."""
        return bytes(generate_latest(self._registry))

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at scrape time."""
        labels = ("endpoint", _PROVIDER, "gen_ai_request_model", "outcome", "http_response_status_code")
        requests: dict[_Labels, float] = {
            (*place[:4], _status(place[4])): calls.count for place, calls in self._requests.items()
        }
        yield _counter("farthing_requests", "Requests by outcome", labels, requests)
        yield from self._token_counters()
        names = (_PROVIDER, "gen_ai_response_model", "team", "usage_source")
        cost = CounterMetricFamily("farthing_cost_usd", "Booked cost in USD", labels=names)
        for key, nusd in self._nusd.items():
            cost.add_metric(key, nusd / 1e9)
        yield cost
        unpriced = (_PROVIDER, "gen_ai_response_model", "reason")
        yield _counter("farthing_unpriced_entries", "Entries whose price is unknown", unpriced, self._unpriced)
        anomalies = (_PROVIDER, "gen_ai_response_model", "anomaly")
        yield _counter("farthing_usage_anomalies", "Figures of providers that contradict", anomalies, self._anomalies)
        yield _counter("farthing_refusals", "Requests refused", ("code", "budget"), self._refusals)
        yield _counter("farthing_upstream_failures", "Failed attempts", (_PROVIDER, "code"), self._failures)
        yield _counter("farthing_store_failures", "Failed writes to the ledger", ("code",), self._store)
        operations = ("gen_ai_operation_name", _PROVIDER, "gen_ai_request_model")
        yield _histogram(
            "gen_ai_client_operation_duration_seconds", "Request duration", operations, self._merged("took")
        )
        yield _histogram(
            "gen_ai_server_time_to_first_token_seconds", "First token", operations, self._merged("first")
        )
        for name, text, keys, series in self._counters():
            yield _counter(name, text, keys, series)
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"farthing_{name}", name.replace("_", " "), value=value)

    def _token_counters(self) -> Iterable[Metric]:
        names = {
            "input": "input_tokens", "output": "output_tokens", "cache_read": "cache_read_input_tokens",
            "cache_write": "cache_write_input_tokens", "reasoning": "reasoning_output_tokens",
        }  # fmt: skip
        labels = ("gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model", "usage_source")
        for family in _TOKEN_FAMILIES:
            metric = CounterMetricFamily(
                f"gen_ai_client_inference_usage_{names[family]}", f"Billable {names[family]}", labels=labels
            )
            for who, units in self._tokens.items():
                counted = [quantity for unit, quantity in units.items() if family in _FAMILIES_OF.get(unit, ())]
                if counted:
                    metric.add_metric(who, sum(counted))
            yield metric

    def _merged(self, name: Literal["took", "first"]) -> dict[_Labels, _Histogram]:
        """How long calls took, whatever came of them."""
        found: dict[_Labels, _Histogram] = {}
        for place, calls in self._requests.items():
            one: _Histogram | None = getattr(calls, name)
            if one is not None:
                found.setdefault(place[:3], _Histogram()).merge(one)
        return found


def _status(status: int) -> str:
    return "other" if status == _OTHER_STATUS else str(status)


def _add(series: dict[_Labels, int], labels: _Labels, value: int) -> None:
    if labels in series:
        series[labels] += value
    elif len(series) < SERIES_MAX:
        series[labels] = value
    else:
        other = tuple("other" for _ in labels)
        series[other] = series.get(other, 0) + value


def _counter(name: str, text: str, labels: tuple[str, ...], series: Mapping[_Labels, float]) -> Metric:
    metric = CounterMetricFamily(name, text, labels=labels)
    for key, value in series.items():
        metric.add_metric(key, value)
    return metric


def _histogram(name: str, text: str, labels: tuple[str, ...], series: dict[_Labels, _Histogram]) -> Metric:
    metric = HistogramMetricFamily(name, text, labels=labels)
    for key, histogram in series.items():
        count = 0
        buckets: list[tuple[str, float]] = []
        for bound, size in zip((*_SECONDS, "+Inf"), histogram.buckets, strict=True):
            count += size
            buckets.append((str(bound), count))
        metric.add_metric(key, buckets, histogram.total)
    return metric
