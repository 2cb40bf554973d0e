"""The bytes that go to Gemini and Bedrock."""

import msgspec
import pytest

from farthing.adapters.providers.bedrock import BedrockCodec
from farthing.adapters.providers.gemini import GeminiCodec
from farthing.config import parse
from farthing.core.errors import Overloaded, RateLimited, Rejected, TimedOut
from farthing.core.types import PromptView, Request, Scope, Target

HEADERS = ((b"content-type", b"application/json"), (b"authorization", b"Bearer caller"), (b"x-own", b"1"))
GEMINI = GeminiCodec(name="g", base_url="https://g.example/v1beta/", secret="s3", headers=(("X-More", "m"),))
BEDROCK = BedrockCodec(name="b", base_url="https://b.example", secret="s3")


def request(endpoint, **more):
    view = PromptView(endpoint=endpoint, model="m", body_bytes=100, output_tokens_max=7, **more)
    return Request(id="r", received_at_ms=0, dialect="openai", body=b"{}", headers=HEADERS, view=view, scope=Scope())


def target(model):
    return Target(provider="p", price_as="p", model=model)


@pytest.mark.parametrize(
    ("codec", "endpoint", "stream", "model", "url"),
    [
        (GEMINI, "generate", False, "gemini-x", "https://g.example/v1beta/models/gemini-x:generateContent"),
        (GEMINI, "generate", True, "a/b", "https://g.example/v1beta/models/a%2Fb:streamGenerateContent?alt=sse"),
        (BEDROCK, "converse", False, "us.a-v1:0", "https://b.example/model/us.a-v1%3A0/converse"),
        (BEDROCK, "converse", True, "arn:aws:x/y", "https://b.example/model/arn%3Aaws%3Ax%2Fy/converse-stream"),
    ],
)
def test_the_model_and_whether_it_streams_stand_in_the_path(codec, endpoint, stream, model, url):
    made = codec.encode(request(endpoint, stream=stream), target(model), b"body")
    assert (made.method, made.url, made.body) == ("POST", url, b"body")


def test_each_provider_gets_its_own_key_and_never_the_callers():
    headers = dict(GEMINI.encode(request("generate"), target("m"), b"").headers)
    assert headers == {
        b"content-type": b"application/json",
        b"x-own": b"1",
        b"x-more": b"m",
        b"x-goog-api-key": b"s3",
    }
    headers = dict(BEDROCK.encode(request("converse"), target("m"), b"").headers)
    assert headers[b"authorization"] == b"Bearer s3"
    unkeyed = BedrockCodec(name="b", base_url="https://b.example").encode(request("converse"), target("m"), b"")
    assert b"authorization" not in dict(unkeyed.headers)


def test_bounds_cover_tools_pictures_and_cache_writes():
    plain = BEDROCK.bounds(request("converse"), target("m"))
    assert (plain.output_tokens, plain.cache_write, plain.service_tier) == (7, False, "default")
    assert plain.input_tokens >= 100
    rich = BEDROCK.bounds(request("converse", images=2, tools=1, cache_marks=1, cache_ttl_long=True), target("m"))
    assert rich.input_tokens >= plain.input_tokens + 2 * 4_784 + 530
    assert (rich.cache_write, rich.cache_ttl_long) == (True, True)
    shown = GEMINI.bounds(request("generate", images=1), target("m"))
    assert shown.input_tokens >= 100 + 2_240
    assert not shown.cache_write, "Gemini's implicit cache charges no writes"


@pytest.mark.parametrize("codec", [GEMINI, BEDROCK])
@pytest.mark.parametrize(
    ("status", "kind"), [(400, Rejected), (403, Rejected), (404, Rejected), (429, RateLimited), (503, Overloaded),
                         (500, Overloaded), (504, TimedOut), (408, TimedOut)],
)  # fmt: skip
def test_failures_are_of_the_classes_that_policies_name(codec, status, kind):
    assert type(codec.failure(status, (), b"{}")) is kind


def test_google_says_in_the_body_how_long_to_wait():
    body = msgspec.json.encode({"error": {"details": [{"@type": "x/google.rpc.RetryInfo", "retryDelay": "17s"}]}})
    assert GEMINI.failure(429, (), body).retry_after_ms == 17_000
    assert GEMINI.failure(429, ((b"retry-after", b"3"),), body).retry_after_ms == 3_000
    assert GEMINI.failure(429, (), b"{}").retry_after_ms is None


def test_the_clouds_are_known_by_name_and_priced_as_themselves_by_any_name():
    toml = """
[[providers]]
name = "gemini"
[[providers]]
name = "bedrock"
base_url = "https://bedrock-runtime.us-east-1.amazonaws.com"
[[providers]]
name = "paris"
kind = "bedrock"
base_url = "https://bedrock-runtime.eu-west-3.amazonaws.com"
models = ["eu.*"]
"""
    gemini, bedrock, paris = parse(toml, env={"HOME": "/home/ada"}, source="x").providers
    assert (gemini.kind, gemini.price_as, gemini.api_key_env) == ("gemini", "google", "GEMINI_API_KEY")
    assert (bedrock.kind, bedrock.price_as, bedrock.api_key_env) == ("bedrock", "aws", "AWS_BEARER_TOKEN_BEDROCK")
    assert (paris.price_as, paris.models) == ("aws", ("eu.*",))
