"""Overview: what it costs, where it is heading, why it changed, and what needs a look."""

from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import known
from farthing.insight.incident_list import Incidents
from farthing.insight.moments import shown
from farthing.insight.reports import month, savings, spend
from farthing.insight.series import DAY_MS, day_name, days, fold
from farthing.insight.table import share
from farthing.server.pages import figures
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Link, Note, Page, TableBlock, Tile, Tiles, Tone
from farthing.server.pages.money import dollars
from farthing.server.pages.views.changes import why_block
from farthing.server.pages.views.incidents import LEARNING_DAYS, found_in, incident_table

TOP = 6
ASKED = {"feature": ("feature",), "model": ("model",), "team": ("team",)}


def build(ask: Ask) -> Page:
    """The front page, from four questions to the ledger."""
    rows = {name: ask.ledger.totals(month.query(by, ask.now_ms)) for name, by in ASKED.items()}
    found = month.read(rows["model"], ask.now_ms)
    first = day_name(found.starts_ms)
    if not rows["model"]:
        return Page(
            title="Overview", lead="What it costs, where it is heading, and why.", blocks=_welcome(ask), live=True
        )
    found_all = found_in(ask, rows)
    blocks: list[Block] = [
        Tiles(tiles=(*_money_tiles(ask, found, rows), *_care_tiles(ask, rows, first, found_all))),
    ]
    if found_all.found:
        blocks.append(incident_table(ask, found_all))
    blocks.append(_month_chart(found))
    for name, title in (("feature", "Features"), ("model", "Models"), ("team", "Teams")):
        blocks.append(_top(ask, name, title, fold(rows[name], since=first)))
    blocks.append(why_block(ask))
    lead = f"{found.name} so far. Days and months are UTC."
    return Page(title="Overview", lead=lead, blocks=tuple(blocks), live=True)


def _welcome(ask: Ask) -> tuple[Block, ...]:
    turned_away, _ = ask.ledger.newest_unbooked(LedgerQuery(), before="", limit=1)
    if turned_away:
        last = turned_away[0]
        return (
            Note(
                title="Calls come in, but nothing could be booked yet",
                text=f"All were refused or failed; the last one with {last.error or last.outcome}, at "
                f"{shown(last.received_at_ms)} UTC.",
                tone="warn",
                links=(Link(text="Look why", href=ask.state.href("/requests", show="refused")),),
            ),
        )
    return (
        Note(
            title="Nothing is booked yet",
            text="The gateway is running. Point a client at it, and its calls show up here within seconds.",
            command='OpenAI(base_url="http://127.0.0.1:8484/v1")',
        ),
        Note(title="Or look at an example first", text="A day of a company's traffic.", command="farthing demo"),
    )


def _money_tiles(ask: Ask, found: month.Month, rows: dict[str, tuple[Totals, ...]]) -> list[Tile]:
    band = found.band
    first = day_name(found.starts_ms)
    saved = savings.build(ask.ledger.totals(savings.query(("day",), since_ms=found.starts_ms)), ("day",)).total
    net = saved[7] if saved is not None else 0
    this_month = fold(rows["model"], since=first)
    whole = sum(row.amount for row in this_month)
    change = share(whole - found.before, found.before)
    note = "no spend in the month before" if change is None else f"{change / 100:+.1f} % on the month before by now"
    month_known = known(found.booked, sum(row.unpriced for row in this_month))
    today = fold(rows["model"], since=day_name(ask.now_ms))
    today_known = known(found.today, sum(row.unpriced for row in today))
    return [
        Tile(
            name="spend_month",
            label="Spend this month",
            value=_said(month_known),
            exact=month_known,
            note=note,
            href=ask.state.href("/explore", since=first, until="now"),
        ),
        Tile(
            name="spend_today",
            label="Today",
            value=_said(today_known),
            exact=today_known,
            note="since midnight UTC",
            href=ask.state.href("/requests", since="today", until="now"),
        ),
        Tile(
            name="forecast",
            label="Expected at month's end",
            value=_said(None if month_known is None else found.expected),
            exact=None if month_known is None else found.expected,
            note=f"80 % between {dollars(band[0])} and {dollars(band[1])}" if band else month.notes(found)[-1],
        ),
        Tile(
            name="savings",
            label="Saved by caches",
            value=dollars(net if isinstance(net, int) else 0),
            exact=net if isinstance(net, int) else 0,
            note="net of what saving cost",
            tone="good" if isinstance(net, int) and net > 0 else "",
            href=ask.state.href("/savings", since=first, until="now"),
        ),
    ]


