"""What serving a model on GPUs of one's own costs beside an API: memory, rate, replicas, dollars, break-even.

Every figure is a line with its formula (:mod:`farthing.lab.formula`), so what is computed is what is printed. A rate
that was measured on the deployment itself is used as it is; without one the rate is estimated by a roofline over
rates that matrix products reach, with three constants fitted on published measurements (docs/guides/capacity.md says
how well). Dense models only: experts that are loaded as the batch grows are not modelled, give a measured rate.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import msgspec

from farthing.lab.capacity_plan import BYTES, Api, Gpu, Model, Plan, gpus, models, problems
from farthing.lab.capacity_steps import API, BATCH, COST, DEMAND, FLOOR, MEASURED, MEMORY, ROOFLINE, SPEND, Step
from farthing.lab.formula import Formula, exact, plain

_ARITHMETIC: Final = {"fp8": "fp8", "nvfp4": "nvfp4"}
"""Precisions whose products run faster where the GPU can; weights of all others are multiplied as bf16."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One figure that explains itself."""

    name: str
    meaning: str
    unit: str
    value: Fraction
    formula: str
    shown: str
    """The formula with its numbers, and what comes out."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A plan worked out."""

    lines: tuple[Line, ...]
    measured: bool
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Fraction:
        """A figure by its name. Raises ``KeyError``."""
        return {line.name: line.value for line in self.lines}[name]

    @property
    def cheaper(self) -> bool:
        """Serving it oneself costs less than the API at this demand."""
        return self["self_usd_per_month"] < self["api_usd_per_month"]


def plan(asked: Plan) -> Outcome:
    """Works it out. Raises ``ValueError`` that names everything wrong with it."""
    gpu, model = _found(asked)
    numbers, notes = _numbers(asked, gpu, model)
    lines: list[Line] = []
    _work(MEMORY, numbers, lines)
    if numbers["kv_tokens"] < numbers["input"] + numbers["output"]:
        wanted = "not one request" if numbers["kv_tokens"] > 0 else "not even the weights"
        raise ValueError(
            f"{_name(asked.model, 'the model')} does not fit: {asked.serving.gpus} GPU of "
            f"{plain(numbers['memory_gb'])} GB hold {wanted}; take more GPUs, a smaller precision or shorter requests"
        )
    measured = asked.serving.requests_per_second is not None
    api = (*BATCH, *API[1:]) if asked.api.batch_share else API
    for steps in (MEASURED if measured else ROOFLINE, FLOOR, DEMAND, SPEND, COST, api):
        _work(steps, numbers, lines)
    return Outcome(lines=tuple(lines), measured=measured, notes=(*notes, *_warnings(asked, numbers, measured)))


def _work(steps: tuple[Step, ...], numbers: dict[str, Fraction], lines: list[Line]) -> None:
    for step in steps:
        formula = Formula(step.formula)
        # Fourteen digits: exact fractions of estimates would grow without meaning more.
        value = Fraction(f"{float(formula.value(numbers)):.14g}")
        numbers[step.name] = value
        lines.append(
            Line(
                name=step.name,
                meaning=step.meaning,
                unit=step.unit,
                value=value,
                formula=step.formula,
                shown=f"{step.name} = {step.formula} = {formula.shown(numbers)} = {plain(value, 6)}",
            )
        )


def _found(asked: Plan) -> tuple[Gpu, Model]:
    found = []
    gpu = gpus().get(asked.gpu) if isinstance(asked.gpu, str) else asked.gpu
    model = models().get(asked.model) if isinstance(asked.model, str) else asked.model
    if gpu is None:
        found.append(f"gpu: '{asked.gpu}' is not known; known are {', '.join(gpus())}, or give its sizes")
    if model is None:
        found.append(f"model: '{asked.model}' is not known; known are {', '.join(models())}, or give its sizes")
    found += problems(asked)
    if gpu is not None and gpu.usd_per_hour is None and asked.spend.usd_per_gpu_hour is None:
        found.append("spend.usd_per_gpu_hour: this GPU has no list price here; give yours")
    if found or gpu is None or model is None:
        raise ValueError("; ".join(found))
    return gpu, model


