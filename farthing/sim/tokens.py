"""Token counts: o200k and cl100k exactly, images by the providers' published formulas.

OpenAI chat prompts follow the published counting recipe: 3 tokens per message, the tokens of its role, content and
name (plus 1 for the name), and 3 that prime the answer.

Claude has no public tokenizer. The simulator defines one: a block of text has ``round(o200k × factor)`` tokens, the
factor being the model card's ``token_percent`` (118 % up to Claude 4.6, 153 % after).
"""

import struct
from array import array
from base64 import b64decode
from binascii import Error as Base64Error
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol, cast

from rs_bpe.bpe import openai as _openai

SMALL_TEXT = 4_096
"""Texts up to this many characters share the large count cache; longer ones use a small one, to bound memory."""
DEFAULT_IMAGE_SIZE = (1024, 1024)
"""Assumed for images the simulator cannot look at (URLs: it has no network)."""


class Encoding(Protocol):
    """What the simulator uses of an ``rs_bpe`` tokenizer."""

    def encode(self, text: str) -> list[int]: ...
    def count(self, text: str) -> int: ...
    def decode(self, tokens: list[int]) -> str | None: ...


@lru_cache(maxsize=2)
def encoding(name: str) -> Encoding:
    """The tokenizer called ``o200k`` or ``cl100k``."""
    return cast("Encoding", _openai.o200k_base() if name == "o200k" else _openai.cl100k_base())


def _safe(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(name: str, text: str) -> int:
    try:
        return encoding(name).count(text)
    except UnicodeEncodeError:
        return encoding(name).count(_safe(text))


_count_small = lru_cache(maxsize=8_192)(_count)
_count_large = lru_cache(maxsize=256)(_count)


def count(text: str, name: str = "o200k") -> int:
    """Tokens of ``text``; repeated texts are not counted twice."""
    return _count_small(name, text) if len(text) <= SMALL_TEXT else _count_large(name, text)


def encode(text: str, name: str = "o200k") -> list[int]:
    """Token ids of ``text``."""
    try:
        return encoding(name).encode(text)
    except UnicodeEncodeError:
        return encoding(name).encode(_safe(text))


@lru_cache(maxsize=512)
def packed_ids(text: str) -> bytes:
    """o200k ids of ``text``, four bytes each: what the prompt cache compares."""
    return array("I", encode(text)).tobytes()


def pieces(ids: list[int], size: int, name: str = "o200k") -> list[tuple[str, int]]:
    """``ids`` as (text, tokens) pieces of about ``size`` tokens; a piece grows until it is whole characters."""
    codec, out, start = encoding(name), [], 0
    while start < len(ids):
        end = min(start + size, len(ids))
        text = codec.decode(ids[start:end])
        while (text is None or "\ufffd" in text) and end < len(ids):
            end += 1
            text = codec.decode(ids[start:end])
        out.append((text or "", end - start))
        start = end
    return out


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the first bytes of a PNG, GIF or JPEG; None: some other format."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return cast("tuple[int, int]", struct.unpack(">II", data[16:24]))
    if data[:4] == b"GIF8" and len(data) >= 10:
        return cast("tuple[int, int]", struct.unpack("<HH", data[6:10]))
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def image_of(url_or_base64: str) -> tuple[tuple[int, int], str]:
    """Size and content digest of a data URL, bare base64 or plain URL (:data:`DEFAULT_IMAGE_SIZE`)."""
    digest = blake2b(url_or_base64.encode("utf-8", "replace"), digest_size=16).hexdigest()
    if url_or_base64.startswith(("http://", "https://")):
        return DEFAULT_IMAGE_SIZE, digest
    payload = url_or_base64.partition(",")[2] if url_or_base64.startswith("data:") else url_or_base64
    head = payload[: 64 * 1024]
    try:
        size = image_size(b64decode(head[: len(head) // 4 * 4]))
    except (Base64Error, ValueError):
        size = None
    return size or DEFAULT_IMAGE_SIZE, digest


def openai_image_tokens(size: tuple[int, int], detail: str, base: int, tile: int) -> int:
    """OpenAI's tile formula.

    ``low`` costs ``base``. Otherwise the picture is shrunk into 2048 × 2048, then until its short side is at most
    768, and costs ``base + tile × (512-pixel tiles)``: 85 + 170 × 4 = 765 for a square picture on gpt-4o.
    """
    if detail == "low":
        return base
    width, height = max(1, size[0]), max(1, size[1])
    longest = max(width, height)
    if longest > 2048:
        width, height = max(1, width * 2048 // longest), max(1, height * 2048 // longest)
    shortest = min(width, height)
    if shortest > 768:
        width, height = width * 768 // shortest, height * 768 // shortest
    return base + tile * (-(-width // 512) * -(-height // 512))


def anthropic_image_tokens(size: tuple[int, int]) -> int:
    """Anthropic's rule: the long side is shrunk to 1568 pixels, then ``width × height / 750``, rounded up."""
    width, height = max(1, size[0]), max(1, size[1])
    longest = max(width, height)
    if longest > 1568:
        width, height = max(1, width * 1568 // longest), max(1, height * 1568 // longest)
    return -(-width * height // 750)