def _said(amount: int | None) -> str:
    return "unpriced" if amount is None else dollars(amount)


def _care_tiles(ask: Ask, rows: dict[str, tuple[Totals, ...]], first: str, found: Incidents) -> tuple[Tile, ...]:
    models, teams = fold(rows["model"], since=first), fold(rows["team"], since=first)
    entries = sum(row.entries for row in models)
    unpriced = sum(row.unpriced for row in models)
    whole = sum(row.amount for row in teams)
    untagged = sum(row.amount for row in teams if not row.group[0])
    still = found.waiting
    learning = found.days_known < LEARNING_DAYS
    anomaly_note = f"learning: {found.days_known} of {LEARNING_DAYS} days" if learning else "last 30 days"
    state = ask.state
    return (
        _share_tile(
            "unpriced",
            "Calls without a price",
            unpriced,
            entries,
            f"{unpriced:,} of {entries:,} entries, in no total",
            state.href("/explore", since=first, by=("model", "state")),
        ),
        _share_tile(
            "untagged",
            "Spend without a team",
            untagged,
            whole,
            f"{dollars(untagged)} of the month",
            state.href("/explore", since=first, by=("key", "feature"), where=(("team", ""),)),
        ),
        Tile(
            name="anomalies",
            label="Open anomalies",
            value=str(len(still)),
            exact=len(still),
            unit="count",
            note=anomaly_note,
            tone="bad" if still else "",
            href="/anomalies" if ask.person.role != "team" else "",
        ),
    )


def _share_tile(name: str, label: str, part: int, whole: int, note: str, href: str) -> Tile:
    found = share(part, whole) or 0
    tone: Tone = "bad" if found > 500 else "warn" if found else "good"
    return Tile(
        name=name,
        label=label,
        value=f"{found / 100:.1f} %",
        exact=found,
        unit="percent_hundredths",
        note=note,
        href=href,
        tone=tone,
    )


def _month_chart(found: month.Month) -> TableBlock:
    table = month.build(found)
    ahead = days(found.starts_ms, found.ends_ms)[len(found.days) - 1 :]
    total, booked = (found.booked - found.today) / month.NUSD, found.booked / month.NUSD
    line: list[tuple[str, float, float | None, float | None]] = []
    low, high = found.outlook.low, found.outlook.high
    for step, (day, amount) in enumerate(zip(ahead, found.ahead, strict=True), 1):
        total += amount
        part = step / len(ahead)
        middle = found.outlook.total
        line.append((
            day,
            max(booked, total),
            None if low is None else max(booked, total - (middle - low) * part),
            None if high is None else max(booked, total + (high - middle) * part),
        ))  # fmt: skip
    return TableBlock(
        id="month",
        table=table,
        figure=figures.running(table.rows, line),
        describes=f"Spend of {found.name}, summed day by day, and where it is heading.",
        folded=True,
    )


def _top(ask: Ask, name: str, title: str, rows: tuple[Totals, ...]) -> TableBlock:
    table = spend.build(rows, rows, (name,), title=f"{title} this month", limit=TOP)
    since = f"{ask.now_ms // DAY_MS and day_name(ask.now_ms)[:7]}"
    state = ask.state

    def address(value: object) -> str:
        text = str(value)
        if text.startswith("(other"):
            return state.href("/explore", since=since, by=(name,))
        return state.href("/requests", since=since, where=((name, "" if text == "(none)" else text),))

    keep = (0, 6, 7)
    slim = type(table)(
        title=table.title,
        columns=tuple(table.columns[at] for at in keep),
        rows=tuple(tuple(row[at] for at in keep) for row in table.rows),
        total=None if table.total is None else tuple(table.total[at] for at in keep),
        notes=table.notes,
    )
    return TableBlock(
        id=f"{name}s", narrow=True, table=slim, links={name: links(slim.rows, lambda row: address(row[0]))}
    )


VIEW = View(name="overview", title="Overview", group="See", build=build, roles=EVERYBODY, path="/")
