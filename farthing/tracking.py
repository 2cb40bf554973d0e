"""For programs that call providers directly: what their calls cost, booked into this installation's own ledger.

::

    with farthing.track(feature="answers", team="support") as tracked:
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
        tracked.add(answer)
    print(tracked.cost)

A stream is counted when it ends: ``for chunk in tracked.stream(client.chat.completions.create(stream=True, …))``. A
decorator too: ``@farthing.track(feature="answers")`` adds what the function returns, yields or streams. Nothing is
patched, so nothing is counted that was not added. No budget is asked: for limits, call through the gateway.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from farthing.core.errors import FarthingError
from farthing.core.types import Decision, LedgerEntry, Scope, Usage, UsagePart
from farthing.core.units import (
    INPUT,
    INPUT_CACHE_READ,
    INPUT_CACHE_WRITE_1H,
    INPUT_CACHE_WRITE_5M,
    OUTPUT,
    OUTPUT_REASONING,
)
from farthing.library import rated
from farthing.tracking_streams import Passed, Told, is_stream

if TYPE_CHECKING:
    from farthing.core.types import Charge

_LOG: Final = logging.getLogger("farthing.tracking")
_WRITTEN: Final = "ephemeral"
_DIMENSIONS: Final = frozenset(("org", "team", "project", "user", "feature", "customer", "session"))
Function = TypeVar("Function", bound=Callable[..., Any])


class track:  # a verb, as it is used
    """Books the calls that are added to it when its block ends, all in one transaction.

    Keyword arguments name the scope (``team``, ``feature``, ``user``…); ``tags`` are free labels. When the books
    cannot be written, a warning is logged and the program goes on; ``strict`` raises instead.
    """

    def __init__(
        self,
        *,
        home: str | None = None,
        config: str | None = None,
        tags: Mapping[str, str] | None = None,
        strict: bool = False,
        **scope: str,
    ) -> None:
        unknown = sorted(set(scope) - _DIMENSIONS)
        if unknown:
            raise TypeError(
                f"track() knows no {', '.join(unknown)}; dimensions: {', '.join(sorted(_DIMENSIONS))}, tags"
            )
        self._scope = Scope(**scope, tags=tuple(sorted((tags or {}).items())))
        self._home, self._config, self._strict = home, config, strict
        self._entries: list[LedgerEntry] = []
        self._booked: list[LedgerEntry] = []
        self._began = time.monotonic()

    @property
    def cost(self) -> int | None:
        """Nano-USD of all that was added; None when any of it has no known price."""
        amounts = [entry.charge.total for entry in (*self._booked, *self._entries)]
        return None if None in amounts else sum(amount or 0 for amount in amounts)

    def add(self, answer: Any, *, model: str = "", provider: str | None = None, **context: str) -> Charge:
        """Counts one answer: an SDK's object with ``usage`` and ``model``, its JSON, or a usage alone with ``model``.

        Raises ``TypeError`` where no usage can be found.
        """
        usage, named, name = _parts(answer)
        model = model or named
        if usage is None or not model:
            raise TypeError("add() wants an answer with usage and model; say model= where it names none")
        served = _tier(answer)
        if served and not isinstance(usage, Usage):
            context.setdefault("service_tier", served)
        record, target, charge = rated(usage, model, provider=provider, **context)
        now_ms = time.time_ns() // 1_000_000
        id = f"trk-{uuid.uuid4().hex}"
        self._entries.append(
            LedgerEntry(
                id=id,
                request_id=name or id,
                attempt=1,
                received_at_ms=now_ms,
                booked_at_ms=now_ms,
                scope=self._scope,
                dialect="anthropic" if target.provider == "anthropic" else "openai",
                endpoint="chat",
                provider=target.provider,
                price_as=target.price_as,
                model_requested=model,
                model=model,
                usage=record,
                charge=charge,
                baseline=charge.total,
                decisions=(Decision(stage="track", action="book", reason="tracked"),),
                latency_ms=round((time.monotonic() - self._began) * 1000),
            )
        )
        self._began = time.monotonic()
        return charge

    def stream(self, answer: Any) -> Any:
        """The same stream, sync or async, whose usage is added when it ends; what broke off counts as partial.

        OpenAI's chat tells its usage only with ``stream_options={"include_usage": True}``.
        """
        return Passed(answer, self._told)

    def _told(self, told: Told) -> None:
        if not told.usage or not told.model:
            self._untold(f"a stream of {told.model or 'an unnamed model'} told no usage")
            return
        self.add({"usage": told.usage, "model": told.model, "id": told.id, "service_tier": told.service_tier})
        if not told.whole:
            last = self._entries[-1]
            usage = msgspec.structs.replace(last.usage, source="partial")
            self._entries[-1] = msgspec.structs.replace(last, usage=usage)

    def _untold(self, why: str) -> None:
        """The call was paid and its answer is there: that nobody can count it must not take it away."""
        if self._strict:
            raise TypeError(f"{why}: it cannot be booked")
        _LOG.warning("%s: it is not booked", why)

    def _take(self, answer: Any) -> Any:
        """Adds what a decorated function returned; gives back what its caller gets."""
        if is_stream(answer):
            return self._alone(answer)
        if _parts(answer)[0] is None or not _parts(answer)[1]:
            self._untold(f"what the function returned ({type(answer).__name__}) has no usage and model")
        else:
            self.add(answer)
        return answer

    def _alone(self, answer: Any) -> Passed:
        """A stream that is booked when it ends, long after its function has returned."""

        def ended(told: Told) -> None:
            self._told(told)
            self.__exit__(None, None, None)

        return Passed(answer, ended)

    def book(self) -> int:
        """Writes what was added so far; how many entries that were. A ``with`` block does so at its end."""
        if not self._entries:
            return 0
        from farthing import bootstrap

        importer = bootstrap.open_importer(bootstrap.load_settings(self._config, self._home))
        try:
            new, _ = importer.import_batch(self._entries, ())
        finally:
            importer.close()  # type: ignore[attr-defined]
        self._booked += self._entries
        self._entries = []
        return new

    def __enter__(self) -> track:
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was spent is booked, whether the block failed or not; what could not be is tried again by the next one.
        try:
            self.book()
        except (FarthingError, OSError) as failed:
            if self._strict and error is None:
                raise
            _LOG.warning("%d calls could not be booked: %s", len(self._entries), failed)

    def __call__(self, function: Function) -> Function:
        """A decorator: what the function returns, or yields as a stream, is added, each call under an own block."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            def streamed(*arguments: Any, **named: Any) -> Any:
                passed = self._again()._alone(function(*arguments, **named))
                return aiter(passed) if inspect.isasyncgenfunction(function) else iter(passed)

            return cast("Function", streamed)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*arguments: Any, **named: Any) -> Any:
                with self._again() as one:
                    return one._take(await function(*arguments, **named))

            return cast("Function", awaited)

        @functools.wraps(function)
        def called(*arguments: Any, **named: Any) -> Any:
            with self._again() as one:
                return one._take(function(*arguments, **named))

        return cast("Function", called)

    def _again(self) -> track:
        made = track(home=self._home, config=self._config, strict=self._strict)
        made._scope = self._scope
        return made


