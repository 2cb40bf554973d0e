"""What decisions read from a request's text: noted once, so that a replay without the text decides the same."""

import msgspec

from farthing.core.encodings import exact_encoding
from farthing.core.types import NO_TEXT, Bounds, Request, Target
from farthing.engine.prompt_strings import billed_strings
from farthing.ports.tokens import Tokenizer
from farthing.wire.turns import turns_of

_BYTES_PER_TOKEN = 4


def counted_bound(tokens: Tokenizer, request: Request, target: Target, bounds: Bounds) -> int:
    """The most tokens that the really counted prompt can have; that of ``bounds`` where it cannot be counted."""
    name = f"bound:{target.provider}/{target.model}"
    known = request.readings.get(name)
    if known is not None:
        return int(known)
    if request.body is NO_TEXT:
        return min(bounds.input_tokens, int(request.readings.get(alike(target.model), bounds.input_tokens)))
    try:
        billed = billed_strings(request.body)
    except (msgspec.DecodeError, RecursionError):  # such as a number no float holds: the provider may take it
        return bounds.input_tokens
    if billed is None:
        return bounds.input_tokens
    strings, more = billed
    counted = tokens.count("\n".join(strings).encode("utf-8", "replace"), model=target.model)
    size = counted.bound + more + request.view.images * _image_tokens(target.model)
    request.readings[name] = size
    return size


def alike(model: str) -> str:
    """Names the reading of how many tokens a prompt has at most for models of one tokenizer: where a log tells it."""
    return f"bound_by:{exact_encoding(model)}"


def likely_prompt(tokens: Tokenizer, request: Request, target: Target) -> int:
    """The tokens that the prompt likely has."""
    name = f"likely:{target.provider}/{target.model}"
    known = request.readings.get(name)
    if known is not None:
        return int(known)
    if request.body is NO_TEXT:
        return -(-request.view.body_bytes // _BYTES_PER_TOKEN)
    size = tokens.count(request.body, model=target.model).tokens
    request.readings[name] = size
    return size


def turns(request: Request) -> tuple[int, int]:
    """(tool calls whose results this call brings, the model's turns since a human last spoke)."""
    readings = request.readings
    known = readings.get("tool_calls")
    if known is not None:
        return int(known), int(readings["without_human"])
    found = turns_of(request.body)
    readings["tool_calls"], readings["without_human"] = found.tool_calls, found.without_human
    return found.tool_calls, found.without_human


def _image_tokens(model: str) -> int:
    """An upper bound per image: small OpenAI models bill images at many times the tokens of large ones."""
    return 40_000 if "mini" in model or "nano" in model else 6_000


def aside(request: Request, number: int) -> dict[str, int | str]:
    """What was read of the short question that a lever asks with the request's try of this number."""
    begins = f"{number}/"
    return {name[len(begins) :]: value for name, value in request.readings.items() if name.startswith(begins)}


def noted(request: Request, number: int, readings: dict[str, int | str]) -> None:
    """Keeps the readings of such a question with those of the request."""
    request.readings.update({f"{number}/{name}": value for name, value in readings.items()})
