"""Reasoning that comes back: whose signature it is must survive a dialect that knows only one provider's.

OpenAI's ``encrypted_content`` carries another provider's signature with that provider's name in front, so that the
next turn can take it apart again and no provider is given a signature it did not make.
"""

from typing import Final, Literal

from farthing.wire.canonical import Thinking

Signer = Literal["", "anthropic", "openai", "google"]
_NAMES: Final[tuple[Signer, ...]] = ("anthropic", "google")
_REDACTED: Final = "-redacted"


def sealed(part: Thinking) -> str:
    """The value of ``encrypted_content``; empty when there is nothing to give back."""
    if not part.signature or part.signer in ("", "openai"):
        return part.signature
    return f"{part.signer}{_REDACTED if part.redacted else ''}:{part.signature}"


def unsealed(shown: str, value: str) -> Thinking:
    """The reasoning that ``shown`` and ``encrypted_content`` stand for."""
    head, colon, rest = value.partition(":")
    for name in _NAMES:
        if colon and head in (name, name + _REDACTED):
            return Thinking(text=shown, signature=rest, redacted=head != name, signer=name)
    return Thinking(text=shown, signature=value, signer="openai" if value else "")
