"""The dashboard names metrics that a gateway gives, and CloudWatch gets what was counted, once."""

import json
import re
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from farthing.server.emf import Emf
from farthing.server.metrics import Metrics
from farthing.testing.records import an_entry, an_exchange

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def counted() -> Metrics:
    metrics = Metrics(gauges=lambda: {"settlements_waiting": 0})
    metrics.exchange(an_exchange("r"), (an_entry("a", 2_500_000_000), an_entry("b", None)))
    return metrics


def test_the_dashboard_asks_for_metrics_and_labels_that_exist():
    families = {family.name: family for family in text_string_to_metric_families(counted().render().decode())}
    known = {f"{name}{suffix}" for name in families for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    dashboard = json.loads((GUIDES / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    plain = [re.sub(r"by \([^)]+\)", "", expr) for expr in asked]
    names = {name for expr in plain for name in re.findall(r"\b(?:farthing|gen_ai)_\w+(?=[\[)])", expr)}
    assert len(names) >= 12
    assert names <= known
    labels = {"le", *(label for one in families.values() for sample in one.samples for label in sample.labels)}
    wanted = {label for expr in asked for found in re.findall(r"by \(([^)]+)\)", expr) for label in found.split(", ")}
    declared = {"code", "budget", "anomaly", "gen_ai_provider_name", "gen_ai_request_model"}
    assert wanted <= labels | declared


def test_panels_do_not_overlap():
    places = set()
    for panel in json.loads((GUIDES / "grafana.json").read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        places |= cells


def test_cloudwatch_gets_each_difference_once():
    metrics, emf = counted(), Emf()
    (line, *more) = emf.lines(metrics.collect(), at_ms=1_795_000_000_000)
    said = msgspec.json.decode(line)
    assert not more
    assert said["Model"] == "gpt-4o"
    assert (said["LLMCost"], said["InputTokens"], said["OutputTokens"]) == (2.5, 28, 6)
    directive = said["_aws"]["CloudWatchMetrics"][0]
    assert directive["Dimensions"] == [["Model"]]
    assert {one["Name"] for one in directive["Metrics"]} <= set(said)
    assert emf.lines(metrics.collect(), at_ms=1_795_000_060_000) == []
    metrics.spent(an_entry("c", 500_000_000))
    assert msgspec.json.decode(emf.lines(metrics.collect(), at_ms=1)[0])["LLMCost"] == 0.5
