"""Which provider serves a model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import UnknownModel
from farthing.core.policy import Fallback
from farthing.core.routing import Routes, Upstream

OPENAI = Upstream(name="openai", dialect="openai")
GROQ = Upstream(name="groq", dialect="openai", models=("llama-*", "openai/gpt-oss-*"), price_as="groq-prices")
CLAUDE = Upstream(name="anthropic", dialect="anthropic", models=("claude-*",))
AZURE = Upstream(name="azure", dialect="openai", models=("prod",), price_models=(("prod", "gpt-4o"),), region="eu")


def names(routes: Routes, model: str, dialect="openai"):
    return [f"{target.provider}/{target.model}" for target in routes.targets(model, dialect)]


@pytest.mark.parametrize(
    ("model", "dialect", "expected"),
    [
        ("gpt-4o", "openai", "openai/gpt-4o"),
        ("llama-3", "openai", "groq/llama-3"),
        ("openai/llama-3", "openai", "openai/llama-3"),
        ("groq/anything", "openai", "groq/anything"),
        ("openai/gpt-oss-20b", "openai", "openai/gpt-oss-20b"),
        ("groq/openai/gpt-oss-20b", "openai", "groq/openai/gpt-oss-20b"),
        ("meta/llama-3", "openai", "openai/meta/llama-3"),
        ("claude-4", "anthropic", "anthropic/claude-4"),
        ("claude-4", "openai", "anthropic/claude-4"),
        ("anthropic/claude-4", "openai", "anthropic/claude-4"),
        ("anthropic/gpt-4o", "openai", "anthropic/gpt-4o"),
        ("gpt-4o", "anthropic", "openai/gpt-4o"),
        ("llama-3", "anthropic", "groq/llama-3"),
        ("prod", "openai", "azure/prod"),
        ("/x", "openai", "openai//x"),
        ("openai/", "openai", "openai/openai/"),
    ],
)
def test_a_model_goes_to_whoever_is_named_or_claims_it_or_takes_the_rest(model, dialect, expected):
    assert names(Routes([OPENAI, GROQ, CLAUDE, AZURE]), model, dialect) == [expected]


def test_the_first_provider_that_claims_a_model_gets_it():
    one = Upstream(name="one", dialect="openai", models=("m-*",))
    two = Upstream(name="two", dialect="openai", models=("m-1",))
    assert names(Routes([one, two]), "m-1") == ["one/m-1"]
    assert names(Routes([two, one]), "m-1") == ["two/m-1"]


def test_among_those_who_claim_a_model_the_callers_own_dialect_comes_first():
    proxy = Upstream(name="proxy", dialect="openai", models=("claude-*",))
    gemini = Upstream(name="gemini", dialect="gemini", models=("gemini-*",))
    routes = Routes([CLAUDE, proxy, gemini, OPENAI])
    assert names(routes, "claude-4", "openai") == ["proxy/claude-4"]
    assert names(routes, "claude-4", "anthropic") == ["anthropic/claude-4"]
    assert names(routes, "gemini-3", "anthropic") == ["gemini/gemini-3"]
    assert names(routes, "gpt-4o", "anthropic") == ["openai/gpt-4o"]


def test_whoever_takes_the_rest_takes_it_in_the_callers_own_dialect_first():
    rest = Upstream(name="rest", dialect="anthropic")
    assert names(Routes([OPENAI, rest]), "x", "anthropic") == ["rest/x"]
    assert names(Routes([rest, OPENAI]), "x", "openai") == ["openai/x"]


def test_a_target_carries_what_pricing_needs():
    (target,) = Routes([AZURE]).targets("prod", "openai")
    assert (target.price_as, target.price_model, target.region) == ("azure", "gpt-4o", "eu")
    (target,) = Routes([GROQ]).targets("llama-3", "openai")
    assert (target.price_as, target.price_model) == ("groq-prices", "")


def test_fallbacks_follow_in_order_without_repeating_the_primary():
    rule = Fallback(model="gpt-4*", to=("gpt-4o", "groq/llama-3", "gpt-4o-mini"))
    routes = Routes([OPENAI, GROQ], (rule, Fallback(model="*", to=("x",))))
    assert names(routes, "gpt-4o") == ["openai/gpt-4o", "groq/llama-3", "openai/gpt-4o-mini"]
    assert names(routes, "other") == ["openai/other", "openai/x"]
    assert routes.fallback_for("gpt-4o") is rule


def test_an_unserved_model_names_what_is_served():
    with pytest.raises(UnknownModel, match=r"serves the model 'gpt-4o'.*anthropic: claude-\* \(anthropic API\)"):
        Routes([CLAUDE]).targets("gpt-4o", "openai")
    with pytest.raises(UnknownModel, match="Configured: nothing"):
        Routes([]).targets("gpt-4o", "openai")


@settings(max_examples=100, deadline=None)
@given(models=st.lists(st.text(min_size=1, max_size=12), max_size=40))
def test_remembering_changes_no_answer(models):
    routes = Routes([OPENAI, GROQ, AZURE])
    first = [routes.targets(model, "openai") for model in models]
    again = [Routes([OPENAI, GROQ, AZURE]).targets(model, "openai") for model in models]
    assert first == again == [routes.targets(model, "openai") for model in models]
