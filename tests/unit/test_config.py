"""The grammar of farthing.toml: what it means, what it refuses, and that it says everything at once."""

import tomllib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.config import Settings, config_candidates, default_home, load, notes, parse
from farthing.config.grammar import LISTS, SECTIONS, TOP
from farthing.config.presets import PRESETS
from farthing.core.budget import Budgets, Need
from farthing.core.errors import ConfigError
from farthing.core.types import Scope

ENV = {"HOME": "/home/ada"}


def read(text: str, env: dict[str, str] | None = None) -> Settings:
    return parse(text, env=ENV if env is None else env, source="farthing.toml")


def problems(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, env)
    return "\n".join(caught.value.problems)


def test_an_empty_file_means_openai_and_anthropic_on_loopback():
    found = read("")
    assert [(p.name, p.kind, p.base_url, p.api_key_env) for p in found.providers] == [
        ("openai", "openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("anthropic", "anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    ]
    assert (found.server.host, found.server.port) == ("127.0.0.1", 8484)
    assert found.home == "/home/ada/.local/share/farthing"


def test_a_provider_is_three_lines():
    found = read('[[providers]]\nname = "groq"\napi_key_env = "MY_GROQ"\n')
    (groq,) = found.providers
    assert groq.base_url == "https://api.groq.com/openai/v1"
    assert groq.api_key_env == "MY_GROQ"
    assert "llama-*" in groq.models


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_complete_once_it_has_an_address(name):
    found = read(f'[[providers]]\nname = "{name}"\nbase_url = "http://127.0.0.1:9/v1/"\n')
    assert found.providers[0].base_url == "http://127.0.0.1:9/v1"
    assert found.providers[0].kind == PRESETS[name].kind


def test_an_azure_provider_by_any_name_is_priced_as_azure():
    found = read('[[providers]]\nname = "eu"\nkind = "azure"\nbase_url = "https://x.openai.azure.com"\n')
    assert found.providers[0].price_as == "azure"


def test_every_setting_of_a_full_file_arrives():
    found = read(
        """
        on_disconnect = "cancel"
        on_store_failure = "allow"
        reservation_ttl = "20m"

        [server]
        host = "0.0.0.0"
        port = 9000
        workers = 2
        durability = "relaxed"
        shutdown_timeout = "250ms"
        allow_open = true

        [[providers]]
        name = "openai"
        models = ["gpt-*"]
        headers = { x-b = "2", x-a = "1" }
        price_models = { prod = "gpt-4o" }
        http = "2"

        [[providers]]
        name = "local"
        base_url = "http://127.0.0.1:8000/v1"
        include_usage = false

        [[budgets]]
        name = "search"
        per = "month"
        usd = "500.000000001"
        output_tokens = 7
        each = ["user", "tag:env"]
        match = { team = "search" }
        timezone = "Europe/Berlin"
        hard = false

        [[budgets]]
        name = "call"
        per = "request"
        usd = 2

        [limits]
        output_tokens_max = 2000
        timeout = "2m"

        [retries]
        attempts_max = 1
        backoff = "1s"
        on = ["rate_limited"]

        [[fallbacks]]
        model = "gpt-*"
        to = ["local/llama", "gpt-4o-mini"]

        [unpriced]
        action = "ceiling"
        output_usd_per_million = "12.5"

        [exchange_log]
        text = "redacted"
        retention_days = 7
        redact = ["EMP-[0-9]+"]
        """
    )
    policy = found.policy
    assert (policy.on_disconnect, policy.on_store_failure, policy.reservation_ttl_ms) == (
        "cancel",
        "allow",
        1_200_000,
    )
    assert (found.server.shutdown_timeout_ms, found.server.workers, found.server.allow_open) == (250, 2, True)
    assert found.providers[0].headers == (("x-a", "1"), ("x-b", "2"))
    assert found.providers[0].price_models == (("prod", "gpt-4o"),)
    search, call = policy.budgets
    assert search.limits == (("usd", 500_000_000_001), ("output_tokens", 7))
    assert (search.each, search.match, search.hard) == (("user", "tag:env"), (("team", "search"),), False)
    assert call.limits == (("usd", 2_000_000_000),)
    assert (policy.limits.output_tokens_max, policy.limits.timeout_ms) == (2000, 120_000)
    assert (policy.retries.backoff_ms, policy.retries.on) == (1000, ("rate_limited",))
    assert policy.fallbacks[0].to == ("local/llama", "gpt-4o-mini")
    assert (policy.unpriced.action, policy.unpriced.output_usd_per_million) == ("ceiling", "12.5")
    assert (policy.log.text, policy.log.retention_days, policy.log.redact) == ("redacted", 7, ("EMP-[0-9]+",))


def test_the_four_customary_token_limits_can_be_written():
    """C066: input and output per request, tokens per user and day, tokens per team and month."""
    found = read(
        """
        [[budgets]]
        name = "call"
        per = "request"
        input_tokens = 8000
        output_tokens = 2000

        [[budgets]]
        name = "user"
        per = "day"
        tokens = 100000
        each = ["user"]

        [[budgets]]
        name = "team"
        per = "month"
        tokens = 10000000
        each = ["team"]
        """
    )
    assert [(one.per, one.each, one.limits) for one in found.policy.budgets] == [
        ("request", (), (("input_tokens", 8_000), ("output_tokens", 2_000))),
        ("day", ("user",), (("tokens", 100_000),)),
        ("month", ("team",), (("tokens", 10_000_000),)),
    ]
    budgets = Budgets(found.policy.budgets)
    need = Need(usd=None, input_tokens=8_001, output_tokens=2_000)
    assert budgets.violation(Scope(user="ada"), provider="openai", model="gpt-4o", need=need) is not None


WRONG = [
    ("on_disconect = 'drain'", 'on_disconect: unknown setting (did you mean "on_disconnect"?)'),
    ("[server]\nprot = 1", 'server.prot: unknown setting (did you mean "port"?)'),
    ("[server]\nport = 0", "server.port: is 0; allowed is 1 to 65,535"),
    ("[server]\nport = 65536", "server.port: is 65536; allowed is 1 to 65,535"),
    ("[server]\nport = '80'", 'server.port: is "80"; a whole number is expected'),
    ("[server]\nport = true", "server.port: is true"),
    ("server = 3", "server: is 3; a section is expected: [server]"),
    ("budgets = 3", "budgets: is 3; sections with double brackets are expected: [[budgets]]"),
    ("[server]\nshutdown_timeout = 30", "server.shutdown_timeout: is 30; a duration with its unit"),
    ("[server]\nshutdown_timeout_ms = 30", 'write shutdown_timeout = "30s"'),
    (
        "[[budgets]]\nname='a'\nper='day'\nusd=12.5",
        'budgets[0].usd: is 12.5, a float, and floats are inexact; write "12.5"',
    ),
    ("[[budgets]]\nname='a'\nper='day'\nusd='-1'", "budgets[0].usd:"),
    ("[[budgets]]\nname='a'\nper='day'\nusd='0.0000000001'", "at most nine decimals"),
    ("[[budgets]]\nname='a'\nper='day'\nusd='1e9'", "dollars are digits"),
    ("[[budgets]]\nname='a'\nper='day'", "budgets[0]: limits nothing"),
    ("[[budgets]]\nname='a'\nper='request'\nrequests=1", "means nothing"),
    ("[[budgets]]\nname='a'\nusd='1'", "budgets[0].per: is missing"),
    ("[[budgets]]\nname='a'\nper='day'\nusd='1'\neach=['usr']", 'did you mean "user"?'),
    ("[[budgets]]\nname='a'\nper='day'\nusd='1'\nmatch={tem='x'}", 'did you mean "team"?'),
    ("[[budgets]]\nname='a'\nper='day'\nusd='1'\ntimezone='Europe/Berln'", 'did you mean "Europe/Berlin"?'),
    ("[[budgets]]\nname='a'\nper='day'\nusd='1'\ntimezone='../etc'", "IANA time zone"),
    ("[[budgets]]\nname='a'\nper='day'\nusd='1'\n[[budgets]]\nname='a'\nper='day'\nusd='1'", '"a" is used 2 times'),
    ("[[providers]]\nname='x'", "providers[0].base_url: is missing"),
    ("[[providers]]\nname='azure'", "its address depends on your installation"),
    ("[[providers]]\nname='x'\nbase_url='ftp://h'", "an address such as"),
    ("[[providers]]\nname='x'\nbase_url='https://a:b@h'", "user name or password"),
    ("[[providers]]\nname='openai'\napi_key='abc'", "secrets are never written in the file"),
    ("[[providers]]\nname='openai'\napi_key_env='sk-abcdefghijklmnopqrstuvwx'", "looks like a secret"),
    ("[[providers]]\nname='openai'\nheaders={Authorization='Bearer abcdefghijkl'}", "looks like a secret"),
    ("[[providers]]\nname='openai'\napi_key_env='A'\napi_key_file='/b'", "keep one"),
    ("[[providers]]\nname='openai'\n[[providers]]\nname='vllm'\nbase_url='http://h/v1'", "name no models"),
    ("[[providers]]\nname='groq'\n[[fallbacks]]\nmodel='*'\nto=['gpt-4o']", 'no provider serves "gpt-4o"'),
    ("[[providers]]\nname='gemini'\n[[fallbacks]]\nmodel='*'\nto=['claude-x']", 'no provider serves "claude-x"'),
    ("[[fallbacks]]\nmodel='*'\nto=[]", "at least 1 is expected"),
    ("[exchange_log]\nredact=['(']", "not a regular expression"),
    ("[unpriced]\ninput_usd_per_million=20.0", "a float"),
    ("[retries]\nbackoff='10s'\nbackoff_max='1s'", "longer than"),
    ("[retries]\non=['rate_limited','rate_limited']", "twice"),
    ("[embedder]\nkind='endpoint'\nprovider='azur'\nmodel='m'", "embedder.dimensions: is missing"),
    ("[embedder]\nkind='endpoint'\nprovider='azur'", 'embedder.provider: "azur" is none of the [[providers]]'),
    ("[embedder]\nkind='endpoint'\nprovider='anthropic'", 'of kind "openai"'),
    ("[embedder]\nkind='onnx'", "embedder.folder: is missing"),
    ("a = ", "not valid TOML"),
    ("a = " + "[" * 5000, ""),
    ("a = " + "9" * 5000, ""),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message[:40] or "huge" for _, message in WRONG])
