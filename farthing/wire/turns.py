"""Who spoke last: what a request body shows of an agent's loop. Read only where a budget limits it."""

from collections.abc import Sequence

import msgspec

from farthing.wire.body import NULL


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """Where a conversation stands when a call is made."""

    tool_calls: int = 0
    """Tool calls whose results this call brings: those after the model's last turn."""
    without_human: int = 0
    """The model's turns since a human last spoke, the one that is asked for now included; 0: the body shows none."""


class _Piece(msgspec.Struct):
    """A message, an item or a content block."""

    role: str | None = None
    type: str | None = None
    content: msgspec.Raw = NULL


class _Body(msgspec.Struct):
    messages: msgspec.Raw = NULL
    input: msgspec.Raw = NULL


_BODY = msgspec.json.Decoder(_Body)
_PIECES = msgspec.json.Decoder(list[_Piece])


def turns_of(body: bytes) -> Turns:
    """Reads a chat, messages or responses body; what has another shape shows nothing."""
    try:
        read = _BODY.decode(body)
        raw = bytes(read.messages) if bytes(read.messages) != b"null" else bytes(read.input)
        if raw.startswith(b'"'):
            return Turns(without_human=1)
        return _count(_PIECES.decode(raw)) if raw.startswith(b"[") else Turns()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Turns()


def _count(pieces: Sequence[_Piece]) -> Turns:
    tool_calls = turns = 0
    model_spoke = before = False
    for piece in reversed(pieces):
        results = _tool_results(piece)
        if results:
            tool_calls += 0 if model_spoke else results
        elif piece.role == "user":
            break
        speaks = not results and _of_model(piece)
        model_spoke = model_spoke or speaks
        turns += speaks and not before  # the items of one answer are one turn
        before = speaks and piece.role is None
    return Turns(tool_calls=tool_calls, without_human=turns + 1)


def _of_model(piece: _Piece) -> bool:
    return piece.role == "assistant" or (piece.role is None and piece.type not in (None, "message"))


def _tool_results(piece: _Piece) -> int:
    """Results of tools in one message or item. A user's message that brings results is no human turn."""
    if piece.role in ("tool", "function") or (piece.type or "").endswith("_output"):
        return 1
    if piece.role != "user" or not bytes(piece.content).startswith(b"["):
        return 0
    return sum(block.type == "tool_result" for block in _PIECES.decode(piece.content))
