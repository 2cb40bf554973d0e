"""The cache doctor's causes, as pages and ``farthing cache doctor`` show them."""

from farthing.insight.moments import shown
from farthing.insight.render import usd
from farthing.insight.table import Column, Table
from farthing.lab.checkup import Checkup
from farthing.lab.doctor_marks import Place


def causes(found: Checkup, since: int) -> Table:
    """Why prompts were not read from the provider's cache, dearest cause first."""
    report = found.report
    rows = tuple(
        (
            one.cause,
            one.requests,
            one.tokens,
            one.nusd if one.requests > one.unpriced else None,
            found.per_month(one.nusd) if one.requests > one.unpriced else None,
            one.where,
            one.example,
            one.advice,
        )
        for one in report.findings
    )
    unpriced = sum(one.unpriced for one in report.findings)
    notes = [
        f"Read from the cache: {report.read_share:.1%} of {report.input_tokens:,} input tokens; "
        f"{report.possible_share:.1%} could have been.",
        f"A month is 30 days at the rate of the last {found.days:.1f}. What writing costs is not taken off.",
    ]
    if found.kept:
        each = ", ".join(f"{one.rule.name} {usd(found.per_month(one.saved_nusd))}" for one in found.kept)
        notes.append(
            f"Time to live that pays where prompts are marked: {pays(found)} (a month, net of writes: {each})."
        )
    if unpriced:
        notes.append(f"{unpriced} misses are of models without a price; they are in no sum.")
    return Table(
        title=f"Prompt cache since {shown(since)} UTC: {report.requests} requests",
        columns=(
            Column(name="cause", title="cause"),
            Column(name="requests", title="requests", kind="int"),
            Column(name="tokens", title="tokens missed", kind="int"),
            Column(name="usd", title="missed", kind="usd", unknown="unpriced"),
            Column(name="usd_per_month", title="per month", kind="usd", unknown="unpriced"),
            Column(name="where", title="where"),
            Column(name="example", title="example"),
            Column(name="advice", title="what to do"),
        ),
        rows=rows,
        notes=tuple(notes),
    )


def lives(found: Checkup) -> Table:
    """What each time to live would save a month on prompts that need marks, net of writes."""
    return Table(
        title="Which time to live pays",
        columns=(
            Column(name="ttl", title="time to live"),
            Column(name="saved", title="saves a month", kind="usd"),
            Column(name="verdict", title="verdict"),
        ),
        rows=tuple(
            (
                one.rule.name,
                found.per_month(one.saved_nusd),
                "pays" if one.rule.name == pays(found) else "pays less" if one.saved_nusd > 0 else "costs more",
            )
            for one in found.kept
        ),
        notes=("The same prompts through each rule's cache, writes at their price included.",),
    )


def places(found: Checkup) -> Table:
    """Where breakpoints belong, feature by feature."""
    return Table(
        title="Where breakpoints belong",
        columns=(
            Column(name="feature", title="feature"),
            Column(name="model", title="model"),
            Column(name="requests", title="requests", kind="int"),
            Column(name="after", title="mark after", unknown="nowhere"),
            Column(name="tokens", title="tokens up to there", kind="int"),
            Column(name="reused", title="calls that share it", kind="percent"),
            Column(name="marked", title="calls with marks", kind="percent"),
            Column(name="advice", title="what to do"),
        ),
        rows=tuple(
            (
                one.feature or "(none)",
                f"{one.provider}/{one.model}",
                one.requests,
                one.after or None,
                one.tokens if one.after else None,
                round(one.reused * 10_000) if one.after else None,
                round(one.marked * 10_000),
                _advice(one),
            )
            for one in found.places
        ),
        notes=("The deepest point up to which at least half of the calls agree with an earlier one.",),
    )


def _advice(one: Place) -> str:
    if not one.after:
        return "prompts share no beginning: put what is constant first"
    if one.too_short:
        return "too short to be cached: put more of what is constant first"
    if not one.needs_marks:
        return "nothing to mark: this provider caches by itself"
    return "marked already" if one.marked > 0.9 else "mark it, or let the lever cache_breakpoints do it"


def pays(found: Checkup) -> str:
    """The time to live that saves most; ``none`` where every one costs more than it saves."""
    best = max(found.kept, key=lambda one: one.saved_nusd, default=None)
    return best.rule.name if best is not None and best.saved_nusd > 0 else "none"
