"""From bytes to an admitted call: key, JSON, model, directives and the fault this attempt will meet."""

import re
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from farthing.sim import aws_signature as aws
from farthing.sim.account import Account
from farthing.sim.catalog import Card
from farthing.sim.errors import ApiError, invalid
from farthing.sim.faults import Fault
from farthing.sim.http import Wire
from farthing.sim.invoice import key_hash

Vendor = Literal["openai", "anthropic", "google", "aws"]
DIRECTIVES = ("nonce", "fault", "request", "tokens", "tools", "tier", "effort", "say")
"""Each is the header ``x-sim-<name>``, or ``[sim: name=value ...]`` in the last turn's text; the header wins."""
_MARK = b"[sim:"
_DIRECTIVE = re.compile(r"\[sim:([^\]]*)\]")
_HEADERS = tuple((name, f"x-sim-{name}".encode()) for name in DIRECTIVES)


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted call."""

    vendor: Vendor
    endpoint: str
    key: str
    """The key's hash: its scope in caches and on the invoice."""
    body: dict[str, Any]
    card: Card
    requested: str
    at: int
    stream: bool
    fault: Fault | None
    directives: dict[str, str]

    def fault_is(self, kind: str) -> bool:
        """This attempt meets a fault of ``kind``."""
        return self.fault is not None and self.fault.kind == kind

    def number(self, name: str) -> int:
        """A directive that is a whole number; 0 when absent. Raises a 400 when it is something else."""
        text = self.directives.get(name, "0")
        if not text.isdigit():
            raise invalid(f"x-sim-{name} is a whole number, not {text!r}", param=f"x-sim-{name}")
        return int(text)


def _last_turn(body: dict[str, Any]) -> str:
    """The text of the newest turn: directives in older turns have had their effect already."""
    turns = body.get("messages") or body.get("input") or body.get("prompt") or ""
    last = turns[-1] if isinstance(turns, list) else turns
    content = last.get("content") if isinstance(last, dict) else last
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def directives_of(wire: Wire, raw: bytes, body: dict[str, Any]) -> dict[str, str]:
    """The call's directives; unknown names in a prompt are a 400, so that typos do not pass silently."""
    found: dict[str, str] = {}
    if _MARK in raw:
        for match in _DIRECTIVE.finditer(_last_turn(body)):
            for word in match[1].split():
                name, _, value = word.partition("=")
                if name not in DIRECTIVES:
                    raise invalid(f"unknown simulator directive {name!r}; use one of {', '.join(DIRECTIVES)}")
                found[name] = value
    for name, header in _HEADERS:
        value_bytes = wire.headers.get(header)
        if value_bytes is not None:
            found[name] = value_bytes.decode("latin-1")
    return found


def api_key(account: Account, wire: Wire, vendor: Vendor, raw: bytes = b"") -> str:
    """The caller's key; raises the vendor's 401 without an acceptable one."""
    if vendor == "aws" and wire.header(b"authorization").startswith(aws.ALGORITHM):
        return aws.key_of(wire, raw)
    named = {"anthropic": b"x-api-key", "google": b"x-goog-api-key"}.get(vendor)
    key = wire.header(named) if named else ""
    if not key:
        scheme, _, token = wire.header(b"authorization").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else ""
    if not key:
        missing = "x-api-key header is required" if vendor == "anthropic" else "You didn't provide an API key."
        raise ApiError(401, missing, kind="authentication_error")
    allowed = account.settings.keys
    if (allowed and key not in allowed) or (not allowed and key.startswith("sk-invalid")):
        wrong = "invalid x-api-key" if vendor == "anthropic" else f"Incorrect API key provided: {key[:6]}***."
        raise ApiError(401, wrong, kind="authentication_error", code="invalid_api_key")
    return key


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request body; raises a 400 on anything else."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"We could not parse the JSON body of your request: {error}") from error
    if not isinstance(body, dict):
        raise invalid("The request body must be a JSON object.")
    return body


async def admit(
    account: Account,
    wire: Wire,
    vendor: Vendor,
    endpoint: str,
    kinds: tuple[str, ...],
    *,
    model: str = "",
    stream: bool | None = None,
) -> Ticket:
    """Read and check a call; raises :class:`~farthing.sim.errors.ApiError`, status faults included.

    ``model`` and ``stream`` are given where the path says them; elsewhere the body does.
    """
    account.requests += 1
    at = account.settings.now_ms()
    raw = await wire.body()
    key = api_key(account, wire, vendor, raw)
    if vendor == "anthropic" and not wire.header(b"anthropic-version"):
        raise invalid("anthropic-version: header is required")
    body = decode(raw)
    said = model or body.get("model")
    if not isinstance(said, str) or not said:
        raise invalid("you must provide a model parameter", param="model")
    model = said
    card = account.catalog.find(vendor, model)
    if card is None or card.kind not in kinds:
        raise _unknown_model(vendor, model, card)
    directives = directives_of(wire, raw, body)
    stream = body.get("stream") is True if stream is None else stream
    request = directives.get("request") or blake2b(raw, digest_size=12).hexdigest()
    wanted = directives.get("fault", "")
    fault = account.faults.pick(wanted, request, model=model, endpoint=endpoint, stream=stream)
    if fault is not None and fault.status:
        raise fault.refusal()
    return Ticket(
        vendor=vendor,
        endpoint=endpoint,
        key=key_hash(key),
        body=body,
        card=card,
        requested=model,
        at=at,
        stream=stream,
        fault=fault,
        directives=directives,
    )


def _unknown_model(vendor: Vendor, model: str, card: Card | None) -> ApiError:
    if vendor == "anthropic":
        return ApiError(404, f"model: {model}", kind="not_found_error")
    if card is not None:
        message = f"The model `{model}` is not supported by this endpoint."
        return ApiError(404, message, param="model", code="model_not_found")
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, param=None, code="model_not_found")


def positive(body: dict[str, Any], name: str) -> int | None:
    """An optional whole number of at least 1; raises a 400 otherwise."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise invalid(
            f"Invalid value for '{name}': expected a whole number of at least 1, got {value!r}.", param=name
        )
    return value