def test_what_is_wrong_is_said_with_its_place_and_what_is_allowed(text, message):
    assert message in problems(text)


def test_all_problems_are_reported_at_once_each_with_its_place():
    found = problems("on_disconnect = 1\n[server]\nport = 0\nhots = 'x'\n[[budgets]]\nname = 'b'\nper = 'mont'\n")
    for place in ("on_disconnect:", "server.port:", "server.hots:", "budgets[0].per:"):
        assert place in found


def test_what_is_wrong_between_settings_is_told_with_what_is_wrong_by_itself():
    found = problems(
        "[[budgets]]\nname='a'\nper='day'\nusd='1,000'\n[[budgets]]\nname='a'\nper='rolling'\nusd='1'\n"
        "timezone='Europe/Berln'\n[[budgets]]\nname='b'\nper='rolling'\nlength='5'\nusd='1'\nweek_starts='sunday'\n"
        "[[budgets]]\nname='c'\nper='day'\nusd='1'\nthresholds=[{at=50,do='degrade'},{at=0},{at=60,do='throttle'}]\n"
        "[[providers]]\nname='openai'\n[[providers]]\nname='openai'\n"
    )
    for told in (
        "budgets[0].usd: is", "budgets[1].timezone: is", 'budgets: the name "a" is used 2 times',
        "budgets[1]: length is missing", "budgets[2].length: is", "budgets[2]: week_starts means nothing",
        "degrade needs a model", "item 1 at is 0", "throttle needs per_minute",
        'providers: the name "openai" is used 2 times',
    ):  # fmt: skip
        assert told in found, told
    assert "budgets[2]: length" not in found  # it is there, and wrong: told once


