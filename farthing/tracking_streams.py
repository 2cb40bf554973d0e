"""Streams of the providers' own clients, passed on as they are, and what they told of their usage on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

_HOLDERS: Final = ("message", "response")
"""Where events keep the answer they are of: Anthropic's first event, the last of OpenAI's responses."""


class Told:
    """The usage of one stream, as far as it came."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.model = ""
        self.id = ""
        self.service_tier = ""
        self.whole = False
        """The last word on the usage came."""

    def hear(self, chunk: Any) -> None:
        """Takes what a chunk or event says. Counts of later ones stand in for those of earlier ones."""
        for held in (chunk, *(_get(chunk, name) for name in _HOLDERS)):
            if held is None:
                continue
            self.model = str(_get(held, "model") or self.model)
            self.id = str(_get(held, "id") or self.id)
            self.service_tier = str(_get(held, "service_tier") or self.service_tier)
            usage = _plain(_get(held, "usage"))
            if usage:
                self.usage |= {name: count for name, count in usage.items() if count is not None}
                self.whole = _get(chunk, "type") != "message_start"


class Passed:
    """A stream that is read through, sync or async, and is in all else the client's own object."""

    def __init__(self, stream: Any, ended: Callable[[Told], None]) -> None:
        self._stream, self._ended, self._told, self._over = stream, ended, Told(), False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            for chunk in self._stream:
                self._told.hear(chunk)
                yield chunk
        finally:
            self._end()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for chunk in self._stream:
                self._told.hear(chunk)
                yield chunk
        finally:
            self._end()

    def __enter__(self) -> Passed:
        self._stream.__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        self._end()
        return self._stream.__exit__(*raised)

    async def __aenter__(self) -> Passed:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> Any:
        self._end()
        return await self._stream.__aexit__(*raised)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._ended(self._told)


def is_stream(answer: Any) -> bool:
    """Whether an answer comes piece by piece."""
    return hasattr(answer, "__anext__") or hasattr(answer, "__next__")


def _get(held: Any, name: str) -> Any:
    return held.get(name) if isinstance(held, Mapping) else getattr(held, name, None)


def _plain(usage: Any) -> Mapping[str, Any]:
    dump = getattr(usage, "model_dump", None)
    found = dump() if callable(dump) else usage
    return found if isinstance(found, Mapping) else {}
