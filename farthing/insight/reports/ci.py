"""What a pull request costs: a table, a comment in Markdown, and annotations for the lines at fault."""

from collections.abc import Sequence
from typing import Final

from farthing.insight.ci_cost import Diff, Finding
from farthing.insight.render import percent, render, usd
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Cost of this change"
TAG: Final = "<!-- farthing-ci -->"
"""Finds the comment of an earlier run, so that it is updated."""

COLUMNS: Final = (
    Column(name="prompt", title="prompt"),
    Column(name="state", title=""),
    Column(name="model", title="model"),
    Column(name="calls", title="calls/month", kind="int"),
    Column(name="tokens_before", title="tokens before", kind="int"),
    Column(name="tokens_after", title="after", kind="int"),
    Column(name="before", title="$/month before", kind="usd", unknown="unpriced"),
    Column(name="after", title="after", kind="usd", unknown="unpriced"),
    Column(name="change", title="change", kind="usd", unknown="not known"),
    Column(name="low", title="from", kind="usd", unknown=""),
    Column(name="high", title="to", kind="usd", unknown=""),
    Column(name="cache", title="cache", unknown=""),
)


def build(diff: Diff, *, policy: Sequence[str] = ()) -> Table:
    """Largest change first."""
    rows: list[Row] = [
        (
            one.prompt, one.state, one.model, one.calls_month, one.tokens_before, one.tokens_after, one.month_before,
            one.month_after, one.change, one.low, one.high, one.cache or None,
        )
        for one in diff.costs
    ]  # fmt: skip
    before = sum(one.month_before or 0 for one in diff.costs)
    after = sum(one.month_after or 0 for one in diff.costs)
    total = ("total", "", "", None, None, None, before, after, diff.change, None, None, None)
    return Table(
        title=TITLE, columns=COLUMNS, rows=tuple(rows), total=total if rows else None,
        notes=(
            sentence(diff), *policy, *(f"{one.level}: {one.file}:{one.line}: {one.what}" for one in diff.findings)
        ),
    )  # fmt: skip


def sentence(diff: Diff) -> str:
    """What a reviewer reads first."""
    if not diff.costs:
        return f"No prompt changed its cost; {diff.unchanged} prompts were looked at."
    relative = share(diff.change, diff.whole_month)
    of = "" if relative is None else f" ({'+' if relative > 0 else ''}{percent(relative)} % of all prompts)"
    word = "increases by" if diff.change > 0 else "decreases by" if diff.change < 0 else "changes by"
    arrow = " ↑" if diff.change > 0 else " ↓" if diff.change < 0 else ""
    return f"Monthly estimate {word} {usd(abs(diff.change))}{arrow}{of}."


def markdown(diff: Diff, *, policy: Sequence[str] = (), verdict: str = "") -> str:
    """For the job summary or a comment."""
    table = build(diff)
    parts = [TAG, "## 💰 Farthing", "", sentence(diff), ""]
    if verdict:
        parts += [verdict, ""]
    if diff.costs:
        body = render(Table(title=TITLE, columns=table.columns, rows=table.rows, total=table.total), "md")
        parts += ["<details open><summary>Prompts</summary>", "", body, "", "</details>", ""]
    icons = {"error": "❌", "warning": "⚠️"}
    parts += [f"- {icons[one.level]} `{one.file}:{one.line}` {one.what}" for one in diff.findings]
    parts += [f"- ⚙️ {line}" for line in policy]
    parts += [
        "",
        "Priced offline with the traffic of the committed baseline; this comment is updated when code changes.",
    ]
    return "\n".join(parts) + "\n"


def annotations(findings: Sequence[Finding]) -> str:
    """GitHub's workflow commands, one a line."""
    return "\n".join(
        f"::{one.level} file={_escape(one.file)},line={one.line}::{_escape(one.what)}" for one in findings
    )


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(",", "%2C").replace("::", ": :")
