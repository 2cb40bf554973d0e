"""Replay lab: another policy over the logged traffic, in a process of its own; what comes out stays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from farthing.config.editing import add_section
from farthing.core.errors import BadRequest, ConfigError, NotFound
from farthing.insight.moments import shown
from farthing.insight.table import Column, Table
from farthing.server.pages import figures, state
from farthing.server.pages.ask import OFFICE, Ask, View, links
from farthing.server.pages.blocks import (
    Block,
    Field,
    Form,
    Link,
    Note,
    Page,
    RowAction,
    TableBlock,
    Text,
    Tile,
    Tiles,
)
from farthing.server.pages.money import dollars
from farthing.server.pages.policy_text import policy_part
from farthing.server.pages.replays import Order, Replay
from farthing.server.pages.views.opportunities import question

LEAD: Final = "What logged traffic would have cost under another policy, through the code that serves live traffic."
TITLE_MAX: Final = 80
_BILL: Final = ("fidelity", "requests, own", "own policy", "requests, other", "other policy", "what that means")
_CHANGED: Final = ("request", "was", "booked", "would be", "cost", "fidelity")
EMPTY: Final = '# [[cache]]\n# name = "repeated"\n# ttl = "1h"\n'


def build(ask: Ask) -> Page:
    """The jobs, and the form that starts one."""
    jobs = ask.sources.replays.all()
    running = next((one for one in jobs if one.state == "running"), None)
    blocks: list[Block] = [_under_way(running)] if running is not None else []
    text, title, problem = _proposal(ask)
    if problem:
        blocks.append(Note(title="The change could not be filled in", text=problem, tone="warn"))
    blocks += [_form(ask, text, title), _list(ask, jobs)]
    return Page(title="Replay lab", lead=LEAD, blocks=tuple(blocks), pending=running is not None)


def build_one(ask: Ask) -> Page:
    """One job: how far it is, or what came out. Raises ``NotFound``."""
    one = ask.sources.replays.one(ask.path["id"])
    if one is None:
        raise NotFound("There is no such replay.", hint="Look at the list of the Replay lab.")
    back = Link(text="← All replays", href="/replay")
    again = Link(text="Change it and run again", href=f"/replay?like={quote(one.id)}")
    period = f"{_short(one.order.since)} to {_short(one.order.until)} UTC"
    asked = f"{period} at prices of {one.order.prices}, asked for by {one.order.by}"
    blocks: list[Block] = [(back, again)]
    if one.state == "running":
        blocks += [_under_way(one), _cancel(one)]
    elif one.state == "failed":
        blocks.append(Note(title="It failed", text=one.problem, tone="bad"))
    elif one.state == "cancelled":
        blocks.append(Note(title="It was cancelled", text="It has no result. Nothing was sent or booked."))
    else:
        blocks += _results(one)
    blocks.append(Text(title="The policy that was tried", text=one.order.policy))
    return Page(
        title=one.order.title, lead=f"Replay of {asked}.", blocks=tuple(blocks), pending=one.state == "running"
    )


def start(ask: Ask, said: Mapping[str, str]) -> str:
    """Starts a replay of the policy that was sent. Raises ``BadRequest``, ``ConfigError``, ``StoreFailed``."""
    policy = said.get("policy", "").replace("\r\n", "\n")
    if not policy.strip():
        raise BadRequest("There is no policy to try.", hint="Write at least one section, such as [[cache]].")
    try:
        ask.sources.check(policy, "the policy to try")
    except ConfigError as error:
        raise BadRequest(str(error), hint="Go back and correct it.") from error
    period = state.read("/replay", [(name, said.get(name, "")) for name in ("since", "until")], now_ms=ask.now_ms)
    prices = said.get("prices", "then")
    if prices not in ("then", "now"):
        raise BadRequest("prices: choose then or now")
    order = Order(
        title=said.get("title", "").strip()[:TITLE_MAX] or "Another policy",
        policy=policy,
        since=_moment(period.since_ms),
        until=_moment(period.until_ms),
        prices="now" if prices == "now" else "then",
        every_set=said.get("shares") == "every order",
        by=ask.person.name,
        at_ms=ask.now_ms,
    )
    return f"/replay/{ask.sources.replays.start(order)}"


def cancel(ask: Ask, said: Mapping[str, str]) -> str:
    """Ends a running replay. Raises ``BadRequest``."""
    ask.sources.replays.cancel(said.get("id", ""))
    return f"/replay/{quote(said.get('id', ''))}"


def delete(ask: Ask, said: Mapping[str, str]) -> str:
    """Forgets a replay. Raises ``BadRequest``."""
    ask.sources.replays.delete(said.get("id", ""))
    return "/replay"


def _moment(at_ms: int) -> str:
    return f"{shown(at_ms).replace(' ', 'T')}Z"


def _short(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _proposal(ask: Ask) -> tuple[str, str, str]:
    """(the policy that the form begins with, its title, why something could not be filled in)."""
    rest = ask.state.rest
    if rest.get("like"):
        one = ask.sources.replays.one(rest["like"])
        return (one.order.policy, one.order.title, "") if one else (_own(ask), "", "That replay is gone.")
    name = rest.get("change", "")
    if not name:
        return _own(ask), "", ""
    asked = ask.sources.studies.opportunities(question(ask))
    found = [one for one in asked[0].opportunities if one.name == name] if asked else []
    change = found[0].change if found else None
    if change is None:
        return _own(ask), "", f"{name[:80]} is no setting of the policy in this period, or is still being worked out."
    try:
        own = _own(ask)
        text = add_section("" if own == EMPTY else own, change.section, change.values, source="the policy")
    except ConfigError as error:
        return _own(ask), "", str(error)
    return text, name, ""


def _own(ask: Ask) -> str:
    """The policy's part of this installation's file."""
    try:
        text = Path(ask.sources.settings().source).read_text(encoding="utf-8-sig")
    except OSError:
        return EMPTY
    return policy_part(text) or EMPTY


def _form(ask: Ask, policy: str, title: str) -> Form:
    return Form(
        id="new-replay",
        title="Replay the past under another policy",
        method="post",
        action="/replay/start",
        submit="Replay",
        fields=(
            Field(name="policy", label="The policy to try, as sections of farthing.toml", kind="area", value=policy,
                  required=True, hint="This installation's own policy is what it is compared with. Without "
                  "[[providers]] its own providers stand."),
            Field(name="title", label="Call it", value=title, hint="to find it again"),
            Field(name="since", label="From", value=ask.state.since, hint="30d, 2026-11, 2026-11-21"),
            Field(name="until", label="Until", value=ask.state.until),
            Field(name="prices", label="At prices of", kind="select", options=("then", "now"), value="then"),
            Field(name="shares", label="Shares of its sections", kind="select",
                  options=("in order", "every order"), value="in order",
                  hint="every order (Shapley) replays every set of changed sections"),
        ),
    )  # fmt: skip


def _list(ask: Ask, jobs: tuple[Replay, ...]) -> TableBlock:
    table = Table(
        title="Replays",
        columns=tuple(
            Column(name=name.partition(" ")[0], title=name)
            for name in ("what", "state", "from (UTC)", "until (UTC)", "prices", "by", "asked (UTC)")
        ),
        rows=tuple(
            (
                one.order.title,
                one.state,
                _short(one.order.since),
                _short(one.order.until),
                one.order.prices,
                one.order.by,
                shown(one.order.at_ms)[:16],
            )
            for one in jobs
        ),
    )
    running = tuple(one.id if one.state == "running" else "" for one in jobs)
    ended = tuple(one.id if one.state != "running" else "" for one in jobs)
    return TableBlock(
        id="replays",
        table=table,
        links={"what": tuple(f"/replay/{quote(one.id)}" for one in jobs)},
        actions=(
            RowAction(label="Cancel", path="/replay/cancel", ids=running),
            RowAction(label="Delete", path="/replay/delete", ids=ended),
        ),
        empty="Nothing was replayed yet. The command does the same.",
        command="farthing replay --policy other.toml --since 30d",
    )


def _under_way(one: Replay) -> Note:
    told = one.progress
    if told is None:
        return Note(title=f"{one.order.title}: starting", text="The log is being counted.", percent=0)
    part = (told.replay - 1 + told.done / max(1, told.requests)) / max(told.replay, told.replays)
    return Note(
        title=f"{one.order.title}: replay {told.replay} of {told.replays}",
        text=f"{told.label}: {told.done:,} of {told.requests:,} requests. It goes on while this page is closed.",
        percent=min(99, round(100 * part)),
        links=(Link(text="Open", href=f"/replay/{quote(one.id)}"),),
    )


def _cancel(one: Replay) -> Form:
    fields = (Field(name="id", label="", kind="hidden", value=one.id),)
    return Form(id="cancel", title="", method="post", action="/replay/cancel", submit="Cancel", fields=fields)


def _results(one: Replay) -> list[Block]:
    """The tables of the command, each with what a page adds: figures, links, labels."""
    blocks: list[Block] = []
    for place, table in enumerate(one.tables):
        names = [column.name for column in table.columns]
        if place == 0:
            blocks += [Tiles(tiles=_tiles(table)), TableBlock(id="bills", table=_titled(table, _BILL))]
        elif "shapley" in names:
            fair = "shapley" if any(row[names.index("shapley")] is not None for row in table.rows) else "ordered"
            blocks.append(
                TableBlock(
                    id="sections",
                    table=table,
                    figure=figures.steps(table, "section", fair, saving=True),
                    describes="What each section of the policy saves.",
                    open=True,
                )
            )
        elif names[:1] == ["request"]:
            opened = links(table.rows, lambda row: f"/requests/{quote(str(row[0]), safe='')}")
            blocks.append(TableBlock(id="changed", table=_titled(table, _CHANGED), links={"request": opened}))
        else:
            blocks.append(TableBlock(id=_IDS.get(names[0], "facts"), table=table))
    return blocks


_IDS = {"model": "models", "risk": "risk"}
"""Of tables, by their first column."""


def _titled(table: Table, titles: tuple[str, ...]) -> Table:
    """The command's table with titles for its columns."""
    if len(titles) != len(table.columns):
        return table
    columns = (
        msgspec.structs.replace(column, title=title) for column, title in zip(table.columns, titles, strict=True)
    )
    return msgspec.structs.replace(table, columns=tuple(columns))


def _tiles(table: Table) -> tuple[Tile, ...]:
    names = [column.name for column in table.columns]
    total = table.total
    if total is None or not {"before", "after", "fidelity"} <= set(names):
        return ()
    before, after = (_whole(total[names.index(name)]) for name in ("before", "after"))
    saved = before - after
    sure = [
        (str(row[names.index("fidelity")]), _whole(row[names.index("after")]))
        for row in table.rows
        if _whole(row[names.index("requests_after")])
    ]
    labels = ", ".join(f"{name} {dollars(amount)}" for name, amount in sure)
    part = f"{100 * saved / before:.1f} % of the bill" if before else ""
    return (
        Tile(name="before", label="Under its own policy", value=dollars(before), exact=before),
        Tile(name="after", label="Under the other policy", value=dollars(after), exact=after, note=labels),
        Tile(name="saved", label="It would save", value=dollars(saved), exact=saved, note=part,
             tone="good" if saved > 0 else "bad" if saved < 0 else ""),
    )  # fmt: skip


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


VIEW = View(name="replay", title="Replay lab", group="Improve", build=build, roles=OFFICE)
ONE = View(name="replay-one", title="Replay", group="", build=build_one, roles=OFFICE, path="/replay/{id}")
