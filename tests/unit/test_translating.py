"""What an upstream of another dialect is asked: its body, its view, its headers."""

import msgspec
import pytest

from farthing.adapters.http import HttpTransport
from farthing.adapters.providers.openai import OpenAICodec
from farthing.core.errors import Overloaded, Untranslatable
from farthing.core.types import Request, Scope, Target
from farthing.engine.plan import Plan
from farthing.engine.services import Upstream
from farthing.engine.translating import prepared, shown
from farthing.wire import anthropic

MESSAGE = b'{"model":"some","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"stream":true}'
HEADERS = (
    (b"content-type", b"application/json"),
    (b"x-api-key", b"secret"),
    (b"authorization", b"Bearer secret"),
    (b"anthropic-version", b"2023-06-01"),
    (b"anthropic-beta", b"x"),
    (b"x-stainless-os", b"Linux"),
    (b"user-agent", b"me"),
)


def asked(body=MESSAGE, view=anthropic.view_messages, **more):
    return Request(
        id="r1", received_at_ms=7_000, dialect="anthropic", body=body, headers=HEADERS, view=view(body), scope=Scope()
    )


def upstream(speaks, **more):
    codec = OpenAICodec(name="x", base_url="https://x.example/v1", secret="own")
    return Upstream(codec=codec, transport=HttpTransport(), speaks=speaks, **more)


def target(price_as="openai", model="gpt"):
    return Target(provider="x", price_as=price_as, model=model)


def plan(body=MESSAGE, cap=9):
    return Plan(targets=(target(),), body=body, output_cap=cap, decisions=())


@pytest.mark.parametrize("speaks", ["", "anthropic"])
def test_nothing_is_translated_between_those_who_speak_alike(speaks):
    request = asked()
    made, body = prepared(plan(), request, target(model="some"), upstream(speaks))
    assert body is request.body
    assert made.request is request
    assert made.translation is None


def test_the_upstream_sees_a_request_of_its_own_dialect_and_no_credentials_of_the_callers():
    made, body = prepared(plan(), asked(), target(), upstream("openai"))
    assert (made.request.view.endpoint, made.request.view.model, made.request.body) == ("chat", "gpt", body)
    assert made.request.headers == ((b"content-type", b"application/json"), (b"user-agent", b"me"))
    assert made.translation.losses == ("anthropic-beta",)
    sent = made.request
    wire = upstream("openai").codec.encode(sent, target(), body)
    assert wire.url == "https://x.example/v1/chat/completions"
    assert (b"authorization", b"Bearer own") in wire.headers


@pytest.mark.parametrize(
    ("price_as", "name"), [("openai", "max_completion_tokens"), ("azure", "max_completion_tokens"),
                           ("mistral", "max_tokens"), ("deepseek", "max_tokens")],
)  # fmt: skip
def test_a_server_is_told_the_cap_by_the_name_it_knows(price_as, name):
    made, body = prepared(plan(), asked(), target(price_as), upstream("openai"))
    assert msgspec.json.decode(body)[name] == made.plan.output_cap == 9


def test_the_policys_cap_is_the_one_that_is_translated_and_held():
    capped = anthropic.cap_output(MESSAGE, 5)
    made, body = prepared(plan(capped, 5), asked(), target(), upstream("openai"))
    assert (made.plan.output_cap, made.request.view.output_tokens_max) == (5, 5)
    assert b'"max_completion_tokens":5' in body


def test_a_server_without_stream_options_is_not_sent_any():
    _, body = prepared(plan(), asked(), target(), upstream("openai", include_usage=False))
    assert b"stream_options" not in body
    _, body = prepared(plan(), asked(), target(), upstream("openai"))
    assert b'"stream_options":{"include_usage":true}' in body


@pytest.mark.parametrize(("speaks", "endpoint"), [("gemini", "generate"), ("bedrock", "converse")])
def test_providers_without_callers_get_a_view_of_the_body_that_leaves(speaks, endpoint):
    made, body = prepared(plan(), asked(), target(), upstream(speaks))
    view = made.request.view
    assert (view.endpoint, view.model, view.body_bytes, view.stream) == (endpoint, "gpt", len(body), True)
    assert view.output_tokens_max == 9


def test_counting_tokens_is_not_translated():
    with pytest.raises(Untranslatable, match="'count_tokens' calls cannot be translated"):
        prepared(plan(), asked(view=anthropic.view_count), target(), upstream("openai"))


def test_a_translation_is_noted_once_however_often_it_is_tried():
    decisions = []
    for _ in range(3):
        made, _ = prepared(plan(), asked(), target(), upstream("openai"))
        made.translation.note(decisions)
    assert [one.reason for one in decisions] == ["other_dialect"]


def test_a_providers_failure_keeps_its_class_and_its_waiting_time():
    made, _ = prepared(plan(), asked(), target(), upstream("openai"))
    headers = ((b"retry-after", b"3"), (b"content-type", b"text/html"), (b"server", b"x"))
    error = made.translation.failure(
        Overloaded("x", status=503, headers=headers, body=b'{"error":{"message":"busy"}}')
    )
    assert isinstance(error, Overloaded)
    assert error.headers == ((b"content-type", b"application/json"), (b"retry-after", b"3"))
    assert msgspec.json.decode(error.body)["error"] == {"type": "overloaded_error", "message": "busy"}
    lost = Overloaded("gone", sent=True)
    assert made.translation.failure(lost) is lost, "what nobody answered has no words to translate"


def test_a_long_list_of_losses_stays_a_header():
    names = tuple(f"messages.{'x' * 200}{number}" for number in range(100))
    assert len(shown(names)) < 4_000
    assert shown(names).endswith(",...")
