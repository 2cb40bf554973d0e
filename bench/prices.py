"""How exact prices are, and what a price costs in CPU: worked usages through Farthing and through price libraries.

Every library gets the raw usage, the model, the time and whatever context it can take. A row is right when it is
right to the nano-dollar. Libraries that are not installed here are left out. Usage:

    python bench/prices.py [--file VECTORS.json] [--all] [--calls N]
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from farthing.adapters.price_feeds import BookPrices, load_default_book
from farthing.core.types import Bounds, Target, Usage, UsagePart
from farthing.library import verify
from farthing.wire.usage import reader_for

VECTORS = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "pricing_vectors.json"
NANO = Decimal(10) ** 9
Vector = dict[str, Any]
Priced = Callable[[Vector], Decimal | None]


def genai_prices() -> Priced:
    """The base list by itself, with its own usage extraction and the context it understands."""
    from genai_prices import data

    providers = {provider.id: provider for provider in data.providers}

    def price(vector: Vector) -> Decimal | None:
        provider = providers[vector["provider"]]
        answer = {"model": vector["model"], vector["usage_root"]: vector["usage"]}
        said = {key: str(value) for key, value in vector["context"].items() if key in ("processing", "service_tier")}
        try:
            try:
                _, usage = provider.extract_usage(answer, api_flavor=vector["api_flavor"])
            except ValueError:
                usage = by_hand(vector)
            model = provider.find_model(vector["model"], all_providers=data.providers)
            if model is None:
                return None
            at = datetime.fromisoformat(vector["timestamp"])
            return model.calc_price(
                usage, provider, genai_request_timestamp=at, price_context=said or None
            ).total_price
        except (ValueError, LookupError):
            return None

    return price


def summed(vector: Vector) -> dict[str, int]:
    """Inclusive token counts, as libraries that want them filled by hand take them."""
    usage = reader_for(vector["provider"], vector["api_flavor"]).from_usage(vector["usage"], context={})
    lines = [line for part in usage.parts for line in part.lines]

    def total(beginning: str, ending: str = "") -> int:
        return sum(q for unit, q in lines if unit.startswith(beginning) and unit.endswith(ending))

    return {
        "input": total("input"),
        "read": total("input", "_read"),
        "write": total("input_cache_write"),
        "audio": total("input_audio"),
        "audio_read": total("input_audio", "_read"),
        "output": total("output"),
        "audio_out": total("output_audio"),
        "reasoning": total("output_reasoning"),
    }


def by_hand(vector: Vector) -> Any:
    """The list library's usage record where it has no extraction for an answer."""
    from genai_prices import Usage as Counts

    counts = summed(vector)
    audio = {
        "input_audio_tokens": counts["audio"],
        "cache_audio_read_tokens": counts["audio_read"],
        "output_audio_tokens": counts["audio_out"],
    }
    return Counts(
        input_tokens=counts["input"],
        cache_read_tokens=counts["read"],
        output_tokens=counts["output"],
        **{name: count for name, count in audio.items() if count},
    )


