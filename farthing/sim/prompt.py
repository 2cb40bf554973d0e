"""A prompt as a list of blocks: the one shape that token counts, prompt caches and answers are computed from."""

from hashlib import blake2b

import msgspec


class Block(msgspec.Struct, frozen=True):
    """A stretch of the prompt that a cache mark can follow."""

    text: str
    """What the cache compares: the text, or an image's digest."""
    tokens: int
    """Model tokens of this block, overheads included."""
    ttl: str = ""
    """``5m`` or ``1h`` when the block carries an Anthropic cache mark."""
    pseudo: bool = False
    """``text`` is a label, not text to tokenise (images, role markers)."""


class Prompt(msgspec.Struct, frozen=True):
    """Everything the model reads."""

    blocks: tuple[Block, ...]
    images: int = 0
    ask: str = ""
    """The last user text: it steers the answer's length and may carry directives."""
    after_tool: bool = False
    """The last turn is a tool's result."""

    @property
    def tokens(self) -> int:
        """Model tokens of the whole prompt."""
        return sum(block.tokens for block in self.blocks)

    def digest(self) -> bytes:
        """Identifies the prompt's content; cache marks do not change it."""
        state = blake2b(digest_size=16)
        for block in self.blocks:
            state.update(block.text.encode("utf-8", "replace"))
            state.update(b"\0")
        return state.digest()