def _numbers(asked: Plan, gpu: Gpu, model: Model) -> tuple[dict[str, Fraction], list[str]]:
    serving, demand, spend, api = asked.serving, asked.demand, asked.spend, asked.api
    precision = _ARITHMETIC.get(serving.weights, "bf16")
    notes = [f"Rates of the GPU: {gpu.rates}."]
    if precision not in gpu.tflops:
        notes.append(f"This GPU does not multiply in {precision}: weights take less memory and no less time.")
        precision = "bf16"
    price = spend.usd_per_gpu_hour
    if price is None:
        price = gpu.usd_per_hour
        notes.append(f"{gpu.source}, {gpu.as_of}: ${price} for a GPU-hour on demand. Give your own price.")
    if model.active_parameters is not None and serving.requests_per_second is None:
        notes.append("A model with experts: the rate is estimated from active parameters alone, so it is too high.")
    given = {
        "parameters": model.parameters, "active": model.active_parameters or model.parameters,
        "layers": model.layers, "heads": model.heads, "kv_heads": model.kv_heads, "head_size": model.head_size,
        "width": model.width, "memory_gb": gpu.memory_gb, "tflops": gpu.tflops[precision],
        "tflops_bf16": gpu.tflops["bf16"], "tb_per_s": gpu.tb_per_s, "link_tb_per_s": gpu.link_tb_per_s,
        "weight_bytes": BYTES[serving.weights], "kv_bytes": BYTES[serving.kv], "gpus": serving.gpus,
        "input": serving.input_tokens, "output": serving.output_tokens, "concurrency": serving.concurrency,
        "prefix_hit": serving.prefix_hit, "memory_share": serving.memory_share, "overhead_gb": serving.overhead_gb,
        "measured": serving.requests_per_second or 0, "requests_per_day": demand.requests_per_day,
        "peak": demand.peak, "utilisation_max": demand.utilisation, "replicas_min": demand.replicas_min,
        "hours_per_day": demand.hours_per_day, "usd_per_gpu_hour": price or 0, "rework": spend.rework,
        "operations": spend.operations_usd_per_month, "api_input": api.input or 0, "api_output": api.output or 0,
        "api_cached": api.cached_share,
        "api_read": (api.input or 0) if api.cache_read is None else api.cache_read, "api_batch": api.batch_share,
        **_batch_prices(api),
    }  # fmt: skip
    return {name: exact(value) for name, value in given.items()}, notes


def _batch_prices(api: Api) -> dict[str, float]:
    """Half of prices of one's own that come without any for batches."""
    read = (api.input or 0) if api.cache_read is None else api.cache_read
    if api.batch_input is None and api.batch_output is None and api.batch_cache_read is None:
        return {"batch_input": (api.input or 0) / 2, "batch_output": (api.output or 0) / 2, "batch_read": read / 2}
    fresh = (api.input or 0) / 2 if api.batch_input is None else api.batch_input
    return {
        "batch_input": fresh,
        "batch_output": (api.output or 0) / 2 if api.batch_output is None else api.batch_output,
        "batch_read": fresh if api.batch_cache_read is None else api.batch_cache_read,
    }


def _batch_notes(api: Api) -> list[str]:
    if not api.batch_share:
        return []
    if (api.batch_input, api.batch_output) == (api.input, api.output):
        return ["No batch price is known: the share that could go to a batch saves nothing."]
    if api.batch_input is None or api.batch_output is None:
        return ["Batch prices are taken for half of yours: give api.batch_input and api.batch_output."]
    return []


def _warnings(asked: Plan, numbers: Mapping[str, Fraction], measured: bool) -> list[str]:
    found = _batch_notes(asked.api)
    if numbers["of_bound"] > 1:
        found.append(
            f"Impossible: the rate is {plain(numbers['of_bound'], 3)} times what the GPUs' arithmetic allows at all."
        )
    if measured:
        found.append("The rate was given; the estimate was not used.")
    else:
        found.append("The rate is an estimate: half of such estimates are within 10 %, one in four is off by more "
                     "than 20 %. Measure before you buy.")  # fmt: skip
        if numbers["running"] < numbers["concurrency"]:
            found.append(
                f"Memory holds {plain(numbers['running'], 4)} requests at once, fewer than the "
                f"{asked.serving.concurrency} asked for."
            )
    if numbers["breakeven_requests_per_day"] > numbers["replica_requests_per_day"] * numbers["replicas"]:
        found.append("So many GPUs cannot serve the break-even volume: at this price they are never cheaper.")
    if not asked.spend.operations_usd_per_month:
        found.append("What people cost who run it is not counted: give operations_usd_per_month.")
    return found


def _name(value: str | Model, otherwise: str) -> str:
    return value if isinstance(value, str) else otherwise
