"""A model that got worse in the simulator, words put into its mouth, and signatures that it checks."""

import httpx
import pytest

from farthing.core.signing_aws import AwsKeys, signed
from farthing.sim.aws_signature import KEY_ID, SECRET
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings

MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"


@pytest.fixture(scope="module")
def sim():
    with SimServer(SimSettings()) as server:
        yield server


def said(sim, content="JSON, please", fault=""):
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": content}],
        "response_format": {"type": "json_object"},
    }
    headers = {"authorization": "Bearer sk-sim", **({"x-sim-fault": fault} if fault else {})}
    answer = httpx.post(f"{sim.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_a_worse_model_says_other_words_without_structure_and_the_same_each_time(sim):
    usual = said(sim)
    assert usual.startswith("{")
    worse = said(sim, fault="worse")
    assert not worse.startswith("{")
    assert said(sim, fault="worse") == worse
    assert said(sim) == usual


def test_words_are_put_into_its_mouth(sim):
    assert said(sim, "[sim: say=simple]") == "simple"
    assert said(sim, "[sim: say=simple]", fault="worse") != "simple"


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        (AwsKeys(key_id=KEY_ID, secret=SECRET), 200),
        (AwsKeys(key_id=KEY_ID, secret="other"), 403),
        (AwsKeys(key_id="AKIDOTHER", secret=SECRET), 403),
    ],
)
def test_signatures_are_checked(sim, keys, status):
    url = f"{sim.url}/model/{MODEL.replace(':', '%3A')}/converse"
    body = b'{"messages":[{"role":"user","content":[{"text":"hi"}]}]}'
    headers = {"content-type": "application/json"}
    headers |= dict(
        signed("POST", url, headers.items(), body, keys, region="eu-west-1", service="bedrock", at="20261121T180000Z")
    )
    assert httpx.post(url, content=body, headers=headers, timeout=60).status_code == status
    assert httpx.post(url, content=body + b" ", headers=headers, timeout=60).status_code == 403
    unsigned = {**headers, "authorization": "AWS4-HMAC-SHA256 Credential=x"}
    assert httpx.post(url, content=body, headers=unsigned, timeout=60).status_code == 403
