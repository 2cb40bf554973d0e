"""Experiments: what was tested on whom, what came of it, and what is still missing."""

from collections.abc import Sequence
from typing import Final

from farthing.core.arms import Difference
from farthing.core.experiment import Experiment
from farthing.core.savings import Saving
from farthing.insight.arms import ArmSums
from farthing.insight.moments import shown
from farthing.insight.proof import Measured
from farthing.insight.table import Column, Row, Table, per, share

TITLE: Final = "Experiments"
_HUNDREDTHS: Final = 10_000

_LIST: Final = (
    Column(name="experiment", title="experiment"),
    Column(name="state", title="state"),
    Column(name="kind", title="kind"),
    Column(name="off", title="control does without"),
    Column(name="holdout", title="control", kind="percent"),
    Column(name="match", title="who takes part"),
    Column(name="starts", title="from (UTC)"),
    Column(name="ends", title="to (UTC)", unknown="until it is stopped"),
    Column(name="by", title="started by"),
    Column(name="why", title="why"),
)
_RESULT: Final = (
    Column(name="experiment", title="experiment"),
    Column(name="off", title="tested"),
    Column(name="control", title="control", kind="int"),
    Column(name="treated", title="treated", kind="int"),
    Column(name="saving", title="saving", kind="percent"),
    Column(name="low", title="at least", kind="percent"),
    Column(name="high", title="at most", kind="percent"),
    Column(name="saved", title="saved", kind="usd"),
    Column(name="saved_low", title="at least ", kind="usd"),
    Column(name="saved_high", title="at most ", kind="usd"),
    Column(name="interval", title="interval"),
    Column(name="quality", title="quality"),
    Column(name="headline", title="headline"),
)
_ARMS: Final = (
    Column(name="arm", title="arm"),
    Column(name="conversations", title="conversations", kind="int"),
    Column(name="calls", title="calls", kind="int"),
    Column(name="hits", title="answered by a cache", kind="int"),
    Column(name="cost", title="cost", kind="usd"),
    Column(name="baseline", title="repriced under the baseline", kind="usd"),
    Column(name="ratio", title="cost of baseline", kind="percent"),
    Column(name="each", title="per conversation", kind="usd"),
)
_INTERVALS: Final = (
    Column(name="method", title="method"),
    Column(name="saving", title="saving", kind="percent"),
    Column(name="low", title="at least", kind="percent"),
    Column(name="high", title="at most", kind="percent"),
)
_QUALITY: Final = (
    Column(name="measure", title="measure"),
    Column(name="unit", title="unit"),
    Column(name="control", title="control", kind="text"),
    Column(name="treated", title="treated", kind="text"),
    Column(name="difference", title="difference", kind="text"),
    Column(name="low", title="at least", kind="text"),
    Column(name="high", title="at most", kind="text"),
)


def listed(experiments: Sequence[Experiment], *, now_ms: int) -> Table:
    """All experiments of the installation."""
    rows = tuple(
        (
            one.name,
            state_of(one, now_ms),
            one.kind if one.kind == "holdout" else f"switchback, blocks of {_span(one.period_ms)}",
            ", ".join(one.off),
            round(one.control_share * _HUNDREDTHS),
            ", ".join(f"{name}={value}" for name, value in one.match) or "everybody",
            shown(one.starts_ms),
            None if one.over_ms is None else shown(one.over_ms),
            one.by,
            one.why,
        )
        for one in experiments
    )
    return Table(title=TITLE, columns=_LIST, rows=rows)


def state_of(experiment: Experiment, now_ms: int) -> str:
    """``begins soon``, ``running``, ``over`` or ``stopped``."""
    if now_ms < experiment.starts_ms and experiment.stopped_ms is None:
        return "begins soon"
    if experiment.runs_at(now_ms):
        return "running"
    return "over" if experiment.as_planned else "stopped"


def results(found: Sequence[Measured], *, title: str = "Measured savings") -> Table:
    """One row an experiment."""
    return Table(
        title=title,
        columns=_RESULT,
        rows=tuple(_result(one) for one in found),
        notes=tuple(f"{one.experiment.name}: {withheld(one)}" for one in found if one.objections),
    )


def withheld(found: Measured) -> str:
    """Why there is no headline, and when there may be one."""
    days = ""
    if found.days:
        days = f" (about {found.days:,} more {'day' if found.days == 1 else 'days'} at this rate)"
    return f"no headline, {'; '.join(found.objections)}{days}."


def arms(found: Measured) -> Table:
    """Both arms' sums."""
    rows = tuple(_arm(name, one) for name, one in (("control", found.control), ("treated", found.treated)))
    return Table(title=f"Arms of {found.experiment.name}", columns=_ARMS, rows=rows, notes=tuple(notes(found)))


def intervals(found: Measured) -> Table:
    """The same saving by each method."""
    named = (
        ("one look, at a date that was fixed beforehand", found.planned),
        ("any number of looks", found.always),
        ("one look, without the repriced baseline", found.bare),
        ("any number of looks, without the repriced baseline", found.bare_always),
    )
    rows = tuple(
        (method, _part(one.estimate), _part(one.low), _part(one.high)) for method, one in named if one is not None
    )
    return Table(title=f"Intervals of {found.experiment.name}, 95 %", columns=_INTERVALS, rows=rows)


