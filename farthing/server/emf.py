"""CloudWatch's embedded metric format: one line of JSON a flush, which CloudWatch Logs turns into metrics.

Sums of the figures that the gateway counts anyway, by model and by team; made when asked for, never on a call.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from prometheus_client.core import Metric

NAMESPACE: Final = "Farthing"
_MEASURES: Final[Mapping[str, tuple[str, str, str]]] = {
    "farthing_cost_usd": ("LLMCost", "None", "gen_ai_response_model"),
    "gen_ai_client_inference_usage_input_tokens": ("InputTokens", "Count", "gen_ai_response_model"),
    "gen_ai_client_inference_usage_output_tokens": ("OutputTokens", "Count", "gen_ai_response_model"),
    "gen_ai_client_inference_usage_cache_read_input_tokens": ("CachedTokens", "Count", "gen_ai_response_model"),
    "farthing_requests": ("Requests", "Count", "gen_ai_request_model"),
    "farthing_refusals": ("Refusals", "Count", "code"),
}
"""Counter → (CloudWatch's name, unit, the label by which it is split)."""
_DIMENSIONS: Final = {"gen_ai_response_model": "Model", "gen_ai_request_model": "Model", "code": "Code"}


class Emf:
    """Differences between flushes, as CloudWatch sums what it is sent."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], float] = {}

    def lines(self, metrics: Iterable[Metric], *, at_ms: int) -> list[bytes]:
        """One line for each value of a dimension that counted anything since the last flush."""
        grown: dict[tuple[str, str], dict[str, float]] = {}
        units: dict[str, str] = {}
        for metric in metrics:
            measure = _MEASURES.get(metric.name)
            if measure is None:
                continue
            name, units[measure[0]], label = measure
            del name
            for value, total in _sums(metric, label).items():
                more = total - self._before.get((metric.name, value), 0.0)
                self._before[metric.name, value] = total
                if more:
                    grown.setdefault((_DIMENSIONS[label], value), {})[measure[0]] = more
        return [_line(dimension, value, found, units, at_ms) for (dimension, value), found in sorted(grown.items())]


def _sums(metric: Metric, label: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for sample in metric.samples:
        value = sample.labels.get(label, "")
        sums[value] = sums.get(value, 0.0) + sample.value
    return sums


def _line(dimension: str, value: str, found: Mapping[str, float], units: Mapping[str, str], at_ms: int) -> bytes:
    measures = [{"Name": name, "Unit": units[name]} for name in sorted(found)]
    head = {
        "Timestamp": at_ms,
        "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [[dimension]], "Metrics": measures}],
    }
    return msgspec.json.encode({"_aws": head, dimension: value or "(none)", **found})
