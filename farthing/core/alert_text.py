"""Alerts in words: a title, and a text that says what, where, how much, who, until when, and what to do."""

from datetime import UTC, datetime

from farthing.core.alerts import Alert
from farthing.core.money import format_usd

_ROUTE_TITLES = {
    "promoted": "route '{route}' is promoted: {before} → {after}",
    "rolled_back": "route '{route}' is rolled back to the strong model: it lost more quality than allowed",
    "began_again": "route '{route}' begins in shadow again",
    "frozen": "route '{route}' is suspended: its traffic or its estimates drifted",
    "thawed": "route '{route}' goes on: the drift is over",
    "model_changed": "route '{route}': {before} answers differently than it did",
}


def title(alert: Alert) -> str:
    """One line."""
    name = f"budget '{alert.budget}'"
    match alert.kind:
        case "threshold":
            return f"{name} has used {alert.percent} % of its {_amount(alert, alert.limit)} ({alert.window})"
        case "forecast":
            return f"{name} will exceed its {_amount(alert, alert.limit)} ({alert.window})"
        case "exhausted":
            return f"{name} refuses calls: {_amount(alert, alert.used)} of {_amount(alert, alert.limit)} are used"
        case "velocity":
            return f"{name} spends {_amount(alert, alert.per_minute or 0)} a minute"
        case "incident":
            return f"anomaly: {alert.counter} cost {_amount(alert, alert.used)} more than expected ({alert.anomaly})"
        case "route":
            return _ROUTE_TITLES[alert.event].format(route=alert.route, before=alert.before, after=alert.after)
        case "test":
            return "test alert from Farthing"


def text(alert: Alert) -> str:
    """Some lines, without markup."""
    if alert.kind == "test":
        return "This is a test: the alert's way to you works. Nothing has happened.\nAlert: " + alert.id
    if alert.kind == "incident":
        return "\n".join(_incident(alert))
    if alert.kind == "route":
        return (
            f"What: the route went from {alert.before} to {alert.after} ({alert.why})\nWhen: {_when(alert.at_ms)}\n"
            f"Next: {next_step(alert)}\nAlert: {alert.id}"
        )
    lines = [
        f"Where: {alert.counter}, window {alert.window}, {'hard' if alert.hard else 'soft'} limit",
        f"Used: {_amount(alert, alert.used)} of {_amount(alert, alert.limit)}{_share(alert)}",
    ]
    if alert.per_minute is not None:
        usual = "" if alert.usual_per_minute is None else f"; usual is {_amount(alert, alert.usual_per_minute)}"
        lines.append(f"Last minute: {_amount(alert, alert.per_minute)}{usual}")
    if alert.projected is not None:
        lines.append(f"At this pace: {_amount(alert, alert.projected)} when the window ends")
    if alert.exhausted_at_ms is not None:
        lines.append(f"Used up at this pace: {_when(alert.exhausted_at_ms)}")
    for place, one in enumerate(alert.top, 1):
        who = f"key {one.key or '(none)'}, feature {one.feature or '(none)'}, model {one.model or '(none)'}"
        lines.append(f"Top {place}: {who}: {_amount(alert, one.amount)}")
    lines.append(f"When: {_when(alert.at_ms)}")
    resets = "never by itself" if alert.resets_at_ms is None else _when(alert.resets_at_ms)
    lines += [f"Starts anew: {resets}", f"Next: {next_step(alert)}", f"Alert: {alert.id}"]
    return "\n".join(lines)


def _incident(alert: Alert) -> list[str]:
    began = "" if alert.began_ms is None else f" since {datetime.fromtimestamp(alert.began_ms / 1000, UTC):%Y-%m-%d}"
    lines = [f"What: a {alert.anomaly} in {alert.counter}{began}"]
    if alert.expected is not None:
        expected = _amount(alert, alert.expected)
        lines.append(f"So far: {_amount(alert, alert.used)} above the {expected} that its own past lets expect")
    if alert.projected is not None:
        lines.append(f"If it goes on: {_amount(alert, alert.projected)} more in {alert.projected_days} days")
    if alert.grew:
        lines.append(f"Grew most: {alert.grew}")
    if alert.examples:
        lines.append(f"Example requests: {', '.join(alert.examples)}")
    return [*lines, f"When: {_when(alert.at_ms)}", f"Next: {next_step(alert)}", f"Alert: {alert.id}"]


