"""How each contender is installed, configured and started. All forward to the same fake provider."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
CACHE = HERE / ".cache"


@dataclass(frozen=True)
class Started:
    """A command that serves the gateway on the port it was made for, and the key that callers use."""

    command: list[str]
    key: str = "sk-bench"
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Contender:
    name: str
    says: str
    prepare: Callable[[pathlib.Path, int, int], Started]
    """(a folder of its own, the port to serve, the upstream's port)."""
    slow: bool = False


def _nginx(home: pathlib.Path, port: int, upstream: int) -> Started:
    binary = shutil.which("nginx") or ("/usr/sbin/nginx" if pathlib.Path("/usr/sbin/nginx").exists() else None)
    if binary is None:
        raise SystemExit("The benchmark compares with nginx: apt-get install nginx-light")
    temporary = "".join(f" {kind}_temp_path {home}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"""
daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {home}/body;{temporary}
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000000;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""",
        encoding="utf-8",
    )
    return Started([binary, "-e", f"{home}/error.log", "-c", f"{home}/nginx.conf"])


def _litellm(home: pathlib.Path, port: int, upstream: int) -> Started:
    binary = CACHE / "litellm" / "bin" / "litellm"
    if not binary.exists():
        print("installing LiteLLM into bench/.cache/litellm (once) …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "litellm")], check=True)
        pip = [str(CACHE / "litellm" / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "litellm[proxy]"], check=True)
    model = {"model": "openai/gpt-4o-mini", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-upstream"}
    settings = {
        "model_list": [{"model_name": "gpt-4o-mini", "litellm_params": model}],
        "general_settings": {"master_key": "sk-bench"},
    }
    (home / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    command = [str(binary), "--config", f"{home}/config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    env = (("LITELLM_LOG", "ERROR"), ("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_MODE", "PRODUCTION"))
    return Started([*command, "--num_workers", "1"], env=env)


_SCOPE = ("--org", "acme", "--team", "search", "--project", "assistant", "--user", "u1042", "--feature", "chat")


def _unlogged(home: pathlib.Path, port: int, upstream: int) -> Started:
    """The same without the traffic log: keys, four nested hard budgets, the ledger with strict durability."""
    return _farthing(home, port, upstream, logs=False)


def _farthing(home: pathlib.Path, port: int, upstream: int, *, logs: bool = True) -> Started:
    """Everything on: keys, four nested hard budgets, the ledger with strict durability, the traffic log."""
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "farthing.toml").write_text(
        f"""
[server]
durability = "strict"

[exchange_log]
enabled = {str(logs).lower()}

[[providers]]
name = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key_env = "BENCH_UPSTREAM_KEY"

[[budgets]]
name = "org"
per = "month"
usd = "1000000"
each = ["org"]

[[budgets]]
name = "team"
per = "month"
usd = "1000000"
each = ["org", "team"]

[[budgets]]
name = "user"
per = "day"
usd = "1000000"
each = ["user"]

[[budgets]]
name = "key"
per = "day"
usd = "1000000"
each = ["key"]
""",
        encoding="utf-8",
    )
    farthing = str(pathlib.Path(sys.executable).parent / "farthing")
    base = [farthing, "--home", f"{home}/data", "--config", f"{home}/farthing.toml"]
    env = {**os.environ, "BENCH_UPSTREAM_KEY": "sk-upstream"}
    create = [*base, "key", "create", "bench", *_SCOPE, "--format", "json"]
    made = subprocess.run(create, env=env, check=True, capture_output=True, text=True)
    key = _find(json.loads(made.stdout), "secret")
    return Started([*base, "serve", "--port", str(port)], key=key, env=(("BENCH_UPSTREAM_KEY", "sk-upstream"),))


def _find(value: object, name: str) -> str:
    """The first ``name`` anywhere in a JSON document."""
    if isinstance(value, dict):
        if isinstance(value.get(name), str):
            return str(value[name])
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        if found := _find(item, name):
            return found
    return ""


def _stack(module: str) -> Callable[[pathlib.Path, int, int], Started]:
    def prepare(home: pathlib.Path, port: int, upstream: int) -> Started:
        return Started([sys.executable, str(HERE / "stacks" / f"{module}.py"), str(port), str(upstream)])

    return prepare


GATEWAYS = (
    Contender("nginx", "reverse proxy, C", _nginx),
    Contender("farthing", "keys, 4 budgets, ledger, log, strict", _farthing),
    Contender("unlogged", "farthing without its traffic log", _unlogged),
    Contender("litellm", "proxy, no database, no budgets", _litellm, slow=True),
)
STACKS = (
    Contender("raw", "asyncio.Protocol + our client", _stack("raw")),
    Contender("uvicorn", "uvicorn, plain ASGI + our client", _stack("uvicorn_plain")),
    Contender("starlette", "uvicorn, starlette + our client", _stack("starlette_app")),
    Contender("httpx", "uvicorn, plain ASGI + httpx", _stack("httpx_app")),
)
