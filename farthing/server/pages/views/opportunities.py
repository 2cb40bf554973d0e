"""Opportunities: what this traffic could have cost less, and the policy that tries each, to apply and take back."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from farthing.config import changes
from farthing.config.editing import toml
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.errors import BadRequest, ConfigError
from farthing.insight.moments import shown
from farthing.lab.optimize import Examined, Opportunity
from farthing.ports.audit import Changed
from farthing.server.pages import figures
from farthing.server.pages import state as addresses
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Field, Form, Link, Note, Page, TableBlock, Text, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.pages.state import Where
from farthing.server.pages.studies import AskOpportunities
from farthing.server.pages.views.explore import controls
from farthing.server.tables.opportunities import opportunities

TOP: Final = 50
LEAD: Final = "What this traffic could have cost less, dearest first: how sure, why, at what risk, and what to try."


def build(ask: Ask) -> Page:
    """The list, or one of it with its change."""
    state = ask.state
    asked = ask.sources.studies.opportunities(question(ask))
    if asked is None:
        return pending("Opportunities", LEAD, ask, "/opportunities")
    found, at_ms = asked
    name = state.rest.get("show", "")
    if name:
        return _one(ask, found, name)
    table = opportunities(found, state.since_ms, TOP)
    opened = links(table.rows, lambda row: state.href("/opportunities", show=str(row[0])))
    blocks: list[Block] = [*controls(state, "/opportunities", grouped=False)]
    if found.requests:
        blocks.append(Tiles(tiles=_tiles(found)))
    nothing = "Nothing was found that would cost less." if found.requests else "No request of this period is logged."
    blocks.append(
        TableBlock(
            id="opportunities",
            table=table,
            figure=figures.ranked(table, "opportunity", "usd_per_month") if table.rows else None,
            describes="What each opportunity is worth a month; they overlap.",
            open=True,
            links={"opportunity": opened},
            empty=nothing,
            command="" if found.requests else "farthing optimize --since 30d",
        )
    )
    if ask.person.role == "admin":
        blocks += _undo(ask)
    return Page(title="Opportunities", lead=f"{LEAD} Looked at {shown(at_ms)[11:16]} UTC.", blocks=tuple(blocks))


def pending(title: str, lead: str, ask: Ask, path: str) -> Page:
    """The page while the log is still being read."""
    note = Note(
        title="The traffic log is being read",
        text="A long period takes a while. This page looks again by itself; without scripts use the link.",
        links=(Link(text="Look again", href=ask.state.href(path, **ask.state.rest)),),
    )
    return Page(title=title, lead=lead, blocks=(*controls(ask.state, path, grouped=False), note), pending=True)


def question(ask: Ask) -> AskOpportunities:
    """What the address asks, within the person's scope."""
    return AskOpportunities(since_ms=ask.state.since_ms, until_ms=until_ms(ask), where=scoped(ask))


def until_ms(ask: Ask) -> int | None:
    """The end of the period; None: now."""
    return None if ask.state.until == "now" else ask.state.until_ms


def scoped(ask: Ask) -> Where:
    """The address's filters and the person's scope. Raises ``BadRequest`` for what a traffic log does not know."""
    for name, _ in ask.state.where:
        if name not in SCOPE_DIMENSIONS and not name.startswith("tag:"):
            raise BadRequest(
                f"The traffic log is not filtered by {name}.",
                hint=f"Use {', '.join(SCOPE_DIMENSIONS)} or tag:<name>.",
            )
    return (*ask.state.where, *ask.person.scope)


def _tiles(found: Examined) -> tuple[Tile, ...]:
    bill = found.per_month(found.nusd)
    best = found.opportunities[0] if found.opportunities else None
    worth = found.per_month(best.nusd) if best else 0
    applicable = sum(one.change is not None for one in found.opportunities)
    return (
        Tile(name="bill", label="The bill, a month", value=dollars(bill), exact=bill,
             note=f"at the rate of {found.days:.1f} days, {found.requests:,} requests"),
        Tile(name="largest", label="Largest opportunity, a month", value=dollars(worth), exact=worth,
             note=best.name if best else "none found", tone="good" if best is None else "warn"),
        Tile(name="count", label="Opportunities", value=str(len(found.opportunities)),
             exact=len(found.opportunities), unit="count", note=f"{applicable} are a setting of the policy"),
    )  # fmt: skip


def _one(ask: Ask, found: Examined, name: str) -> Page:
    one = _named(found, name)
    worth = found.per_month(one.nusd)
    back = Link(text="← All opportunities", href=ask.state.href("/opportunities"))
    tiles = (
        Tile(name="worth", label="Worth, a month", value=dollars(worth), exact=worth, note=one.sure, tone="warn"),
        Tile(name="requests", label="Requests", value=f"{one.requests:,}", exact=one.requests, unit="count"),
        Tile(name="risk", label="Risk", value=one.risk),
        Tile(name="effort", label="Effort", value=one.effort),
    )
    blocks: list[Block] = [(back,), Tiles(tiles=tiles), Note(title="Evidence", text=f"{one.evidence}.")]
    if one.change is None:
        blocks.append(Note(title="Try it", text=f"{one.try_}.", links=_replay(ask, one)))
        return Page(title=one.name, lead="Not a setting of the policy: something to do.", blocks=tuple(blocks))
    section = f"[[{one.change.section}]]\n" + "".join(f"{key} = {toml(v)}\n" for key, v in one.change.values.items())
    blocks.append(
        Note(
            title="Try it",
            text=f"{one.try_}.",
            command=f'farthing optimize --apply "{one.name}"',
            links=_replay(ask, one),
        )
    )
    if ask.person.role == "admin":
        blocks += _confirm(ask, one)
    else:
        blocks.append(Text(title="The section that tries it", text=section))
    return Page(title=one.name, lead="A section of farthing.toml tries it.", blocks=tuple(blocks))