def litellm() -> Priced:
    """LiteLLM's completion_cost on its own usage record, filled as its provider adapters do. It knows no dates."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # the list it ships with; nothing is fetched
    import litellm as library

    names = {"google": "gemini", "aws": "bedrock", "x-ai": "xai", "together": "together_ai"}

    def price(vector: Vector) -> Decimal | None:
        counts = summed(vector)
        usage = library.Usage(
            prompt_tokens=counts["input"],
            completion_tokens=counts["output"],
            total_tokens=counts["input"] + counts["output"],
            prompt_tokens_details={
                "cached_tokens": counts["read"],
                "cache_creation_tokens": counts["write"],
                "audio_tokens": counts["audio"],
            },
            completion_tokens_details={
                "reasoning_tokens": counts["reasoning"],
                "audio_tokens": counts["audio_out"],
            },
            cache_read_input_tokens=counts["read"],
            cache_creation_input_tokens=counts["write"],
        )
        provider = names.get(vector["provider"], vector["provider"])
        if vector["api_flavor"] == "anthropic":
            provider = "vertex_ai"
        tier = "batch" if vector["context"].get("processing") == "batch" else vector["context"].get("service_tier")
        try:
            answer = library.ModelResponse(model=vector["model"], usage=usage)
            return Decimal(str(library.completion_cost(answer, custom_llm_provider=provider, service_tier=tier)))
        except Exception:  # noqa: BLE001 - a contender may raise anything; every failure counts as no answer
            return None

    return price


def tokencost() -> Priced:
    """tokencost: prompt and completion tokens times a flat rate."""
    import tokencost as library

    def price(vector: Vector) -> Decimal | None:
        usage = vector["usage"]
        prompt = usage.get("prompt_tokens", usage.get("input_tokens", usage.get("promptTokenCount", 0)))
        answer = usage.get("completion_tokens", usage.get("output_tokens", usage.get("candidatesTokenCount", 0)))
        try:
            return library.calculate_cost_by_tokens(prompt, vector["model"], "input") + (
                library.calculate_cost_by_tokens(answer, vector["model"], "output")
            )
        except Exception:  # noqa: BLE001 - a contender may raise anything; every failure counts as no answer
            return None

    return price


def contenders() -> dict[str, Priced]:
    """The libraries that can be imported here."""
    found: dict[str, Priced] = {}
    for name, make in (("genai-prices", genai_prices), ("litellm", litellm), ("tokencost", tokencost)):
        try:
            found[name] = make()
        except ImportError:
            print(f"{name} is not installed here and left out.")
    return found


def accuracy(vectors: list[Vector], everything: bool) -> None:
    """One line per worked usage on which somebody is wrong, and the score."""
    book = load_default_book()
    ours = verify(book, vectors)
    answers = {"farthing": [None if row.got is None else Decimal(row.got) for row in ours]}
    for name, price in contenders().items():
        prices = [price(vector) for vector in vectors]
        answers[name] = [None if usd is None else usd * NANO for usd in prices]
    expected = [Decimal(row.expected) for row in ours]
    right = {
        name: [near(got, want) for got, want in zip(got_all, expected, strict=True)]
        for name, got_all in answers.items()
    }
    width = max(len(vector["id"]) for vector in vectors)
    print(f"\n{'vector':<{width}} {'expected $':>14} " + " ".join(f"{name:>16}" for name in answers))
    for number, vector in enumerate(vectors):
        if everything or not all(marks[number] for marks in right.values()):
            cells = " ".join(f"{shown(got[number], right[name][number]):>16}" for name, got in answers.items())
            print(f"{vector['id']:<{width}} {expected[number] / NANO:>14.9f} {cells}")
    print(
        f"{'exact to the nano-dollar':<{width}} {len(vectors):>14} "
        + " ".join(f"{sum(marks):>16}" for marks in right.values())
    )


def near(got: Decimal | None, want: Decimal) -> bool:
    """Equal once rounded to a nano-dollar."""
    return got is not None and abs(got - want) < Decimal("0.51")


def shown(got: Decimal | None, is_right: bool) -> str:
    """A contender's answer: a dot where it is right."""
    if got is None:
        return "no answer"
    return "·" if is_right else f"{got / NANO:.9f}"


def speed(calls: int) -> None:
    """CPU per call, warm, the median of five rounds; and the list library on the same usage, as the yardstick."""
    started = time.process_time()
    prices = BookPrices(load_default_book())
    print(f"\nbook of {len(prices.book.data.rows)} rows built in {(time.process_time() - started) * 1000:.0f} CPU-ms")
    target = Target(provider="openai", price_as="openai", model="gpt-5")
    part = UsagePart(
        lines=(("input", 904), ("input_cache_read", 4096), ("output", 500), ("output_reasoning", 1500)),
        tier_basis=5000,
    )
    usage = Usage(parts=(part,), source="reported", model="gpt-5-2025-08-07", service_tier="default")
    bounds = Bounds(input_tokens=5000, output_tokens=4000, service_tier="default")
    at = 1_795_014_000_000
    rounds = {
        "charge, 4 lines": lambda: prices.charge(usage, target, at_ms=at),
        "ceiling": lambda: prices.ceiling(bounds, target, at_ms=at),
        "genai-prices calc_price, same usage": yardstick(),
    }
    for name, call in rounds.items():
        print(f"{name:<38} {cpu_us(call, calls):8.2f} CPU-µs")


def yardstick() -> Callable[[], object]:
    """The same usage through the list library."""
    from genai_prices import Usage as Counts
    from genai_prices import data

    provider = next(provider for provider in data.providers if provider.id == "openai")
    model = provider.find_model("gpt-5-2025-08-07", all_providers=data.providers)
    assert model is not None
    counts = Counts(input_tokens=5000, cache_read_tokens=4096, output_tokens=2000)
    when = datetime.fromisoformat("2026-11-18T15:00:00+00:00")
    return lambda: model.calc_price(counts, provider, genai_request_timestamp=when)


def cpu_us(call: Callable[[], object], calls: int) -> float:
    """Median CPU-µs per call over five rounds."""
    call()
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(calls):
            call()
        rounds.append((time.process_time() - started) / calls * 1e6)
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=pathlib.Path, default=VECTORS)
    parser.add_argument("--all", action="store_true", help="show rows on which everybody is right, too")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--peers", default="", help="a folder in which other price libraries are installed")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(str(pathlib.Path(options.peers).resolve()))  # behind our own: ours is what is measured
    warnings.simplefilter("ignore")
    accuracy(json.loads(options.file.read_text("utf-8")), options.all)
    speed(options.calls)


if __name__ == "__main__":
    main()
