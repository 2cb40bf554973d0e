"""Reconcile: a provider's bill beside the ledger, every gap by its name."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final, get_args

import msgspec

from farthing.core.bill import Reconciliation
from farthing.core.errors import BadRequest, StoreFailed
from farthing.insight.billed import Kind
from farthing.insight.moments import shown
from farthing.insight.reports import reconcile as report
from farthing.insight.table import Column, Table
from farthing.server.pages import figures
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.bills import BillFile, Bills
from farthing.server.pages.blocks import Block, Field, Form, Link, Note, Page, RowAction, TableBlock, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.pages.state import DAY_MS, Where
from farthing.server.pages.studies import AskBill

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TOLERANCE: Final = Fraction(5, 1000)
"""The largest unnamed share of a bill that is no finding, as in ``farthing reconcile``."""
LEAD: Final = "A provider's bill beside the ledger: quantities first, then money, and a name for every difference."


def build(ask: Ask) -> Page:
    """The bills that are here, and one of them compared."""
    bills = Bills(ask.sources.settings().home)
    found = bills.all()
    chosen = ask.state.rest.get("bill", "")
    blocks: list[Block] = [_list(ask, found), _upload(folded=bool(found))]
    if not chosen:
        return Page(title="Reconcile", lead=LEAD, blocks=tuple(blocks))
    path = bills.path(chosen)
    one = next(one for one in found if one.name == chosen)
    question = _question(ask, one, str(path))
    form = _choices(ask, one, question)
    try:
        asked = ask.sources.studies.bill(question)
    except BadRequest as error:
        said = f"{error.message.replace(str(path), one.name)} {error.hint}"
        wrong = Note(title="This bill cannot be read so", text=said, tone="warn")
        return Page(title="Reconcile", lead=LEAD, blocks=(form, wrong, *blocks))
    if asked is None:
        again = ask.state.href("/reconcile", **ask.state.rest)
        note = Note(
            title="The bill is being compared",
            text="Every entry of the period is read. This page looks again by itself; without scripts use the link.",
            links=(Link(text="Look again", href=again),),
        )
        return Page(title="Reconcile", lead=LEAD, blocks=(form, note), pending=True)
    title = f"{question.kind}, {shown(question.since_ms)[:10]} to {shown(question.until_ms)[:10]}"
    blocks = [form, *_compared(asked[0], question, title), *blocks]
    return Page(title="Reconcile", lead=LEAD, blocks=tuple(blocks))


def upload(ask: Ask, said: Mapping[str, str]) -> str:
    """Keeps a bill and opens it. Raises ``BadRequest``."""
    kind = next((kind for kind in KINDS if kind == said.get("kind")), None)
    if kind is None:
        raise BadRequest(f"kind: choose one of {', '.join(KINDS)}")
    try:
        name = Bills(ask.sources.settings().home).add(kind, said.get("file", ""), ask.now_ms)
    except OSError as error:
        raise StoreFailed(f"The bill cannot be kept: {error.strerror}.") from error
    return f"/reconcile?bill={name}"


def delete(ask: Ask, said: Mapping[str, str]) -> str:
    """Deletes a bill; the ledger stays as it is. Raises ``BadRequest``."""
    Bills(ask.sources.settings().home).delete(said.get("id", ""))
    return "/reconcile"


def _question(ask: Ask, one: BillFile, path: str) -> AskBill:
    """What the address asks, cut to whole UTC days. Raises ``BadRequest``."""
    state = ask.state
    said = state.rest.get("kind", "") or one.kind
    kind = next((kind for kind in KINDS if kind == said), None)
    problems = [] if kind else [f"kind: choose one of {', '.join(KINDS)}"]
    columns = []
    for part in state.rest.get("map", "").split(","):
        field, equals, column = part.strip().partition("=")
        if part.strip() and not (field and equals and column):
            problems.append(f"map: '{part.strip()[:40]}' is not field=column")
        elif part.strip():
            columns.append((field.strip(), column.strip()))
    since, until = state.since_ms - state.since_ms % DAY_MS, state.until_ms - state.until_ms % DAY_MS
    if until <= since:
        problems.append("since, until: leave no whole UTC day")
    if problems or kind is None:
        raise BadRequest("; ".join(problems))
    return AskBill(kind=kind, file=path, since_ms=since, until_ms=until, columns=tuple(columns), where=state.where)


def _compared(found: Reconciliation, question: AskBill, title: str) -> list[Block]:
    sums = report.Sums(found)
    unnamed = sums.unnamed()
    table = report.build(found, provider=question.kind, title=f"The gap by name: {title}")
    first = msgspec.structs.replace(table.columns[0], title="what")
    table = msgspec.structs.replace(table, columns=(first, *table.columns[1:]))
    parts = _named(found)
    blocks: list[Block] = [Tiles(tiles=_tiles(found, sums, unnamed)), TableBlock(id="gap", table=table)]
    if parts.rows:
        blocks.append(
            TableBlock(
                id="causes",
                table=parts,
                figure=figures.ranked(parts, "cause", "size"),
                describes="How much each cause moves.",
            )
        )
    blocks.append(
        TableBlock(
            id="detail",
            table=report.detail(found, title="Every part of the gap"),
            folded=True,
            empty="Bill and ledger agree to the last token and nano-dollar.",
        )
    )
    return blocks


def _named(found: Reconciliation) -> Table:
    """How much money each cause moves, the largest first."""
    sums = report.Sums(found)
    by_cause = {cause: sums.of(cause) for cause in report.MEANS}
    moved = {cause: report.size([one.amount for one in parts]) for cause, parts in by_cause.items()}
    order = sorted((cause for cause in moved if moved[cause]), key=lambda cause: -moved[cause])
    rows = tuple((report.MEANS[cause], moved[cause], len(by_cause[cause])) for cause in order)
    columns = (
        Column(name="cause", title="cause"),
        Column(name="size", title="moved", kind="usd"),
        Column(name="parts", title="parts", kind="int"),
    )
    return Table(title="What moves money", columns=columns, rows=rows)


def _tiles(found: Reconciliation, sums: report.Sums, unnamed: Fraction) -> tuple[Tile, ...]:
    part = round(unnamed * 10_000)
    word = Tile(
        name="unnamed",
        label="Without a name",
        value=f"{part / 100:.2f} %",
        exact=part,
        unit="percent_hundredths",
        tone="bad" if unnamed > TOLERANCE else "good",
        note=f"of the bill; {float(TOLERANCE):.1%} is tolerated",
    )
    if not found.has_money:
        return (
            Tile(name="billed", label="Billed, tokens", value=f"{sums.billed:,}", exact=sums.billed, unit="count"),
            Tile(name="booked", label="Booked, tokens", value=f"{sums.booked:,}", exact=sums.booked, unit="count"),
            word,
        )
    gap = sums.billed_amount - sums.booked_amount
    return (
        Tile(name="billed", label="Billed", value=dollars(sums.billed_amount), exact=sums.billed_amount),
        Tile(name="booked", label="Booked", value=dollars(sums.booked_amount), exact=sums.booked_amount),
        Tile(name="gap", label="Bill minus ledger", value=dollars(gap), exact=gap),
        word,
    )


def _list(ask: Ask, found: tuple[BillFile, ...]) -> TableBlock:
    rows = tuple((one.name, one.kind, one.size, shown(one.saved_ms)[:16]) for one in found)
    return TableBlock(
        id="bills",
        table=Table(
            title="Bills",
            columns=(
                Column(name="bill", title="bill"),
                Column(name="kind", title="read as"),
                Column(name="bytes", title="bytes", kind="int"),
                Column(name="saved", title="kept since (UTC)"),
            ),
            rows=rows,
        ),
        links={"bill": tuple(ask.state.href("/reconcile", bill=one.name) for one in found)},
        actions=(RowAction(label="Delete", path="/reconcile/delete", ids=tuple(one.name for one in found)),),
        empty="No bill is here yet. Upload one below, or let the command ask the provider.",
        command="farthing reconcile --provider openai --admin-key-env OPENAI_ADMIN_KEY --since 2026-10",
    )


def _choices(ask: Ask, one: BillFile, question: AskBill) -> Form:
    state = ask.state
    where: Where = state.where
    return Form(
        id="period",
        title=f"Bill {one.name}",
        action="/reconcile",
        submit="Compare",
        fields=(
            Field(name="bill", label="", kind="hidden", value=one.name),
            Field(name="kind", label="Read as", kind="select", options=KINDS, value=question.kind),
            Field(name="since", label="From (UTC day)", value=shown(question.since_ms)[:10]),
            Field(name="until", label="Up to (UTC day)", value=shown(question.until_ms)[:10],
                  hint="itself excluded; today is not over"),
            Field(name="map", label="Columns of a CSV", value=state.rest.get("map", ""),
                  hint="day=Date, model=Model, amount=Cost"),
            Field(name="where", label="Only entries with", value="=".join(where[0]) if where else "",
                  hint="provider=azure"),
        ),
    )  # fmt: skip


def _upload(*, folded: bool) -> Form:
    return Form(
        id="upload",
        title="Upload a bill",
        method="post",
        action="/reconcile/upload",
        submit="Upload",
        folded=folded,
        fields=(
            Field(name="kind", label="Whose", kind="select", options=KINDS, value="openai"),
            Field(name="file", label="File", kind="file", required=True,
                  hint="saved answers of the usage and cost report APIs (JSON, JSON Lines), or a CSV bill; 4 MiB"),
        ),
    )  # fmt: skip


VIEW = View(name="reconcile", title="Reconcile", group="Allocate", build=build, roles=OFFICE)
