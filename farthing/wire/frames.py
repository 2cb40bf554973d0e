"""AWS event-stream frames as server-sent events, so that one tap, one meter and one translator serve every stream."""

from collections.abc import AsyncIterator

from farthing.wire.usage.bedrock_frames import FrameSplitter


def as_events(splitter: FrameSplitter, chunk: bytes) -> bytes:
    """The events that ``chunk`` completes, named as their frames are. Raises ``StreamBroken``."""
    return b"".join(
        b"event: " + frame.event.encode("ascii", "replace") + b"\ndata: " + frame.payload + b"\n\n"
        for frame in splitter.feed(chunk)
    )


async def unframed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A framed stream as server-sent events, as it comes."""
    splitter = FrameSplitter()
    async for chunk in chunks:
        events = as_events(splitter, chunk)
        if events:
            yield events
