"""A call whose upstream speaks another API than its caller: translated on the way out and on the way back.

The upstream's own bytes are what is metered and priced; the translation sees them afterwards. Where both sides speak
the same API nothing in here runs and no byte changes.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec.structs import replace

from farthing.core.errors import ProviderFailed, Untranslatable
from farthing.core.types import Decision, Endpoint, PromptView, Request, Target, Usage
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE, OUTPUT, OUTPUT_REASONING
from farthing.engine.plan import Plan, body_for
from farthing.engine.services import Upstream
from farthing.ports.provider import HttpReply
from farthing.ports.reply import Headers
from farthing.wire import anthropic, openai
from farthing.wire.canonical import Format, TokenCounts
from farthing.wire.frames import unframed
from farthing.wire.translate import Frame, StreamTranslator, failure_for, translate_answer, translate_request
from farthing.wire.translate.chat_answer import written_usage

_CALLERS: Final[dict[Endpoint, Format]] = {"chat": "chat", "responses": "responses", "messages": "messages"}
_UPSTREAMS: Final[dict[str, Format]] = {
    "openai": "chat",
    "anthropic": "messages",
    "gemini": "gemini",
    "bedrock": "converse",
}
_NEW_CAPS: Final = frozenset({"openai", "azure"})
"""Who wants ``max_completion_tokens``: reasoning models there refuse the older name, servers elsewhere the newer."""
_ENDPOINTS: Final[dict[Format, Endpoint]] = {"gemini": "generate", "converse": "converse"}
_IDS: Final[dict[Format, str]] = {"chat": "chatcmpl-", "responses": "resp_", "messages": "msg_"}
_STAYS: Final = (b"anthropic-", b"openai-", b"x-stainless-", b"x-goog-", b"x-amz", b"authorization", b"x-api-key",
                 b"api-key", b"accept")  # fmt: skip
"""Headers of one API that mean nothing to another. Credentials are for the provider they were made for."""
_RETRY: Final = (b"retry-after", b"retry-after-ms", b"x-should-retry")
ID_HEADERS: Final = (b"x-request-id", b"request-id", b"x-amzn-requestid")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.\-\[\]]")
_LOSSES_MAX: Final = 32
JSON: Final = b"application/json"
EVENTS: Final = b"text/event-stream; charset=utf-8"
FRAMES: Final = b"application/vnd.amazon.eventstream"


@dataclass(frozen=True, slots=True)
class Translation:
    """One attempt's translation; ``source`` is the caller's format, ``target`` the upstream's."""

    request: Request
    """The caller's."""
    source: Format
    target: Format
    losses: tuple[str, ...]
    frame: Frame

    def note(self, decisions: list[Decision]) -> None:
        """Says once of each target that it was asked in other words; the ledger keeps it."""
        evidence: tuple[tuple[str, str], ...] = (("from", self.source), ("to", self.target))
        if self.losses:
            evidence = (*evidence, ("lost", shown(self.losses)))
        decision = Decision(stage="translate", action="translate", reason="other_dialect", evidence=evidence)
        if decision not in decisions:
            decisions.append(decision)

    def answer(self, body: bytes) -> bytes:
        """A whole answer for the caller. Raises :class:`StreamBroken` when it cannot be read."""
        return translate_answer(body, source=self.target, target=self.source, frame=self.frame)

    def stream(self) -> StreamTranslator:
        """A translator for one stream on its way back."""
        asked = self.request.view.include_usage
        return StreamTranslator(source=self.target, target=self.source, frame=self.frame, include_usage=asked)

    def chunks(self, http: HttpReply) -> AsyncIterator[bytes]:
        """The upstream's stream as server-sent events, whatever it is framed in."""
        return unframed(http.chunks()) if self.target == "converse" else http.chunks()

    def headers(self, http: HttpReply, *, streams: bool) -> Headers:
        """What the caller gets to see instead of the upstream's headers."""
        name = b"request-id" if self.source == "messages" else b"x-request-id"
        said = next((value for key, value in http.headers if key in ID_HEADERS), self.request.id.encode())
        found: Headers = [(b"content-type", EVENTS if streams else JSON), (name, said)]
        found.append((b"x-farthing-translation", f"{self.source}-{self.target}".encode()))
        if self.losses:
            found.append((b"x-farthing-translation-loss", shown(self.losses).encode()))
        return found

    def failure(self, error: ProviderFailed) -> ProviderFailed:
        """The same failure with its body in the caller's dialect."""
        if error.status is None or error.status < 400:
            return error
        request = self.request
        error.status, error.body = failure_for(request.dialect, error.status, error.body, request.id)
        kept = tuple(pair for pair in error.headers if pair[0] in _RETRY)
        error.headers = ((b"content-type", JSON), *kept)
        return error


