"""What the traffic log keeps of a prompt: salted hashes of its prefix, never its text."""

import hashlib

import msgspec

from farthing.core.types import NOT_SAID, PromptParts, PromptSection

BLOCK_BYTES = 1024
BLOCKS_MAX = 4096
SECTIONS_MAX = 256
TOOLS_MAX = 128
KNOWN_MAX = 4096
KNOWN_BYTES_MAX = 64 * 1024
"""Larger parts are hashed each time: they would fill the memory."""
_NULL = b"null"
_ROLE_FIRST = b'{"role":"'
_ROLES = {role.encode(): role for role in ("user", "assistant", "system", "developer", "tool")}


class _Message(msgspec.Struct):
    role: str = "item"


_Part = tuple[str, bytes]
"""(role, the part's JSON); the role is empty where the part itself says it."""

_DECODER = msgspec.json.Decoder(PromptParts)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE = msgspec.json.Decoder(_Message)


def digest(data: bytes, salt: bytes) -> str:
    """16 hex digits that tell equal content within one installation and nothing else."""
    return hashlib.blake2b(data, digest_size=8, key=salt).hexdigest()


def sections(body: bytes, salt: bytes) -> tuple[tuple[PromptSection, ...], tuple[str, ...]]:
    """What :meth:`Prefixes.sections` finds of a single body."""
    return Prefixes(salt).sections(body)


class Prefixes:
    """The digests of an installation.

    Applications send the same tools and instructions with every call, and a conversation all of its turns again: such
    parts are looked up instead of hashed. The last part of a prompt is the new one and not remembered.
    """

    def __init__(self, salt: bytes, *, most: int = KNOWN_MAX) -> None:
        """``most``: parts that are remembered, in this process's memory only."""
        self._keyed = hashlib.blake2b(digest_size=8, key=salt)
        self._half = most // 2
        self._known: dict[_Part, PromptSection] = {}
        self._older: dict[_Part, PromptSection] = {}
        """Two generations: the older one is forgotten as a whole."""

    def digest(self, data: bytes) -> str:
        """16 hex digits that tell equal content within one installation and nothing else."""
        one = self._keyed.copy()
        one.update(data)
        return one.hexdigest()

    def sections(
        self, body: bytes, read: PromptParts | None = None
    ) -> tuple[tuple[PromptSection, ...], tuple[str, ...]]:
        """(sections in prefix order, chained hashes of the prefix's blocks) of a request body.

        A block's hash covers all that came before it, so two prompts share exactly their common leading blocks.
        ``read``: what the body says of its prompt, where that is known.
        """
        try:
            parts = _parts(_DECODER.decode(body) if read is None else read)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return (), ()
        if not parts:
            return (), ()
        size = len(parts)
        for _, data in parts:
            size += len(data)
        last = parts.pop() if len(parts) <= SECTIONS_MAX else None
        known = self._known
        found = [known.get(part) or self._learned(part) for part in parts[:SECTIONS_MAX]]
        if last is not None:
            parts.append(last)
            found.append(self._section(last))
        if size <= BLOCK_BYTES:
            return tuple(found), ()
        return tuple(found), _blocks(b"\x00".join([data for _, data in parts]), self._keyed)

    def _learned(self, part: _Part) -> PromptSection:
        found = self._older.get(part) or self._section(part)
        if len(part[1]) <= KNOWN_BYTES_MAX:
            if len(self._known) >= self._half:
                self._older, self._known = self._known, {}
            self._known[part] = found
        return found

    def _section(self, part: _Part) -> PromptSection:
        role, data = part
        one = self._keyed.copy()
        one.update(data)
        return PromptSection(role=role or _role(data), size=len(data), digest=one.hexdigest())


def _parts(read: PromptParts) -> list[_Part]:
    """The prompt's parts in prefix order."""
    parts: list[_Part] = []
    if read.tools is not NOT_SAID:
        parts += _tools(bytes(read.tools))
    if read.functions is not NOT_SAID:
        parts += _tools(bytes(read.functions))
    if read.system is not NOT_SAID and bytes(read.system) != _NULL:
        parts.append(("system", bytes(read.system)))
    if read.instructions is not NOT_SAID and bytes(read.instructions) != _NULL:
        parts.append(("instructions", bytes(read.instructions)))
    for raw in (read.messages, read.input, read.prompt):
        if raw is not NOT_SAID:
            data = bytes(raw)
            if data != _NULL:
                parts += _turns(data)
                break
    return parts


def _tools(data: bytes) -> list[_Part]:
    """One part a tool, so that tools in another order are told from other tools; too many are one part."""
    if data == _NULL:
        return []
    try:
        each = list(map(bytes, _LIST.decode(data))) if data.startswith(b"[") else [data]
    except msgspec.DecodeError:
        each = [data]
    return [("tool", one) for one in each] if len(each) <= TOOLS_MAX else [("tool", data)]


def _turns(data: bytes) -> list[_Part]:
    if data[:1] != b"[":
        return [("user", data)]
    return [("", bytes(message)) for message in _LIST.decode(data)]


def _role(message: bytes) -> str:
    """The message's role; most clients write it first, so that nothing need be decoded."""
    size = len(_ROLE_FIRST)
    if message[:size] == _ROLE_FIRST:
        word, end, _ = message[size : size + 16].partition(b'"')
        known = _ROLES.get(word)
        if known is not None and end:
            return known
        if end and word.isalpha():
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
