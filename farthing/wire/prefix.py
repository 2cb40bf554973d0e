"""What the traffic log keeps of a prompt: salted hashes of its prefix, never its text."""

import hashlib

import msgspec

from farthing.core.types import PromptSection
from farthing.wire.body import NULL, given

BLOCK_BYTES = 1024
BLOCKS_MAX = 4096
SECTIONS_MAX = 256
TOOLS_MAX = 128
_ROLE_FIRST = b'{"role":"'


class _Prompt(msgspec.Struct):
    """The prompt's parts in the order in which providers build their prefix, over both dialects."""

    tools: msgspec.Raw = NULL
    functions: msgspec.Raw = NULL
    system: msgspec.Raw = NULL
    instructions: msgspec.Raw = NULL
    messages: msgspec.Raw = NULL
    input: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL


class _Message(msgspec.Struct):
    role: str = "item"


_DECODER = msgspec.json.Decoder(_Prompt)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE = msgspec.json.Decoder(_Message)


def digest(data: bytes, salt: bytes) -> str:
    """16 hex digits that tell equal content within one installation and nothing else."""
    return hashlib.blake2b(data, digest_size=8, key=salt).hexdigest()


def sections(body: bytes, salt: bytes) -> tuple[tuple[PromptSection, ...], tuple[str, ...]]:
    """(sections in prefix order, chained hashes of the prefix's blocks) of a request body.

    A block's hash covers all that came before it, so two prompts share exactly their common leading blocks.
    """
    try:
        read = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return (), ()
    parts: list[tuple[str, bytes]] = []
    for role, raw in (("tool", read.tools), ("tool", read.functions)):
        if given(raw):
            parts.extend(_tools(role, raw))
    for role, raw in (("system", read.system), ("instructions", read.instructions)):
        if given(raw):
            parts.append((role, bytes(raw)))
    turns = next((raw for raw in (read.messages, read.input, read.prompt) if given(raw)), None)
    if turns is not None:
        parts.extend(_turns(turns))
    keyed = hashlib.blake2b(digest_size=8, key=salt)
    found: list[PromptSection] = []
    size = 0
    for role, data in parts:
        size += len(data) + 1
        if len(found) < SECTIONS_MAX:
            one = keyed.copy()
            one.update(data)
            found.append(PromptSection(role=role, size=len(data), digest=one.hexdigest()))
    if size <= BLOCK_BYTES:
        return tuple(found), ()
    return tuple(found), _blocks(b"\x00".join([data for _, data in parts]), keyed)


def _tools(role: str, raw: msgspec.Raw) -> list[tuple[str, bytes]]:
    """One part a tool, so that tools in another order are told from other tools; too many are one part."""
    data = bytes(raw)
    try:
        each = list(map(bytes, _LIST.decode(raw))) if data.startswith(b"[") else [data]
    except msgspec.DecodeError:
        each = [data]
    return [(role, one) for one in each] if len(each) <= TOOLS_MAX else [(role, data)]


def _turns(raw: msgspec.Raw) -> list[tuple[str, bytes]]:
    data = bytes(raw)
    if not data.startswith(b"["):
        return [("user", data)]
    return [(_role(message), message) for message in map(bytes, _LIST.decode(raw))]


def _role(message: bytes) -> str:
    """The message's role; most clients write it first, so that nothing need be decoded."""
    if message.startswith(_ROLE_FIRST):
        end = message.find(b'"', len(_ROLE_FIRST), len(_ROLE_FIRST) + 16)
        word = message[len(_ROLE_FIRST) : end]
        if end > 0 and word.isalpha():
            return word.decode()
    try:
        return _MESSAGE.decode(message).role[:16]
    except msgspec.DecodeError:
        return "item"


def _blocks(prefix: bytes, keyed: "hashlib.blake2b") -> tuple[str, ...]:
    chain = keyed.copy()
    found: list[str] = []
    for start in range(0, min(len(prefix), BLOCK_BYTES * BLOCKS_MAX) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain.update(prefix[start : start + BLOCK_BYTES])
        found.append(chain.copy().hexdigest())
    return tuple(found)