def _replay(ask: Ask, one: Opportunity) -> tuple[Link, ...]:
    if one.change is None or ask.person.role == "team":
        return ()
    href = ask.state.href("/replay", change=one.name)
    return (Link(text="Replay the past with it", href=href),)


def _confirm(ask: Ask, one: Opportunity) -> list[Block]:
    """The change as it would be written, and the button that writes it."""
    assert one.change is not None
    source = ask.sources.settings().source
    try:
        old, new = changes.with_section(source, one.change.section, one.change.values)
        ask.sources.check(new, source)
    except (OSError, ConfigError) as error:
        text = str(error) if isinstance(error, ConfigError) else "This gateway runs without a configuration file."
        return [Note(title="It cannot be written", text=text, tone="warn")]
    form = Form(
        id="apply",
        title="Apply it",
        method="post",
        action="/opportunities/apply",
        submit="Write this to farthing.toml",
        fields=(
            Field(name="name", label="", kind="hidden", value=one.name),
            Field(name="address", label="", kind="hidden", value=ask.state.href("/opportunities")),
            Field(name="seen", label="", kind="hidden", value=_mark(new)),
        ),
    )
    return [Text(title="What changes", text=changes.diff(old, new, Path(source).name)), form]


def apply(ask: Ask, said: Mapping[str, str]) -> str:
    """Writes the section that was shown into farthing.toml. Raises ``BadRequest``, ``ConfigError``."""
    pairs = parse_qsl(urlsplit(said.get("address", "")).query)
    then = replace(ask, state=addresses.read("/opportunities", pairs, now_ms=ask.now_ms))
    asked = ask.sources.studies.opportunities(question(then))
    if asked is None:
        raise BadRequest("The traffic log is being read again.", hint="Go back and send it once more.")
    one = _named(asked[0], said.get("name", ""))
    settings = ask.sources.settings()
    if one.change is None or not settings.source:
        raise BadRequest(f"{one.name} cannot be written here.", hint=one.try_)
    try:
        old, new = changes.with_section(settings.source, one.change.section, one.change.values)
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=settings.source) from error
    if _mark(new) != said.get("seen", ""):
        raise BadRequest("The file or the finding has changed since it was shown.", hint="Look at the change again.")
    checked = ask.sources.check(new, settings.source)
    path = str(Path(settings.source).resolve())
    change = changes.Applied(path=path, why=one.name, before=old, after=new, at_ms=ask.now_ms)
    try:
        changes.apply(Path(settings.home), change)
    except OSError as error:
        raise ConfigError([f"cannot be written: {error.strerror}"], source=settings.source) from error
    _note(ask, checked.policy.ref, f"{one.name} applied in the dashboard")
    return "/opportunities"


def undo(ask: Ask, said: Mapping[str, str]) -> str:
    """Takes the last change back, as ``farthing undo`` does. Raises ``BadRequest``, ``ConfigError``."""
    kept = changes.last(Path(ask.sources.settings().home))
    if kept is None or str(kept[1].at_ms) != said.get("id", ""):
        raise BadRequest("This is not the last change.", hint="Look at Opportunities again.")
    note, change = kept
    if not changes.is_current(change):
        raise BadRequest(f'The file was changed since "{change.why}" was applied.', hint="Take it back by hand.")
    try:
        changes.undo(note, change)
    except OSError as error:
        raise ConfigError([f"cannot be written: {error.strerror}"], source=change.path) from error
    checked = ask.sources.check(change.before, change.path)
    _note(ask, checked.policy.ref, f"{change.why} taken back in the dashboard")
    return "/opportunities"


def _undo(ask: Ask) -> list[Block]:
    kept = changes.last(Path(ask.sources.settings().home))
    if kept is None or not changes.is_current(kept[1]):
        return []
    change = kept[1]
    fields = (Field(name="id", label="", kind="hidden", value=str(change.at_ms)),)
    return [
        Note(
            title=f"Applied: {change.why}",
            text=f"Written {shown(change.at_ms)[:16]} UTC. A running gateway uses it after a restart.",
            tone="good",
            command="farthing undo",
        ),
        Form(id="undo", title="Take it back", method="post", action="/opportunities/undo",
             submit="Take it back", fields=fields),
    ]  # fmt: skip


def _note(ask: Ask, after: str, detail: str) -> None:
    practice = ask.sources.practice()
    try:
        practice.note(Changed(at_ms=ask.now_ms, subject="policy", after=after, by=ask.person.name, detail=detail))
    finally:
        practice.close()


def _named(found: Examined, name: str) -> Opportunity:
    one = next((one for one in found.opportunities if one.name == name), None)
    if one is None:
        raise BadRequest(f"No opportunity of this period is called '{name[:80]}'.", hint="Look at the list again.")
    return one


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


VIEW = View(name="opportunities", title="Opportunities", group="Improve", build=build, roles=EVERYBODY)