class LangChainTracker:
    """A LangChain callback handler: ``chain.invoke(…, config={"callbacks": [LangChainTracker(tracked)]})``.

    It is no subclass of LangChain's own, so that Farthing needs no LangChain; it has what the callback manager asks
    of a handler. Counts chat models that report ``usage_metadata``.
    """

    raise_error = False
    run_inline = True
    ignore_llm = False
    ignore_chat_model = False
    ignore_chain = True
    ignore_agent = True
    ignore_retriever = True
    ignore_retry = True
    ignore_custom_event = True

    def __init__(self, tracked: track) -> None:
        self._tracked = tracked

    def on_chat_model_start(self, *arguments: Any, **named: Any) -> None:
        """Nothing is known of the cost yet."""

    def on_llm_start(self, *arguments: Any, **named: Any) -> None:
        """Nothing is known of the cost yet."""

    def on_llm_new_token(self, *arguments: Any, **named: Any) -> None:
        """The usage comes at the end."""

    def on_llm_error(self, *arguments: Any, **named: Any) -> None:
        """What a failed call cost is not said."""

    def on_llm_end(self, response: Any, **named: Any) -> None:
        """Adds every answer that reports its usage; where none does, the call's own count."""
        counted, known = 0, ""
        for generations in response.generations:
            for one in generations:
                message = getattr(one, "message", None)
                usage = getattr(message, "usage_metadata", None)
                said = getattr(message, "response_metadata", None) or {}
                model = str(said.get("model_name") or said.get("model") or "")
                known = known or model
                if usage and model:
                    self._tracked.add(_usage_of(usage), model=model)
                    counted += 1
        if not counted:
            self._whole_call(getattr(response, "llm_output", None) or {}, known)

    def _whole_call(self, said: Mapping[str, Any], model: str) -> None:
        """What models that only complete, and old integrations, say: one usage of the whole call."""
        usage = said.get("token_usage") or said.get("usage")
        model = str(said.get("model_name") or said.get("model") or model)
        if usage and model:
            self._tracked.add({"usage": usage, "model": model})
        else:
            _LOG.warning("an answer of %s reports no usage: it is not booked", model or "an unnamed model")


def _usage_of(said: Mapping[str, Any]) -> Usage:
    """LangChain's usage, alike for every provider: its input holds what was read from and written to caches."""
    into, out = said.get("input_token_details") or {}, said.get("output_token_details") or {}
    long, short = into.get(f"{_WRITTEN}_1h_input_tokens") or 0, into.get(f"{_WRITTEN}_5m_input_tokens") or 0
    parts = {
        INPUT_CACHE_READ: into.get("cache_read") or 0,
        # Either the sum of what was written or its parts by time to live.
        INPUT_CACHE_WRITE_5M: short or (0 if long else into.get("cache_creation") or 0),
        INPUT_CACHE_WRITE_1H: long,
    }
    thought = min(out.get("reasoning") or 0, said["output_tokens"])
    lines = {
        INPUT: max(0, said["input_tokens"] - sum(parts.values())),
        **parts,
        OUTPUT: said["output_tokens"] - thought,
        OUTPUT_REASONING: thought,
    }
    kept = tuple((unit, count) for unit, count in lines.items() if count)
    return Usage(parts=(UsagePart(lines=kept, tier_basis=said["input_tokens"]),), source="reported")


def _tier(answer: Any) -> str:
    """The service tier that served an answer: OpenAI's stands beside the usage, and has prices of its own."""
    said = answer.get("service_tier") if isinstance(answer, Mapping) else getattr(answer, "service_tier", None)
    return said if isinstance(said, str) else ""


def _parts(answer: Any) -> tuple[Any, str, str]:
    """(usage, model, the provider's id of the answer)."""
    if isinstance(answer, Usage):
        return answer, "", ""
    if isinstance(answer, Mapping):
        if "usage" in answer:
            return answer["usage"], str(answer.get("model") or ""), str(answer.get("id") or "")
        return answer, "", ""
    usage = getattr(answer, "usage", None)
    if usage is None:
        return (answer if hasattr(answer, "model_dump") else None), "", ""
    return usage, str(getattr(answer, "model", "") or ""), str(getattr(answer, "id", "") or "")