def test_notes_name_budgets_that_most_likely_bind_nothing():
    (found,) = [
        note
        for match in ('customer = "c*", model = "gpt-*"', 'team = "a"', 'provider = "openai"')
        for note in notes(read(f'[[budgets]]\nname = "b"\nper = "day"\nusd = "1"\nmatch = {{{match}}}\n'))
        if note.startswith("budget ")
    ]
    assert 'customer = "c*" is taken letter by letter' in found
    other = notes(read('[[budgets]]\nname="b"\nper="day"\nusd="1"\nmatch={provider="opnai"}\n'))
    assert any('no provider is called "opnai"' in note for note in other)


def test_a_secret_is_never_repeated_in_a_message():
    secret = "sk-" + "a1B2" * 8
    assert secret not in problems(f"[[providers]]\nname = 'openai'\napi_key_env = '{secret}'\nmodels = '{secret}'\n")


def test_the_environment_overrides_the_file_and_is_checked_like_it():
    env = ENV | {"FARTHING_PORT": "9001", "FARTHING_HOST": "::1", "FARTHING_HOME": "/var/lib/farthing"}
    found = read("[server]\nport = 9000\n", env)
    assert (found.server.port, found.server.host, found.home) == (9001, "::1", "/var/lib/farthing")
    assert 'FARTHING_PORT (environment): is "x"' in problems("", ENV | {"FARTHING_PORT": "x"})


