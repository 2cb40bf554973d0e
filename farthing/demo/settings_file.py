"""The demo's ``farthing.toml``: written into its home so that it can be read, then parsed like anyone's."""

import json
from pathlib import Path
from typing import Final

from farthing.config import Settings, parse
from farthing.core.money import Nusd, format_usd
from farthing.demo.company import AGENT, GROWTH, ORG, OUTAGE_MODEL, YOUR_TEAM
from farthing.demo.plan import Plan

FIRST_BYTE_TIMEOUT_MS: Final = 1_500
WATCHED_NUSD: Final = 300_000
"""The soft budget on the search team's models, per call of the whole day."""
PROVIDER_KEY_FILE: Final = "provider-key"
FILE: Final = "farthing.toml"

_TEXT: Final = """\
# What `farthing demo` runs with. Every setting: docs/reference/configuration.md.
# Budgets name the time zone in which the demo's day is one calendar day.

on_disconnect = "drain"          # callers who hang up: read the answer to its end, book what it cost
reservation_ttl = "1d"           # the demo's clock runs {speed:,} times as fast as yours; the default is 15m

[server]
host = "127.0.0.1"
port = {port}
shutdown_timeout = "3s"

[[providers]]                    # both are the simulator
name = "openai"
base_url = {openai}
api_key_file = {key_file}

[[providers]]
name = "anthropic"
base_url = {anthropic}
api_key_file = {key_file}
models = ["claude-*"]

[limits]
output_tokens_max = 2000         # larger or missing output caps are set to this
first_byte_timeout = "{first_byte_ms}ms"
timeout = "60s"

[retries]
attempts_max = 3
backoff = "20ms"                 # the demo is in a hurry; the default is 250ms
backoff_max = "200ms"

[[fallbacks]]
model = "{outage_model}"
to = ["gpt-4.1-mini"]

[[fallbacks]]
model = "claude-opus-4-5"
to = ["claude-sonnet-4-5"]

# One call: at most 8,000 tokens in and 2,000 out.
[[budgets]]
name = "one-call"
per = "request"
input_tokens = 8000
output_tokens = 2000

# Nested: the whole company, every team, every user.
[[budgets]]
name = "company-month"
per = "month"
usd = "500.00"
match = {{ org = "{org}" }}
timezone = "{zone}"

[[budgets]]
name = "team-month"
per = "month"
tokens = 10000000
each = ["team"]
timezone = "{zone}"

[[budgets]]
name = "user-day"
per = "day"
tokens = 100000
each = ["user"]
timezone = "{zone}"

# Too small for its day: it runs out in the afternoon.
[[budgets]]
name = "growth-month"
per = "month"
usd = "{growth}"
match = {{ team = "{growth_team}" }}
timezone = "{zone}"

# What stops the agent that calls in a loop.
[[budgets]]
name = "agent-day"
per = "day"
usd = "{agent}"
match = {{ team = "research", feature = "{agent_feature}" }}
timezone = "{zone}"

# The key that the demo prints for you.
[[budgets]]
name = "your-day"
per = "day"
usd = "5.00"
match = {{ team = "{your_team}" }}

# Counted and shown, never refused.
[[budgets]]
name = "watched-models"
per = "day"
usd = "{watched}"
each = ["model"]
match = {{ team = "search" }}
timezone = "{zone}"
hard = false
"""


def write_settings(home: Path, plan: Plan, *, port: int, provider_url: str, zone: str, speed: int) -> Settings:
    """Writes the file and the simulator's key into ``home``; the parsed settings. Raises ``ConfigError``."""
    key_file = home / PROVIDER_KEY_FILE
    key_file.write_text("sk-demo-simulator\n", encoding="utf-8")
    key_file.chmod(0o600)
    text = _TEXT.format(
        speed=speed,
        port=port,
        openai=json.dumps(f"{provider_url}/v1"),
        anthropic=json.dumps(f"{provider_url}/v1"),
        key_file=json.dumps(str(key_file)),
        first_byte_ms=FIRST_BYTE_TIMEOUT_MS,
        outage_model=OUTAGE_MODEL,
        org=ORG,
        zone=zone,
        growth_team=GROWTH,
        growth=_growth_budget(plan),
        agent=_agent_budget(plan),
        watched=_cents(len(plan.calls) * WATCHED_NUSD),
        agent_feature=AGENT.name,
        your_team=YOUR_TEAM,
    )
    path = home / FILE
    path.write_text(text, encoding="utf-8")
    return parse(text, env={"FARTHING_HOME": str(home)}, source=str(path))


def _growth_budget(plan: Plan) -> str:
    """About 60 % of what the team would spend: used up between two and four in the afternoon."""
    whole = sum(call.feature.about_nusd for call in plan.calls if call.feature.team == GROWTH)
    return _cents(whole * 6 // 10)


def _agent_budget(plan: Plan) -> str:
    """A third of what the agent's loop would cost."""
    return _cents(sum(call.feature.about_nusd for call in plan.calls if call.feature is AGENT) // 3)


def _cents(nusd: int) -> str:
    return format_usd(Nusd(max(nusd, 10_000_000)), 2)
