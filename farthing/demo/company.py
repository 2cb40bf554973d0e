"""The demo's company: teams, features and how much of the traffic each is. Invented, plainly named, and only data."""

from types import MappingProxyType
from typing import Final

import msgspec

ORG: Final = "demo-company"
GROWTH: Final = "growth"
"""The team whose budget runs out."""

YOUR_KEY: Final = "your-key"
YOUR_TEAM: Final = "visitors"
"""The key for whoever runs the demo, and its team."""


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a model by one team."""

    name: str
    team: str
    key: str
    """The virtual key it calls with."""
    recipe: str
    """The function of ``farthing.demo.recipes`` that writes its calls."""
    model: str
    weight: int
    """Share of the day's traffic, in thousandths."""
    least: int = 1
    """Calls even on the shortest day."""
    hours: str = "office"
    """Shape of its day: a key of :data:`HOURS`."""
    about_nusd: int = 0
    """What one call costs roughly; sizes the budgets that are meant to run out."""


class DemoKey(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual key."""

    name: str
    team: str
    models: tuple[str, ...] = ()
    refine: tuple[str, ...] = ("user", "feature", "customer", "session", "tags")


HOURS: Final = MappingProxyType(
    {
        "office": (0, 0, 0, 0, 0, 1, 3, 8, 18, 24, 26, 24, 16, 20, 25, 26, 23, 17, 9, 5, 3, 2, 1, 0),
        "always": (4, 3, 2, 2, 3, 4, 7, 11, 15, 17, 17, 16, 15, 16, 17, 17, 16, 15, 14, 13, 12, 10, 8, 6),
        "night": (0, 0, 70, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    }
)
"""Relative traffic in each hour of the day."""

KEYS: Final = (
    DemoKey(name="support-desk", team="support", models=("gpt-4o*", "claude-*")),
    DemoKey(name="search-backend", team="search"),
    DemoKey(name="nightly-indexer", team="search", models=("text-embedding-*",), refine=("user", "feature", "tags")),
    DemoKey(name="growth-studio", team="growth"),
    DemoKey(name="research-lab", team="research", refine=("project", "user", "feature", "session", "tags")),
    DemoKey(name="platform-tools", team="platform"),
    DemoKey(name=YOUR_KEY, team=YOUR_TEAM),
)

FEATURES: Final = (
    Feature(name="chat-assistant", team="support", key="support-desk", recipe="assistant", model="gpt-4o-mini",
            weight=210, hours="always"),
    Feature(name="ticket-summary", team="support", key="support-desk", recipe="summary", model="claude-sonnet-4-5",
            weight=75),
    Feature(name="ticket-routing", team="support", key="support-desk", recipe="routing", model="gpt-4o", weight=60),
    Feature(name="answers", team="search", key="search-backend", recipe="answer", model="gpt-4.1", weight=90, least=8,
            hours="always"),
    Feature(name="rerank", team="search", key="search-backend", recipe="rerank", model="gpt-4.1-nano", weight=80,
            least=4, hours="always"),
    Feature(name="query-embedding", team="search", key="search-backend", recipe="embedding",
            model="text-embedding-3-small", weight=85, hours="always"),
    Feature(name="nightly-index", team="search", key="nightly-indexer", recipe="index",
            model="text-embedding-3-large", weight=90, hours="night"),
    Feature(name="ad-copy", team="growth", key="growth-studio", recipe="copy", model="gpt-4o", weight=50,
            about_nusd=4_900_000),
    Feature(name="email-drafts", team="growth", key="growth-studio", recipe="draft", model="claude-sonnet-4-5",
            weight=35, about_nusd=5_300_000),
    Feature(name="banner-check", team="growth", key="growth-studio", recipe="banner", model="gpt-4o", weight=20,
            about_nusd=3_000_000),
    Feature(name="paper-reader", team="research", key="research-lab", recipe="paper", model="claude-sonnet-4-6",
            weight=45),
    Feature(name="paper-length", team="research", key="research-lab", recipe="length", model="claude-sonnet-4-6",
            weight=15),
    Feature(name="experiments", team="research", key="research-lab", recipe="experiment", model="o4-mini", weight=30),
    Feature(name="code-review", team="platform", key="platform-tools", recipe="review", model="gpt-5-mini",
            weight=55),
    Feature(name="commit-messages", team="platform", key="platform-tools", recipe="commit",
            model="gpt-3.5-turbo-instruct", weight=35),
    Feature(name="on-call", team="platform", key="platform-tools", recipe="incident", model="claude-opus-4-5",
            weight=12, least=4, hours="always"),
)  # fmt: skip

AGENT: Final = Feature(
    name="triage-agent",
    team="research",
    key="research-lab",
    recipe="agent",
    model="gpt-4o",
    weight=60,
    least=12,
    about_nusd=5_000_000,
)
"""The buggy agent: it repeats the same call, because it cannot read the answer, until its budget stops it."""

AGENT_HOUR: Final = 11
OUTAGE_HOUR: Final = 16
OUTAGE_MODEL: Final = "gpt-4.1"
OUTAGE_MINUTES: Final = 60
