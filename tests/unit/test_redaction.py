"""What is kept of text when the policy says "redacted"."""

import re

import pytest

from farthing.core.redaction import Redactor

SECRETS = [
    "sk-proj-abcdefghij1234567890",
    "fk-" + "a1B2" * 10,
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdefghijkl",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "Bearer abcdefghijklmnop.qrs",
    "ada.lovelace+x@mail.example.co.uk",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "DE89 3704 0044 0532 0130 00",
    "+49 30 1234567",
    "+1 (415) 555-0132",
    "(415) 555-0132",
    "415-555-0132",
    "030 1234567",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ['{{"content":"{}"}}', "say {} now", "{}", "a,{};b"])
def test_secrets_and_personal_data_are_replaced(secret, around):
    kept = Redactor().redact(around.format(secret).encode())
    assert secret.encode() not in kept
    core = max(re.split(r"[ @.+()-]", secret), key=len)
    assert core.encode() not in kept, kept


@pytest.mark.parametrize(
    "text",
    [
        "The harbour has 12 ships and 3,400 visitors in 2026.",
        '{"model":"gpt-4o-2024-08-06","max_tokens":1000,"temperature":0.25}',
        "Version 1.2.3 costs $12.50 per 1000000 tokens",
        "sk- is a prefix; risk-averse; task-list",
        "Größe ☂ 北京",
        "skateboarding-champions of 2024-08-06 12:30, ghostwriters-anonymous, 10.20.30.40",
        '{"created":1795258075,"total":123456789}',
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert Redactor().redact(text.encode()) == text.encode()


def test_the_policys_own_patterns_are_added():
    assert Redactor((r"ship-\d+",)).redact(b"ship-17 sails") == b"[redacted] sails"
    with pytest.raises(re.error):
        Redactor(("(",))