def shown(losses: tuple[str, ...]) -> str:
    """Field names for a header; a caller's own words in them are made harmless."""
    names = [_UNSAFE.sub("_", name)[:80] for name in losses[:_LOSSES_MAX]]
    return ",".join([*names, "..."] if len(losses) > _LOSSES_MAX else names)


def chat_usage(usage: Usage) -> bytes:
    """A chat caller's usage object from what was booked, for streams whose provider speaks another dialect."""
    sums: Counter[str] = Counter()
    for part in usage.parts:
        for unit, quantity in part.lines:
            sums[unit] += quantity
    reasoning = sums[OUTPUT_REASONING]
    counts = TokenCounts(
        input=sums[INPUT],
        cache_read=sums[INPUT_CACHE_READ],
        cache_write=sum(many for unit, many in sums.items() if unit.startswith(INPUT_CACHE_WRITE)),
        output=sums[OUTPUT] + reasoning,
        reasoning=reasoning,
    )
    return msgspec.json.encode(written_usage(counts))


class Prepared(msgspec.Struct, kw_only=True):
    """What one target is asked."""

    request: Request
    """As the upstream's codec reads it: the caller's own, or the translated one."""
    strips_usage: bool
    plan: Plan
    """With the output cap that the body states."""
    translation: Translation | None = None
    notes: tuple[Decision, ...] = ()
    """What levers changed."""
    marked: bool = False
    """The breakpoints in it are a lever's."""
    tiered: bool = False
    """The service tier that it asks for is a lever's."""

    def note(self, decisions: list[Decision]) -> None:
        """Says once of each target what its request was turned into; the ledger keeps it."""
        decisions.extend(note for note in self.notes if note not in decisions)
        if self.translation is not None:
            self.translation.note(decisions)


def prepared(plan: Plan, request: Request, target: Target, upstream: Upstream) -> tuple[Prepared, bytes]:
    """(what to ask of this target, the bytes to send), levers pulled. Raises :class:`Untranslatable`."""
    levers = plan.levers
    if levers is None:
        return _prepared(plan, request, target, upstream)
    eased = levers.ease(plan.body, plan.output_cap, request, target)
    plan = replace(plan, body=eased.body, output_cap=eased.output_cap)
    ask, body = _prepared(plan, eased.request, target, upstream)
    made = levers.mark(body, ask.request, target, ask.request.view.endpoint, before=eased)
    ask.request, ask.notes, ask.marked, ask.tiered = made.request, made.notes, made.marked, bool(eased.tier)
    return ask, made.body


def _prepared(plan: Plan, request: Request, target: Target, upstream: Upstream) -> tuple[Prepared, bytes]:
    if upstream.speaks in ("", request.dialect):
        body, strips = body_for(plan, request, target, upstream)
        return Prepared(request=request, strips_usage=strips, plan=plan), body
    source = _CALLERS.get(request.view.endpoint)
    if source is None:
        raise Untranslatable(
            f"'{request.view.endpoint}' calls cannot be translated: '{target.model[:100]}' is served by "
            f"'{target.provider}', which speaks the {upstream.speaks} API.",
            hint="Ask for a model of a provider that speaks the API of this request.",
            param="model",
        )
    form = _UPSTREAMS[upstream.speaks]
    made = translate_request(
        plan.body,
        source=source,
        target=form,
        model=target.model,
        include_usage=upstream.include_usage,
        cap_name="max_completion_tokens" if target.price_as in _NEW_CAPS else "max_tokens",
    )
    losses = made.losses
    if any(name == b"anthropic-beta" for name, _ in request.headers):
        losses = (*losses, "anthropic-beta")
    frame = Frame(id=_IDS[source] + request.id, model=target.model, now_s=request.received_at_ms // 1000)
    translation = Translation(request=request, source=source, target=form, losses=losses, frame=frame)
    asked = msgspec.structs.replace(
        request,
        body=made.body,
        view=_view(form, made.body, request, target, made.output_cap),
        headers=tuple(pair for pair in request.headers if not pair[0].startswith(_STAYS)),
    )
    capped = replace(plan, output_cap=made.output_cap)
    return Prepared(request=asked, strips_usage=False, plan=capped, translation=translation), made.body


def _view(form: Format, body: bytes, request: Request, target: Target, cap: int | None) -> PromptView:
    """What the codec needs to know of the translated body."""
    if form == "chat":
        return openai.view_chat(body)
    if form == "messages":
        return anthropic.view_messages(body)
    return msgspec.structs.replace(
        request.view,
        endpoint=_ENDPOINTS[form],
        model=target.model,
        output_tokens_max=cap,
        body_bytes=len(body),
        unbounded=False,
        cache_marks=body.count(b'"cachePoint"'),
        service_tier="",
        facets=(),
    )
