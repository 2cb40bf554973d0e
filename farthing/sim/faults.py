"""Faults on demand: by request header, or by rules that hold until they are reset.

Grammar of a fault: a word, then ``:value`` and/or ``:name=value`` options, e.g. ``429:retry-after=2``, ``slow:300``,
``cut:3``. See ``docs/reference/simulator.md`` for the table.
"""

from collections import Counter
from hashlib import blake2b

import msgspec

from farthing.sim.errors import ApiError, invalid

STATUS_FAULTS = {"400", "401", "403", "404", "408", "409", "413", "429", "500", "502", "503", "504", "529"}
TIMED_FAULTS = {"slow", "slow-first-byte"}
COUNTED_FAULTS = {"cut"}
PLAIN_FAULTS = {"no-usage", "hang", "malformed", "reset", "worse"}
KINDS = {
    400: ("invalid_request_error", "The simulator was told to refuse this request."),
    401: ("authentication_error", "The simulator was told to refuse this key."),
    403: ("permission_error", "The simulator was told to deny permission."),
    404: ("not_found_error", "The simulator was told not to find this."),
    408: ("timeout_error", "The simulator was told to time out."),
    409: ("conflict_error", "The simulator was told to conflict."),
    413: ("request_too_large", "The simulator was told that the request is too large."),
    429: ("rate_limit_error", "Rate limit reached. Please try again later."),
    500: ("api_error", "The server had an error while processing your request."),
    502: ("api_error", "Bad gateway."),
    503: ("overloaded_error", "The engine is currently overloaded, please try again later."),
    504: ("timeout_error", "Gateway timeout."),
    529: ("overloaded_error", "Overloaded"),
}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One parsed fault."""

    text: str
    kind: str
    value: int = 0
    options: dict[str, str] = {}

    @property
    def status(self) -> int:
        """The HTTP status to answer with; 0: the fault is of another kind."""
        return int(self.kind) if self.kind in STATUS_FAULTS else 0

    def refusal(self) -> ApiError:
        """The error answer of a status fault."""
        kind, message = KINDS[self.status]
        retry_after = self.options.get("retry-after", "1" if self.status == 429 else None)
        code = "rate_limit_exceeded" if self.status == 429 else None
        return ApiError(
            self.status,
            self.options.get("message", message),
            kind=self.options.get("type", kind),
            code=self.options.get("code", code),
            retry_after=retry_after,
        )


def parse_fault(text: str) -> Fault:
    """The fault ``text`` names; raises a 400 that lists what can be asked for."""
    word, *rest = [part.strip() for part in text.split(":")]
    options = dict(part.split("=", 1) for part in rest if "=" in part)
    values = [part for part in rest if "=" not in part]
    number = int(values[0]) if values and values[0].isdigit() else None
    if word in STATUS_FAULTS | PLAIN_FAULTS:
        return Fault(text=text, kind=word, value=number or 0, options=options)
    if word in TIMED_FAULTS | COUNTED_FAULTS:
        if number is None:
            raise invalid(f"fault {text!r} needs a whole number: {word}:N", param="x-sim-fault")
        return Fault(text=text, kind=word, value=number, options=options)
    known = (
        sorted(STATUS_FAULTS) + sorted(PLAIN_FAULTS) + [f"{word}:N" for word in sorted(TIMED_FAULTS | COUNTED_FAULTS)]
    )
    raise invalid(f"unknown fault {text!r}; use one of {', '.join(known)}", param="x-sim-fault")


class FaultRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A standing order: which calls fail, and how. All given conditions must hold."""

    fault: str
    rate: float = 1.0
    """Share of attempts that fail, drawn from (seed, request, attempt): repeatable."""
    first_attempts: int = 0
    """Only the first this many attempts of a request fail; 0: any attempt."""
    times: int = 0
    """The rule fires this often in all, then rests; 0: no bound."""
    model: str = ""
    endpoint: str = ""
    stream: bool | None = None


class FaultOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /sim/faults``: replaces all rules."""

    rules: tuple[FaultRule, ...] = ()
    seed: int = 0


class Faults:
    """Picks the fault of each attempt and counts attempts per request."""

    def __init__(self) -> None:
        self.order = FaultOrder()
        self.attempts: Counter[str] = Counter()
        self.fired: Counter[int] = Counter()

    def install(self, order: FaultOrder) -> None:
        """Replace every rule; raises a 400 on an unknown fault or rate. Attempt counts start anew."""
        for rule in order.rules:
            parse_fault(rule.fault)
            if not 0.0 <= rule.rate <= 1.0:
                raise invalid(f"rate is a share between 0 and 1, not {rule.rate}", param="rate")
        self.order = order
        self.attempts.clear()
        self.fired.clear()

    def pick(self, wanted: str, request: str, *, model: str, endpoint: str, stream: bool) -> Fault | None:
        """The fault of this attempt. ``wanted`` (the header) wins over rules; the first rule that fires wins."""
        if wanted:
            return parse_fault(wanted)
        if not self.order.rules:
            return None
        self.attempts[request] += 1
        attempt = self.attempts[request]
        for index, rule in enumerate(self.order.rules):
            if (
                (rule.model and rule.model != model)
                or (rule.endpoint and rule.endpoint != endpoint)
                or (rule.stream is not None and rule.stream != stream)
                or (rule.first_attempts and attempt > rule.first_attempts)
                or (rule.times and self.fired[index] >= rule.times)
                or not self._drawn(rule.rate, index, request, attempt)
            ):
                continue
            self.fired[index] += 1
            return parse_fault(rule.fault)
        return None

    def _drawn(self, rate: float, index: int, request: str, attempt: int) -> bool:
        if rate >= 1.0:
            return True
        text = f"{self.order.seed}/{index}/{request}/{attempt}".encode()
        return int.from_bytes(blake2b(text, digest_size=6).digest(), "big") < rate * 2**48