def next_step(alert: Alert) -> str:
    """What to do about it."""
    if alert.kind == "incident":
        return (
            f"'farthing anomalies explain {alert.incident}' says what it is put down to; 'farthing anomalies ack' or "
            "the dashboard's Anomalies page says that somebody takes care of it."
        )
    if alert.kind == "route":
        after = f" 'farthing route restart \"{alert.route}\"' begins anew." if alert.event == "rolled_back" else ""
        return f"'farthing route ls' shows where it stands and 'farthing audit' what moved it.{after}"
    look = f"'farthing budget status --name {alert.budget}'"
    if alert.kind == "velocity":
        key = next((one.key for one in alert.top if one.key), "")
        stop = f" 'farthing key revoke {key}' stops the key." if key else ""
        what = " Its calls are blocked until it slows down." if alert.action == "block" else ""
        return f"look for a retry loop with 'farthing requests' and 'farthing top'.{what}{stop}"
    if alert.kind == "exhausted":
        return f"raise the limit or wait until it starts anew; {look} shows it."
    if alert.action:
        return f"from here on Farthing does this to its calls: {alert.action}. {look} shows where it stands."
    if alert.kind == "threshold" and alert.percent >= 100 and not alert.hard:
        return f"the limit is soft: calls go on. {look} shows where it stands."
    if alert.kind == "forecast":
        return f"lower the use or raise the limit before it is reached; {look} shows where it stands."
    return f"{look} shows where it stands; 'farthing report' shows who uses it."


def record(alert: Alert) -> dict[str, object]:
    """The alert as JSON for machines: every field, dollars as exact text beside the nano-dollars, and the words."""
    return {
        "id": alert.id,
        "kind": alert.kind,
        "severity": alert.severity,
        "title": title(alert),
        "text": text(alert),
        "budget": alert.budget,
        "counter": alert.counter,
        "window": alert.window,
        "unit": alert.unit,
        "limit": alert.limit,
        "used": alert.used,
        "percent": alert.percent,
        "hard": alert.hard,
        "limit_usd": format_usd(alert.limit) if alert.unit == "usd" else None,
        "used_usd": format_usd(alert.used) if alert.unit == "usd" else None,
        "at_ms": alert.at_ms,
        "resets_at_ms": alert.resets_at_ms,
        "projected": alert.projected,
        "exhausted_at_ms": alert.exhausted_at_ms,
        "per_minute": alert.per_minute,
        "usual_per_minute": alert.usual_per_minute,
        "top": [
            {"key": one.key, "feature": one.feature, "model": one.model, "amount": one.amount} for one in alert.top
        ],
        "action": alert.action,
        "route": alert.route or None,
        "event": alert.event or None,
        "before": alert.before,
        "after": alert.after,
        "why": alert.why,
        "incident": alert.incident or None,
        "anomaly": alert.anomaly or None,
        "began_ms": alert.began_ms,
        "expected": alert.expected,
        "projected_days": alert.projected_days or None,
        "grew_most": alert.grew or None,
        "examples": list(alert.examples),
        "next_step": next_step(alert) if alert.kind != "test" else "",
    }


def _amount(alert: Alert, amount: int) -> str:
    if alert.unit == "usd":
        whole, _, parts = format_usd(amount).partition(".")
        return f"${whole}.{parts.rstrip('0').ljust(2, '0')}"
    return f"{amount:,} {alert.unit.replace('_', ' ')}"


def _share(alert: Alert) -> str:
    return f" ({alert.used * 100 // alert.limit} %)" if alert.limit else ""


def _when(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
