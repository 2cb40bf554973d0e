"""Usage meters: from any provider's answer bytes to disjoint usage lines.

``reader(flavour)`` reads one answer format, ``reader_for(provider, api_flavor)`` finds the flavour that a provider
speaks. Readers hold no state; a meter serves one stream. See ``docs/reference/usage.md``.
"""

from farthing.wire.usage.registry import FLAVOURS, reader, reader_for
from farthing.wire.usage.stream import Meter, Reader, SseMeter

__all__ = ["FLAVOURS", "Meter", "Reader", "SseMeter", "reader", "reader_for"]
