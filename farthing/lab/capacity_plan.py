"""What the capacity planner is asked: a model, a GPU, how it is served, for what demand, instead of which API."""

import tomllib
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Final, Literal

import msgspec

from farthing.lab.tariff import Rates

Precision = Literal["bf16", "fp8", "int8", "int4", "nvfp4"]
BYTES: Final[Mapping[str, Fraction]] = {
    "bf16": Fraction(2), "fp8": Fraction(1), "int8": Fraction(1), "int4": Fraction("0.53"),
    "nvfp4": Fraction("0.5625"),
}  # fmt: skip
"""Bytes of a weight, scales included."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of GPU with the rates it reaches."""

    memory_gb: float
    tflops: dict[str, float]
    tb_per_s: float
    link_tb_per_s: float
    rates: str = "given"
    usd_per_hour: float | None = None
    source: str = ""
    as_of: str = ""


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of a model that decide what it needs."""

    parameters: float
    active_parameters: float | None = None
    """Those that work on one token, where not all do."""
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    width: int


class Serving(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it is served, and for what kind of request."""

    weights: Precision = "bf16"
    kv: Literal["bf16", "fp8"] = "bf16"
    gpus: int = 1
    """GPUs of one replica."""
    input_tokens: float
    output_tokens: float
    concurrency: int = 64
    """Requests in flight at most, a replica."""
    prefix_hit: float = 0.0
    """Share of the input that its prefix cache already has."""
    memory_share: float = 0.9
    overhead_gb: float = 4.0
    """Of each GPU, for the engine itself."""
    requests_per_second: float | None = None
    """Measured on such a replica, at full load; then nothing is estimated."""


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of it."""

    requests_per_day: float
    peak: float = 1.0
    """The busiest hour over the mean one."""
    utilisation: float = 0.7
    """The most that a replica is planned to be busy at the peak."""
    replicas_min: int = 1
    hours_per_day: float = 24.0
    """Hours for which replicas run."""


class Spend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it is paid with. ``None`` for the hour: the GPU's list price."""

    usd_per_gpu_hour: float | None = None
    rework: float = 0.0
    """Share of the work that is done again after a spot GPU was taken away."""
    operations_usd_per_month: float = 0.0
    """People, monitoring, upgrades: what no GPU bill shows."""


class Api(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The API that it would replace: a model of the price book, or prices in USD per million tokens."""

    model: str = ""
    input: float | None = None
    output: float | None = None
    cached_share: float = 0.0
    """Share of the input that the API would read from its cache."""
    cache_read: float | None = None
    batch_share: float = 0.0
    """Share of the requests that could go to its batch API: first do that."""
    batch_input: float | None = None
    """Batch prices; ``None``: the book's, or half of prices of one's own."""
    batch_output: float | None = None
    batch_cache_read: float | None = None
    """``None``: cached input costs ``batch_input`` in a batch."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. ``gpu`` and ``model`` are names or sizes of one's own."""

    name: str = ""
    model: str | Model
    gpu: str | Gpu
    serving: Serving
    demand: Demand
    spend: Spend = Spend()
    api: Api


@cache
def gpus() -> Mapping[str, Gpu]:
    """The GPUs that are known by name."""
    return msgspec.convert(_known()["gpus"], type=dict[str, Gpu])


@cache
def models() -> Mapping[str, Model]:
    """The models that are known by name."""
    return msgspec.convert(_known()["models"], type=dict[str, Model])


def priced(asked: Plan, rates_of: Callable[[str], Rates]) -> Plan:
    """The plan with the prices of the API's model, where none are given."""
    if not asked.api.model or asked.api.input is not None or asked.api.output is not None:
        return asked
    whole = rates_of(asked.api.model)
    rates = whole.at(asked.serving.input_tokens)
    # Without a batch price a batch saves nothing: nobody is known to give a discount.
    batch = whole.batch.at(asked.serving.input_tokens) if whole.batch is not None else rates
    read = rates.cache_read if asked.api.cache_read is None else asked.api.cache_read
    given = {
        "input": rates.input, "output": rates.output, "cache_read": read, "batch_input": batch.input,
        "batch_output": batch.output, "batch_cache_read": read if whole.batch is None else batch.cache_read,
    }  # fmt: skip
    own = {name: getattr(asked.api, name) for name in given if getattr(asked.api, name) is not None}
    api = msgspec.structs.replace(asked.api, **{**given, **own})
    return msgspec.structs.replace(asked, api=api)


def problems(asked: Plan) -> list[str]:
    """What is out of bounds in a plan, all of it."""
    serving, demand, spend, api = asked.serving, asked.demand, asked.spend, asked.api
    positive = {
        "serving.gpus": serving.gpus, "serving.input_tokens": serving.input_tokens,
        "serving.output_tokens": serving.output_tokens, "serving.concurrency": serving.concurrency,
        "serving.memory_share": serving.memory_share, "demand.requests_per_day": demand.requests_per_day,
        "demand.utilisation": demand.utilisation, "demand.replicas_min": demand.replicas_min,
        "demand.hours_per_day": demand.hours_per_day,
    }  # fmt: skip
    if serving.requests_per_second is not None:
        positive["serving.requests_per_second"] = serving.requests_per_second
    if isinstance(asked.model, Model):
        sizes = msgspec.structs.asdict(asked.model).items()
        positive |= {f"model.{name}": value for name, value in sizes if value is not None}
    if isinstance(asked.gpu, Gpu):
        positive |= {f"gpu.{name}": getattr(asked.gpu, name) for name in ("memory_gb", "tb_per_s", "link_tb_per_s")}
        positive |= {f"gpu.tflops.{name}": value for name, value in asked.gpu.tflops.items()}
        positive |= {"gpu.tflops.bf16": asked.gpu.tflops.get("bf16", 0)}
    shares = {
        "serving.prefix_hit": serving.prefix_hit, "serving.memory_share": serving.memory_share,
        "demand.utilisation": demand.utilisation, "api.cached_share": api.cached_share,
        "api.batch_share": api.batch_share,
    }  # fmt: skip
    amounts = {
        "spend.usd_per_gpu_hour": spend.usd_per_gpu_hour or 0,
        "spend.operations_usd_per_month": spend.operations_usd_per_month,
        "serving.overhead_gb": serving.overhead_gb, "api.input": api.input or 0, "api.output": api.output or 0,
        "api.cache_read": api.cache_read or 0, "api.batch_input": api.batch_input or 0,
        "api.batch_output": api.batch_output or 0, "api.batch_cache_read": api.batch_cache_read or 0,
    }  # fmt: skip
    found = [f"{name}: more than 0" for name, value in positive.items() if not 0 < value < 1e18]
    found += [f"{name}: 0 to 1" for name, value in shares.items() if not 0 <= value <= 1]
    found += [f"{name}: 0 or more" for name, value in amounts.items() if not 0 <= value < 1e12]
    if not 0 <= spend.rework < 1:
        found.append("spend.rework: 0 to less than 1")
    if demand.peak < 1:
        found.append("demand.peak: 1 or more, the busiest hour over the mean one")
    if demand.hours_per_day > 24:
        found.append("demand.hours_per_day: at most 24")
    if not (api.input or 0) + (api.output or 0):
        found.append("api: give input and output in USD per million tokens, or a model of the price book")
    return found


def _known() -> dict[str, object]:
    text = resources.files("farthing.lab").joinpath("capacity.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