def test_a_named_file_must_exist_and_unnamed_ones_may():
    assert config_candidates(ENV, home="/h", chosen="a.toml") == (("a.toml", True),)
    assert config_candidates({"FARTHING_CONFIG": "b.toml"}, home="/h") == (("b.toml", True),)
    assert config_candidates(ENV, home="/h") == (("farthing.toml", False), ("/h/farthing.toml", False))


def test_the_home_follows_the_platform():
    assert default_home({"HOME": "/u", "XDG_DATA_HOME": "/d"}, platform="linux") == "/d/farthing"
    assert default_home({"HOME": "/u"}, platform="darwin") == "/u/Library/Application Support/farthing"
    assert default_home({"HOME": "/u", "FARTHING_HOME": "/f"}, platform="darwin") == "/f"


def test_the_file_in_the_home_is_found_and_a_named_one_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    assert load(None, str(home), env=ENV).source == ""
    (home / "farthing.toml").write_text("\ufeff[server]\nport = 9001\n", encoding="utf-8")
    found = load(None, None, env=ENV | {"FARTHING_HOME": str(home)})
    assert (found.server.port, found.source, found.home) == (9001, str(home / "farthing.toml"), str(home))
    (tmp_path / "other.toml").write_text("[server]\nport = 9002\n")
    assert load("other.toml", str(home), env=ENV).server.port == 9002


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.toml: 1 problem\n  1\. cannot be read: No such file"):
        load(str(tmp_path / "nope.toml"), None, env=ENV)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 5"):
        load(str(tmp_path / "latin.toml"), None, env=ENV)


def test_notes_say_when_nothing_limits_spending_or_others_can_reach_the_port():
    assert any("nothing limits spending" in note for note in notes(read("")))
    assert any("other machines" in note for note in notes(read("[server]\nhost = '0.0.0.0'\n")))
    assert not any("other machines" in note for note in notes(read("[server]\nhost = 'localhost'\n")))


KEYS = st.sampled_from(
    [*TOP, *SECTIONS, *LISTS, *{key for fields in (*SECTIONS.values(), *LISTS.values()) for key in fields}]
)
LEAVES = st.one_of(
    st.text(max_size=12),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.sampled_from(["openai", "azure", "day", "usd", "user", "30s", "12.50", "http://h/v1", "gpt-*"]),
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)),
    max_size=6,
)


def toml(value: object) -> str:
    """A value as TOML, for values of the strategies above."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08X}" for c in value)
        return f'"{escaped}"'
    return str(value)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_any_toml_gives_settings_or_a_config_error_and_nothing_else(tree):
    text = "\n".join(f"{key} = {toml(value)}" for key, value in tree.items())
    try:
        found = read(text)
    except ConfigError:
        pass
    else:
        Budgets(found.policy.budgets)
        assert found.policy.ref == msgspec.convert(msgspec.to_builtins(found.policy), type(found.policy)).ref


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_settings_or_a_config_error_and_nothing_else(text):
    try:
        read(text)
    except ConfigError:
        pass
    else:
        assert set(tomllib.loads(text)) <= {*TOP, *SECTIONS, *LISTS}


@settings(max_examples=150, deadline=None)
@given(
    nusd=st.integers(0, 10**18 - 1),
    tokens=st.integers(0, 2**63 - 1),
    ms=st.integers(1, 10**11),
    each=st.lists(st.sampled_from(["user", "team", "model", "tag:env"]), unique=True),
)
def test_what_is_written_is_what_is_read(nusd, tokens, ms, each):
    usd = f"{nusd // 10**9}.{nusd % 10**9:09d}"
    found = read(
        f'reservation_ttl = "{ms}ms"\n[[budgets]]\nname = "b"\nper = "total"\nusd = "{usd}"\n'
        f"tokens = {tokens}\neach = {toml(each)}\n"
    )
    (budget,) = found.policy.budgets
    Budgets(found.policy.budgets)
    assert budget.limits == (("usd", nusd), ("tokens", tokens))
    assert budget.each == tuple(each)
    assert found.policy.reservation_ttl_ms == ms
