"""Unit economics: cost per outcome, user, customer or session, with intervals; and a form that takes outcomes."""

from collections.abc import Mapping
from contextlib import closing
from typing import get_args

from farthing.core.errors import BadRequest
from farthing.insight import unit_economics as economics
from farthing.insight.outcome_rows import FIELDS, read_rows
from farthing.insight.reports import unit
from farthing.insight.table import Table
from farthing.insight.unit_economics import Per
from farthing.ports.outcomes import Outcome
from farthing.server.pages import figures
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Link, Note, Page, TableBlock
from farthing.server.pages.bounds import bounded
from farthing.server.pages.views.explore import controls

HEADS: tuple[Per, ...] = get_args(Per)
LIMIT = 50
LISTED = 10


def build(ask: Ask) -> Page:
    """Cost per outcome where some are known, else per user; both as the address says."""
    return _page(ask, ())


def upload(ask: Ask, said: Mapping[str, str]) -> Page:
    """Takes a CSV of outcomes, all of it or nothing; the page that says what came of it. Raises ``BadRequest``."""
    found, bad = read_rows(said.get("file", ""), jsonl=False, now_ms=ask.now_ms)
    if bad:
        more = f" And {len(bad) - LISTED:,} more." if len(bad) > LISTED else ""
        raise BadRequest(
            f"Nothing was taken. {' | '.join(bad[:LISTED])}.{more}", hint=f"Columns: {', '.join(FIELDS)}."
        )
    if not found:
        raise BadRequest("The file has no row.", hint=f"Its header: {', '.join(FIELDS)}.")
    with closing(ask.sources.practice()) as practice:
        new, seen = practice.add(found)
    text = f"Took {new:,} outcomes; {seen:,} were there already."
    return _page(ask, (Note(title="Outcomes", text=text, tone="good"),))


def _page(ask: Ask, first: tuple[Block, ...]) -> Page:
    state = ask.state
    with closing(ask.sources.practice()) as practice:
        kinds = tuple(name for name, _ in practice.kinds())
        kind = state.rest.get("outcome", "")
        per = state.rest.get("per", "")
        if not kind and not per:
            kind = kinds[0] if kinds else ""
            per = "" if kind else "user"
        found = practice.all(kind=kind, since_ms=state.since_ms, until_ms=state.until_ms + 1) if kind else ()
    if per and per not in HEADS:
        raise BadRequest(f'per: "{per[:40]}" is none of {", ".join(HEADS)}')
    if kind and kind not in kinds:
        raise BadRequest(f'outcome: nobody reported "{kind[:64]}"', hint=f"Reported: {', '.join(kinds) or 'none'}.")
    choices = (
        *(_link(ask, kind, f"per {name}", outcome=name) for name in kinds),
        *(_link(ask, per, f"per {name}", per=name) for name in HEADS),
    )
    blocks: list[Block] = [*first, *controls(state, "/unit", outcome=kind, per=per), choices]
    if kind:
        blocks += _outcomes(ask, kind, found)
    else:
        blocks += _heads(ask, per)
    blocks += [*_how(kinds), _form()]
    lead = "What an outcome, a user, a customer or a session costs. Intervals are 95 %, over sessions."
    return Page(title="Unit economics", lead=lead, blocks=tuple(blocks))


def _link(ask: Ask, chosen: str, text: str, **said: str) -> Link:
    (value,) = said.values()
    return Link(text=text, href=ask.state.href("/unit", **said), current=chosen == value)


def _outcomes(ask: Ask, kind: str, found: tuple[Outcome, ...]) -> list[Block]:
    state, by = ask.state, _by(ask, "session")
    query = economics.query(by, "session", since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    query, shortened = bounded(ask, query)
    rows = ask.ledger.totals(query)
    units, lost = economics.per_outcome(ask.ledger, rows, found, by)
    missing = economics.unknown(rows)
    table = unit.build(units, by, unpriced=missing, title=f"Cost per {kind}", lost=lost, limit=LIMIT)
    return [*shortened, _block(table, by, f"What one {kind} costs, slice by slice.")]


def _heads(ask: Ask, per: str) -> list[Block]:
    state, by = ask.state, _by(ask, per)
    query = economics.query(by, per, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    query, shortened = bounded(ask, query)
    rows = ask.ledger.totals(query)
    missing = economics.unknown(rows)
    heads = economics.per_head(rows)
    table = unit.per_head(heads, by, per, unpriced=missing, title=f"Cost per {per}", limit=LIMIT)
    return [*shortened, _block(table, by, f"What one {per} costs, slice by slice.")]


def _by(ask: Ask, cluster: str) -> tuple[str, ...]:
    by = ask.state.by or ("feature",)
    if cluster in by:
        raise BadRequest(f"by: cost per {cluster} is by {cluster} already", hint="Group by feature, team or model.")
    return by


def _block(table: Table, by: tuple[str, ...], describes: str) -> TableBlock:
    known = any(isinstance(row[_place(table, "each")], int) for row in table.rows)
    return TableBlock(
        id="unit",
        table=table,
        figure=figures.intervals(table, by[0], "each", "low", "high") if known else None,
        describes=describes,
        empty="No call of this period matches.",
        command="farthing unit --per user",
    )


def _place(table: Table, name: str) -> int:
    return [column.name for column in table.columns].index(name)


def _how(kinds: tuple[str, ...]) -> tuple[Block, ...]:
    if kinds:
        return ()
    return (
        Note(
            title="No outcome was reported yet",
            text="Tell what calls were good for, and this page says what one of them costs and what is left of its "
            "value. Programs post it with the key they call with; a file is taken below.",
            command="curl -H 'authorization: Bearer fk-…' http://127.0.0.1:8484/api/v1/outcomes "
            """-d '{"id": "t-1", "kind": "ticket_resolved", "session": "s-1", "value_usd": "4.00"}'""",
        ),
    )


def _form() -> Form:
    hint = f"UTF-8, with a header: {', '.join(FIELDS)}. The same id again changes nothing."
    return Form(
        id="outcomes",
        title="Take outcomes from a CSV file",
        method="post",
        action="/unit/outcomes",
        submit="Take them",
        folded=True,
        fields=(Field(name="file", label="CSV file", kind="file", required=True, hint=hint),),
    )


VIEW = View(name="unit", title="Unit economics", group="Allocate", build=build, roles=OFFICE)