def quality(found: Measured) -> Table:
    """What became of answers, and how long they took."""
    margin = found.experiment.margin_bp / 100
    rows = [
        _rate("successful outcomes", found.outcome),
        _rate("calls answered", found.answered),
        _number("further tries a call", "tries", found.retries, 3),
        _number("mean latency of an answer", "ms", found.latency, 1),
    ]
    refused = (found.control.refused, found.treated.refused)
    failed = (found.control.failed, found.treated.failed)
    return Table(
        title=f"Quality and latency of {found.experiment.name}",
        columns=_QUALITY,
        rows=tuple(row for row in rows if row is not None),
        notes=(
            f"Quality gate: {found.quality} (margin {margin:g} points, one-sided at 95 %; {found.basis}).",
            f"Differences are treated less control, by conversation. Refused calls: {refused[0]:,} in control and "
            f"{refused[1]:,} treated; failed: {failed[0]:,} and {failed[1]:,}.",
        ),
    )


def notes(found: Measured) -> list[str]:
    """What a reader must know of how it was measured."""
    known = {"session": "their session", "user": "their user", "request": "nothing but themselves", "block": "blocks"}
    said = ", ".join(f"{count:,} by {known[unit]}" for unit, count in found.units) or "none yet"
    one = found.experiment
    lines = [f"Conversations are known: {said}."]
    if one.kind == "switchback":
        lines[0] = (
            f"Blocks of {_span(one.period_ms)} stand for conversations; the first {_span(one.washout_ms)} of each "
            "are served and not measured."
        )
    else:
        lines.append(f"Chance of so uneven a draw: {found.draw_p:.2g} (planned: {one.control_share:.1%} control).")
    if found.likeness is not None:
        lines.append(_yardstick(found.likeness, alike=found.alike))
    if found.left_out:
        gone = ", ".join(f"{count:,} that {_REASONS[why]}" for why, count in found.left_out)
        lines.append(f"Left out: {gone}.")
    if found.unassigned:
        lines.append(
            f"{found.unassigned:,} calls of its time bear no arm: they were imported, or served by a gateway that "
            "did not know of the experiment yet."
        )
    calls, logged = (found.control.calls + found.treated.calls), (found.control.logged + found.treated.logged)
    if logged < 0.99 * calls:
        lines.append(f"The traffic log still knows {logged:,} of {calls:,} calls: quality and latency rest on those.")
    if len(found.policies) > 1:
        lines.append(f"The policy changed meanwhile; measured is the mixture: {', '.join(found.policies)}.")
    if found.removed:
        lines.append("What levers took out of prompts is added to the baseline by its estimated length.")
    return lines


def _yardstick(likeness: Saving, *, alike: bool) -> str:
    change, low, high = (-100 * value for value in (likeness.estimate, likeness.high, likeness.low))
    said = (
        f"A call's repriced baseline differs by {change:+.1f} % in the treated arm (99 % interval {low:+.1f} to "
        f"{high:+.1f} %)"
    )
    if alike:
        return f"{said}: what of that is the treatment's doing is an error of the saving."
    return f"{said}: the treatment changes its own yardstick, so the saving is measured without it."


_REASONS: Final = {
    "began before it": "began before the experiment",
    "changed arms": "changed arms",
    "a price is not known": "have a call without a known price",
    "nothing to compare with": "have no repriced baseline",
}


def _result(found: Measured) -> Row:
    one, saving = found.experiment, found.saving
    head: Row = (one.name, ", ".join(one.off), found.control.conversations, found.treated.conversations)
    verdict = "no" if not found.headline else "yes" if found.quality == "holds" else "unverified quality"
    if saving is None:
        return (*head, None, None, None, None, None, None, "-", found.quality, verdict)
    return (
        *head,
        _part(saving.estimate),
        _part(saving.low),
        _part(saving.high),
        found.nusd(saving.estimate),
        found.nusd(saving.low),
        found.nusd(saving.high),
        interval_name(found),
        found.quality,
        verdict,
    )


def interval_name(found: Measured) -> str:
    """Which interval may be read now."""
    looks = "one look" if found.once else "any number of looks"
    return looks if found.alike else f"{looks}, without the repriced baseline"


def _arm(name: str, one: ArmSums) -> Row:
    return (
        name,
        one.conversations,
        one.calls,
        one.hits,
        one.cost,
        one.baseline,
        share(one.cost, one.baseline),
        per(one.cost, one.conversations),
    )


def _rate(name: str, found: Difference | None) -> Row | None:
    if found is None:
        return None
    values = (found.control, found.treated)
    changes = (found.value, found.low, found.high)
    return (name, "%", *(f"{100 * one:.2f}" for one in values), *(f"{100 * one:+.2f}" for one in changes))


def _number(name: str, unit: str, found: Difference | None, digits: int) -> Row | None:
    if found is None:
        return None
    values, changes = (found.control, found.treated), (found.value, found.low, found.high)
    return (name, unit, *(f"{one:,.{digits}f}" for one in values), *(f"{one:+,.{digits}f}" for one in changes))


def _part(value: float) -> int:
    """Hundredths of a percent."""
    return round(value * _HUNDREDTHS)


def percent_range(saving: Saving) -> str:
    """``23.4 % (95 % interval 20.1 to 26.5 %)``."""
    whole, low, high = (100 * value for value in (saving.estimate, saving.low, saving.high))
    return f"{whole:+.1f} % ({100 * saving.confidence:g} % interval {low:+.1f} to {high:+.1f} %)"


def _span(ms: int) -> str:
    for size, name in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if ms >= size and ms % size == 0:
            return f"{ms // size} {name}"
    return f"{ms} ms"
