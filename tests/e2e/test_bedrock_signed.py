"""Bedrock without an API key: requests are signed, and the simulator checks the signatures as Amazon would."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from farthing import bootstrap
from farthing.core.errors import ConfigError
from farthing.sim.aws_signature import KEY_ID, SECRET
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer

MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def bedrock(url: str, more: str = 'region = "eu-west-1"') -> str:
    retries = "[retries]\nattempts_max = 1\n"
    return f'{retries}[[providers]]\nname = "bedrock"\nbase_url = "{url}"\napi_key_env = "NO_SUCH_KEY"\n{more}\n'


def ask(gateway: GatewayServer, *, stream: bool = False) -> str:
    messages = [{"role": "user", "content": "What is a harbour? Ünïcode, too."}]
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        got = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=40, stream=stream)
        if not stream:
            return got.choices[0].message.content or ""
        return "".join(chunk.choices[0].delta.content or "" for chunk in got if chunk.choices)


def test_requests_are_signed_with_the_keys_of_the_environment_streaming_and_not(
    stack: ExitStack, tmp_path: Path
) -> None:
    sim = stack.enter_context(SimServer(SimSettings()))
    env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "token"}
    gateway = stack.enter_context(GatewayServer(tmp_path / "home", bedrock(sim.url), env=env))
    assert ask(gateway)
    assert ask(gateway, stream=True)
    assert all(entry.charge.total for entry in gateway.books.settled(2))


def test_a_wrong_secret_is_the_providers_refusal_and_is_nowhere_to_be_read(
    stack: ExitStack, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sim = stack.enter_context(SimServer(SimSettings()))
    env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    gateway = stack.enter_context(GatewayServer(tmp_path / "home", bedrock(sim.url), env=env))
    with pytest.raises(openai.APIStatusError) as error:
        ask(gateway)
    assert error.value.status_code in (401, 403)
    assert "not-the-secret" not in str(error.value) + "".join(capfd.readouterr())


def test_rotated_keys_are_used_at_once(stack: ExitStack, tmp_path: Path) -> None:
    sim = stack.enter_context(SimServer(SimSettings()))
    path = tmp_path / "credentials"
    form = "[default]\naws_access_key_id = x\naws_secret_access_key = y\n[work]\naws_access_key_id = {}\n"
    path.write_text(form.format(KEY_ID) + "aws_secret_access_key = old\n")
    more = f'region = "eu-west-1"\naws_credentials_file = "{path}"\naws_profile = "work"'
    gateway = stack.enter_context(GatewayServer(tmp_path / "home", bedrock(sim.url, more)))
    with pytest.raises(openai.APIStatusError):
        ask(gateway)
    time.sleep(0.02)
    path.write_text(form.format(KEY_ID) + f"aws_secret_access_key = {SECRET}\n")
    assert ask(gateway)
    path.write_text("half a file")
    assert ask(gateway)  # whoever writes it is not done yet


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("", "region is missing"),
        ('region = "eu-west-1"\naws_credentials_file = "/no/such/file"', "cannot be read"),
        ('region = "eu-west-1"\naws_credentials_file = "{file}"\naws_profile = "other"', "no profile 'other'"),
    ],
)
def test_what_is_missing_is_said_at_the_start(tmp_path: Path, more: str, why: str) -> None:
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = very-secret\n")
    env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    toml = bedrock("http://127.0.0.1:9", more.replace("{file}", str(path)))
    with pytest.raises(ConfigError, match=why) as error:
        bootstrap.build(GatewayServer(tmp_path / "home", toml, env=env).settings, env=env)
    assert "very-secret" not in str(error.value)
