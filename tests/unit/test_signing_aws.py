"""Signatures of AWS requests: the examples of AWS's own documentation and test suite."""

import pytest

from farthing.core.signing_aws import AwsKeys, signed, signing_key

KEYS = AwsKeys(key_id="AKIDEXAMPLE", secret="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AT = "20150830T123600Z"
FORM = ("content-type", "application/x-www-form-urlencoded")


def signature(method, path, headers=(), body=b"", *, service="service", host="example.amazonaws.com", keys=KEYS):
    found = dict(
        signed(method, f"https://{host}{path}", headers, body, keys, region="us-east-1", service=service, at=AT)
    )
    return found["authorization"].rpartition("Signature=")[2]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "expected"),
    [
        ("GET", "/", (), b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", (), b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET", "/?Param2=value2&Param1=value1", (), b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        ("POST", "/", (FORM,), b"Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
        (
            "POST", "/", (("My-Header1", "value1"),), b"",
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
    ],
    ids=["get-vanilla", "post-vanilla", "get-vanilla-query-order-key-case", "post-x-www-form-urlencoded",
         "post-header-key-sort"],
)  # fmt: skip
def test_the_requests_of_aws_own_suite_get_its_signatures(method, path, headers, body, expected):
    assert signature(method, path, headers, body) == expected


def test_the_documentations_example_gets_its_key_and_signature():
    key = signing_key(KEYS.secret, "20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    found = signature(
        "GET",
        "/?Action=ListUsers&Version=2010-05-08",
        (("content-type", "application/x-www-form-urlencoded; charset=utf-8"),),
        service="iam",
        host="iam.amazonaws.com",
    )
    assert found == "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"


def test_everything_that_is_signed_changes_the_signature_and_other_headers_do_not():
    plain = signature("POST", "/model/a%3A0/converse", (("content-type", "application/json"),), b"{}")
    ways = [
        signature("GET", "/model/a%3A0/converse", (("content-type", "application/json"),), b"{}"),
        signature("POST", "/model/a:0/converse", (("content-type", "application/json"),), b"{}"),
        signature("POST", "/model/a%3A0/converse", (("content-type", "text/plain"),), b"{}"),
        signature("POST", "/model/a%3A0/converse", (("content-type", "application/json"),), b"{} "),
        signature("POST", "/model/a%3A0/converse", (("content-type", "application/json"),), b"{}", host="b.com"),
    ]
    assert plain not in ways
    assert len(set(ways)) == len(ways)
    more = (("content-type", "application/json"), ("user-agent", "x"), ("traceparent", "y"))
    assert signature("POST", "/model/a%3A0/converse", more, b"{}") == plain


def test_temporary_credentials_send_and_sign_their_token():
    keys = AwsKeys(key_id="AKIDEXAMPLE", secret=KEYS.secret, token="session-token")
    found = dict(signed("POST", "https://h/", (), b"", keys, region="r", service="s", at=AT))
    assert found["x-amz-security-token"] == "session-token"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in found["authorization"]


def test_no_secret_is_ever_shown():
    assert "wJalr" not in repr(KEYS)
    assert "wJalr" not in str(signed("GET", "https://h/", (), b"", KEYS, region="r", service="s", at=AT))
