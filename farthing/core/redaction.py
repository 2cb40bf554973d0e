"""Removing secrets and personal data from text before the traffic log keeps it."""

import re
from typing import Final

_ALWAYS: Final = (
    (
        rb"\b(?:(?:sk|fk|pk|rk)[-_]|xox[abprs]-|gh[pousr]_|(?:AKIA|ASIA)(?=[A-Z0-9]))[-_A-Za-z0-9]{12,}\b",
        b"[secret]",
    ),
    (rb"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\b", b"[token]"),
    (rb"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{12,}=*", b"[secret]"),
    (
        rb"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b",
        b"[email]",
    ),
    (rb"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b", b"[iban]"),
    (rb"\b\d(?:[ -]?\d){12,18}\b", b"[number]"),
    (rb"(?<![\w.+])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,7}){1,4}(?![\w.])", b"[phone]"),
    (rb"(?<!\w)\(\d{2,5}\)[ .-]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}(?![\w.])", b"[phone]"),
    (rb"(?<![\w.-])(?:\d{3}[ .-]\d{3}[ .-]\d{4}|0\d{1,4}[ /-]\d{4,8})(?![\w.-])", b"[phone]"),
)
"""Numbers without a plus sign, brackets or a phone's grouping stay: dates, prices and counts are no phone numbers."""


class Redactor:
    """Replaces what must not be kept. Patterns compile once; matching is linear in the text."""

    def __init__(self, extra: tuple[str, ...] = ()) -> None:
        """``extra`` are regular expressions of the policy. Raises ``re.error`` for a malformed one."""
        self._rules = [(re.compile(pattern), label) for pattern, label in _ALWAYS]
        self._rules.extend((re.compile(pattern.encode()), b"[redacted]") for pattern in extra)

    def redact(self, text: bytes) -> bytes:
        """The text with every match replaced by a label that says what stood there."""
        for pattern, label in self._rules:
            text = pattern.sub(label, text)
        return text
