"""Bodies of one dialect in the words of another, through the one form of ``farthing.wire.canonical``.

Pure: bytes in, bytes out. Whatever a request says arrives at the other side, is named among the losses, or is refused
with the field's name.
"""

from farthing.wire.translate.answers import Frame
from farthing.wire.translate.requests import Translated, translate_request
from farthing.wire.translate.returns import StreamTranslator, failure_for, translate_answer

__all__ = ["Frame", "StreamTranslator", "Translated", "failure_for", "translate_answer", "translate_request"]
