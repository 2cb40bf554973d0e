"""The invoice, recomputed here from the price file with exact fractions and compared with another price list."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import genai_prices
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.sim.catalog import load_catalog
from farthing.sim.invoice import InvoiceLine, Tokens, rate, served_tier
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings

# Plain HTTP on loopback: loading CA certificates for each call would only cost time.
post = partial(httpx.post, verify=False)
fetch = partial(httpx.get, verify=False)

PRICES = json.loads(resources.files("farthing.sim").joinpath("prices.json").read_bytes())
ROWS = {row["id"]: row for row in PRICES["models"]}
CLASSES = ("input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "output", "reasoning")
OPENAI = {"authorization": "Bearer sk-test"}
ANTHROPIC = {"x-api-key": "sk-ant-test", "anthropic-version": "2023-06-01"}
CHECKED = datetime(2026, 11, 21, tzinfo=UTC)


def half_even(value: Fraction) -> int:
    return round(value)  # Fraction rounds half to even


def recomputed(row: dict[str, Any], tier: str, tokens: dict[str, int], geo: str) -> int:
    """The bill in nano-USD, straight from the decimal strings."""
    prompt = sum(tokens[name] for name in CLASSES[:5])
    long = bool(row.get("long_from")) and prompt > row["long_from"]
    prices = row["prices"][f"long_{tier}" if long else tier]
    factor = Fraction(row.get("geo_us_bp", 10_000), 10_000) if geo == "us" else 1
    total = 0
    for name in CLASSES:
        if tokens[name]:
            usd = Fraction(prices["output" if name == "reasoning" else name]) * tokens[name] / 1_000_000
            total += half_even(usd * factor * 1_000_000_000)
    return total


def as_dict(tokens: Tokens) -> dict[str, int]:
    return {name: getattr(tokens, name) for name in CLASSES}


def invoice_lines(url: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fetch(f"{url}/sim/invoice").text.splitlines()]


@pytest.fixture(scope="module")
def sim() -> Iterator[SimServer]:
    with SimServer(SimSettings()) as server:
        yield server


@pytest.mark.parametrize("name", ROWS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_model_and_tier_is_rated_as_its_published_row_says(name: str, data: st.DataObject) -> None:
    row, card = ROWS[name], next(card for card in load_catalog().cards if card.id == name)
    tier = data.draw(st.sampled_from(sorted({key.removeprefix("long_") for key in row["prices"]})))
    priced = set(row["prices"]["default"]) | ({"reasoning"} if "output" in row["prices"]["default"] else set())
    counts = {unit: data.draw(st.integers(0, 400_000)) if unit in priced else 0 for unit in CLASSES}
    geo = data.draw(st.sampled_from(("", "us", "global")))
    tokens = Tokens(**counts)
    tier = served_tier(card, tier, tokens.prompt)
    charges = rate(card, tier, tokens, geo)
    assert sum(charge.amount_nusd for charge in charges) == recomputed(row, tier, counts, geo)
    assert {charge.unit: charge.quantity for charge in charges} == {key: n for key, n in counts.items() if n}


@pytest.mark.parametrize(
    ("quantity", "nano"), [(1, 2), (2, 5), (3, 8), (5, 12), (7, 18)], ids=lambda value: str(value)
)
def test_half_a_nano_dollar_goes_to_the_even_neighbour(quantity: int, nano: int) -> None:
    card = load_catalog().find("openai", "gpt-5-nano")
    charges = rate(card, "flex", Tokens(cache_read=quantity))  # 2.5 nano-dollars a token
    assert [charge.amount_nusd for charge in charges] == [nano]


def test_the_long_context_tier_starts_after_its_threshold_and_reprices_the_whole_call() -> None:
    card = load_catalog().find("openai", "gpt-5.4")
    at = rate(card, "default", Tokens(input=272_000, output=1_000))
    above = rate(card, "default", Tokens(input=72_001, cache_read=200_000, output=1_000))
    assert [charge.price_pusd for charge in at] == [2_500_000, 15_000_000]
    assert [charge.price_pusd for charge in above] == [5_000_000, 500_000, 22_500_000]
    assert served_tier(card, "priority", 272_000) == "priority"
    assert served_tier(card, "priority", 272_001) == "default"


@pytest.mark.parametrize("name", ROWS)
def test_the_hand_typed_prices_agree_with_an_independent_price_list(name: str) -> None:
    card = next(card for card in load_catalog().cards if card.id == name)
    fields = {
        "input": "input_tokens",
        "cache_read": "cache_read_tokens",
        "cache_write": "cache_write_tokens",
        "cache_write_5m": "cache_write_tokens",
        "cache_write_1h": "cache_write_1h_tokens",
        "output": "output_tokens",
    }
    for column, prices in card.prices.items():
        if card.kind == "embedding" and column == "batch":
            continue  # the other list has no batch row for embeddings
        tier = column.removeprefix("long_")
        context: dict[str, str] = {}
        if tier == "batch":
            context["processing"] = "batch"
        elif tier != "default":
            context["service_tier"] = tier
        for unit, price in prices.items():
            quantity = 1_000
            base = card.long_from + 1_000 if column.startswith("long_") else 0
            counted = _usage(fields, unit, base, quantity)
            before = _usage(fields, unit, base, 0)
            cost = [
                genai_prices.calc_price(
                    usage,
                    card.served,
                    provider_id=card.provider,
                    genai_request_timestamp=CHECKED,
                    price_context=context,
                ).total_price
                for usage in (counted, before)
            ]
            assert cost[0] - cost[1] == Fraction(price * quantity, 10**12), (name, column, unit)


def _usage(fields: dict[str, str], unit: str, base: int, quantity: int) -> genai_prices.Usage:
    counts = {field: 0 for field in fields.values()}
    counts["input_tokens"] = base
    counts[fields[unit]] += quantity
    if unit == "cache_write_1h":
        counts["cache_write_tokens"] += quantity
    if unit not in ("input", "output"):
        counts["input_tokens"] += quantity  # that list's input includes cached input
    return genai_prices.Usage(**{key: value for key, value in counts.items() if value or key == "input_tokens"})


WORDS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=WORDS,
    model=st.sampled_from(
        [row["id"] for row in PRICES["models"] if row["provider"] == "openai" and "kind" not in row]
    ),
    cap=st.one_of(st.none(), st.integers(1, 400)),
    choices=st.integers(1, 3),
    tier=st.sampled_from(["auto", "flex", "priority"]),
    responses=st.booleans(),
)
def test_openai_usage_is_the_sum_of_the_invoice_lines_classes(
    sim: SimServer, text: str, model: str, cap: int | None, choices: int, tier: str, responses: bool
) -> None:
    body: dict[str, Any] = {"model": model, "service_tier": tier}
    if responses:
        body |= {"input": text, "max_output_tokens": cap}
    else:
        body |= {"messages": [{"role": "user", "content": text}], "max_completion_tokens": cap, "n": choices}
    path = "responses" if responses else "chat/completions"
    answer = post(f"{sim.url}/v1/{path}", json=body, headers=OPENAI).json()
    line = sim.account.invoice.lines[-1]
    usage = answer["usage"]
    details = usage["output_tokens_details" if responses else "completion_tokens_details"]
    assert line.id == answer["id"]
    assert line.tier == answer["service_tier"]
    assert line.model == answer["model"]
    assert line.tokens.prompt == usage["input_tokens" if responses else "prompt_tokens"]
    assert line.tokens.generated == usage["output_tokens" if responses else "completion_tokens"]
    assert line.tokens.reasoning == details["reasoning_tokens"]
    assert sum(as_dict(line.tokens).values()) == usage["total_tokens"]
    assert line.amount_nusd == recomputed(ROWS[model], line.tier, as_dict(line.tokens), "")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=WORDS,
    repeat=st.sampled_from([1, 2_000]),
    ttl=st.sampled_from(["5m", "1h", ""]),
    model=st.sampled_from([row["id"] for row in PRICES["models"] if row["provider"] == "anthropic"]),
    cap=st.integers(1, 400),
    stream=st.booleans(),
)
def test_anthropic_usage_is_the_sum_of_the_invoice_lines_classes(
    sim: SimServer, text: str, repeat: int, ttl: str, model: str, cap: int, stream: bool
) -> None:
    repeat = min(repeat, 120_000 // len(f"{text} ".encode()))  # a token is a byte at least: within every window
    block: dict[str, Any] = {"type": "text", "text": f"{text} " * repeat}
    if ttl:
        block["cache_control"] = {"type": "ephemeral", "ttl": ttl}
    geo = "us" if "geo_us_bp" in ROWS[model] else None
    body = {"model": model, "max_tokens": cap, "messages": [{"role": "user", "content": [block]}], "stream": stream}
    answer = post(f"{sim.url}/v1/messages", json=body | {"inference_geo": geo}, headers=ANTHROPIC)
    line = sim.account.invoice.lines[-1]
    if stream:
        events = [json.loads(row[6:]) for row in answer.text.splitlines() if row.startswith("data: ")]
        usage = events[0]["message"]["usage"] | events[-2]["usage"]
        assert line.id == events[0]["message"]["id"]
    else:
        usage = answer.json()["usage"]
        assert line.id == answer.json()["id"]
    assert line.tokens.input == usage["input_tokens"]
    assert line.tokens.cache_read == usage["cache_read_input_tokens"]
    assert line.tokens.cache_write_5m == usage["cache_creation"]["ephemeral_5m_input_tokens"]
    assert line.tokens.cache_write_1h == usage["cache_creation"]["ephemeral_1h_input_tokens"]
    assert line.tokens.cache_write_5m + line.tokens.cache_write_1h == usage["cache_creation_input_tokens"]
    assert line.tokens.generated == usage["output_tokens"]
    assert line.amount_nusd == recomputed(ROWS[model], "default", as_dict(line.tokens), line.geo)


def test_embeddings_and_completions_are_billed_by_their_own_rows(sim: SimServer) -> None:
    made = post(
        f"{sim.url}/v1/embeddings", json={"model": "text-embedding-3-small", "input": ["a b", "c"]}, headers=OPENAI
    )
    line = sim.account.invoice.lines[-1]
    assert line.id == made.headers["x-request-id"]
    assert line.amount_nusd == made.json()["usage"]["prompt_tokens"] * 20
    body = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time", "max_tokens": 9}
    usage = post(f"{sim.url}/v1/completions", json=body, headers=OPENAI).json()["usage"]
    line = sim.account.invoice.lines[-1]
    assert line.amount_nusd == usage["prompt_tokens"] * 1_500 + usage["completion_tokens"] * 2_000


def test_the_invoice_endpoint_lists_filters_and_totals() -> None:
    now = [1_000_000]
    with SimServer(SimSettings(now_ms=lambda: now[0])) as sim:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
        for at in (1_000_000, 2_000_000, 3_000_000):
            now[0] = at
            post(f"{sim.url}/v1/chat/completions", json=body, headers=OPENAI)
        *lines, total = invoice_lines(sim.url)
        assert [line["at"] for line in lines] == [1_000_000, 2_000_000, 3_000_000]
        assert total["total"] == {"lines": 3, "amount_nusd": sum(line["amount_nusd"] for line in lines)}
        since = fetch(f"{sim.url}/sim/invoice?since=2000000&until=3000000").text.splitlines()
        assert len(since) == 2
        state = fetch(f"{sim.url}/sim/state").json()
        assert state["billed"] == 3
        assert state["amount_nusd"] == total["total"]["amount_nusd"]
        assert post(f"{sim.url}/sim/reset").status_code == 200
        assert invoice_lines(sim.url) == [{"total": {"lines": 0, "amount_nusd": 0}}]


def test_the_invoice_file_has_the_line_before_the_answer_ends(tmp_path: Path) -> None:
    file = tmp_path / "invoice.jsonl"
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    for _ in range(2):  # a second run appends
        with SimServer(SimSettings(invoice_file=str(file))) as sim:
            answer = post(f"{sim.url}/v1/chat/completions", json=body, headers=OPENAI).json()
            last = json.loads(file.read_text().splitlines()[-1])
            assert last["id"] == answer["id"]
            with httpx.stream(
                "POST", f"{sim.url}/v1/chat/completions", json=body | {"stream": True}, headers=OPENAI, timeout=60
            ) as stream:
                for row in stream.iter_lines():
                    if row == "data: [DONE]":
                        assert json.loads(file.read_text().splitlines()[-1])["stream"] is True
    assert len(file.read_text().splitlines()) == 4


def test_lines_never_name_a_key_in_clear(sim: SimServer) -> None:
    line: InvoiceLine = sim.account.invoice.lines[-1]
    assert len(line.key) == 16
    assert "sk-" not in fetch(f"{sim.url}/sim/invoice").text
