"""Summaries of long conversations for the lever ``history_summary``: made once, kept by this process, paid for.

The call that first needs a summary waits for it; what it costs is booked to the lever, in budgets of the caller. A
call whose summary cannot be had goes out unchanged, and nobody asks for that summary again for a while.
"""

import asyncio
from collections import OrderedDict
from typing import Final

import msgspec

from farthing.core.errors import FarthingError
from farthing.core.levers.history_summary import HistorySummary, Wanted
from farthing.core.types import Request
from farthing.engine.caching_tee import Nowhere, Tee
from farthing.engine.call import Call
from farthing.engine.pipeline import ask_aside
from farthing.engine.plan import make_plan
from farthing.wire.body import answer_text
from farthing.wire.openai import view_chat

MEMO_MAX: Final = 5_000
WAIT_S: Final = 30.0
AGAIN_MS: Final = 300_000
"""How long a summary that failed is not asked for again."""
_REPLY_BYTES_MAX: Final = 256 * 1024


class Summaries:
    """The summaries that this process has made. All methods are for the event loop."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self._order: OrderedDict[str, None] = OrderedDict()
        self._failed: OrderedDict[str, int] = OrderedDict()
        self._asking: dict[str, asyncio.Future[None]] = {}

    async def make(self, call: Call, lever: HistorySummary, wanted: Wanted) -> None:
        """Have a summary made for a call; callers that want the same at the same time wait for one."""
        now_ms = call.services.clock.now_ms()
        if self._failed.get(wanted.name, now_ms) > now_ms:
            return
        waiting = self._asking.get(wanted.name)
        if waiting is not None:
            await asyncio.shield(waiting)
            return
        done = self._asking[wanted.name] = asyncio.get_running_loop().create_future()
        try:
            text = await self._ask(call, lever, wanted)
            if text:
                self._keep(wanted.name, text)
            else:
                self._fail(wanted.name, now_ms + AGAIN_MS)
        finally:
            del self._asking[wanted.name]
            done.set_result(None)

    async def _ask(self, call: Call, lever: HistorySummary, wanted: Wanted) -> str:
        body = msgspec.json.encode(
            {
                "model": lever.model,
                "messages": [{"role": "user", "content": wanted.prompt}],
                "max_tokens": lever.tokens,
                "temperature": 0,
            }
        )
        request = Request(
            id=f"{call.request.id}-summary-{wanted.name[:8]}",
            received_at_ms=call.services.clock.now_ms(),
            dialect="openai",
            body=body,
            headers=(),
            view=view_chat(body),
            scope=call.request.scope,
            readings={},
        )
        aside = call.aside(request, "history_summary")
        aside.note("levers", "history_summary", "lever_cost", (("for", call.request.id),))
        tee = Tee(Nowhere(), b"summary", _REPLY_BYTES_MAX)
        try:
            aside.plan = make_plan(call.services, request)
            async with asyncio.timeout(WAIT_S):
                await ask_aside(aside, tee)
            reply = tee.body(request.view, b"")
        except (FarthingError, TimeoutError, ValueError):
            return ""
        return _text(reply) if reply else ""

    def _keep(self, name: str, text: str) -> None:
        self.made[name] = text
        self._order[name] = None
        while len(self._order) > MEMO_MAX:
            del self.made[self._order.popitem(last=False)[0]]

    def _fail(self, name: str, until_ms: int) -> None:
        self._failed[name] = until_ms
        while len(self._failed) > MEMO_MAX:
            self._failed.popitem(last=False)


def _text(body: bytes) -> str:
    return answer_text(body).decode("utf-8", "replace").strip()
