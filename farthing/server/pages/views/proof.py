"""The proof of savings: the page that 'farthing savings report' prints, for the period and filters of the address."""

from farthing import __version__
from farthing.insight.gathering import Gathered
from farthing.insight.proof_report import Proof, proof
from farthing.insight.table import Column, Table
from farthing.insight.ways import Way
from farthing.server.pages.ask import EVERYBODY, Ask, View
from farthing.server.pages.blocks import Block, Note, Page, TableBlock, Text, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.pages.studies import AskProof
from farthing.server.pages.views.explore import controls
from farthing.server.pages.views.opportunities import pending, scoped, until_ms

LEAD = "Measured, exact and modelled, each apart and never added: they describe the same calls from different sides."
TITLE = "Proof of savings"


def build(ask: Ask) -> Page:
    """The headline or what is missing, the figures by kind, and how to make them again."""
    asked = ask.sources.studies.proof(
        AskProof(since_ms=ask.state.since_ms, until_ms=until_ms(ask), where=scoped(ask))
    )
    if asked is None:
        return pending(TITLE, LEAD, ask, "/proof")
    found = asked[0]
    made = proof(found, version=__version__)
    blocks: list[Block] = [*controls(ask.state, "/proof", grouped=False), headline(made), _tiles(found)]
    for section in made.sections:
        blocks += tables(section.id, section.tables, section.lead)
    claims = Table(
        title="Not claimed",
        columns=(Column(name="claim", title="what this page does not say"),),
        rows=tuple((line,) for line in made.not_claimed),
    )
    blocks.append(TableBlock(id="not_claimed", table=claims))
    again = f"{made.command}\n\nFingerprint of the figures: {made.fingerprint}"
    blocks.append(Text(title="Make it again", text=again))
    return Page(title=TITLE, lead=LEAD, blocks=tuple(blocks))


def headline(made: Proof) -> Note:
    """The result, or why there is none; one whose quality is not shown says so first."""
    if not made.stands:
        return Note(title="No headline", text=f"{made.headline} {made.gate}".strip(), tone="warn")
    title = "Unverified quality" if made.struck else "Measured"
    return Note(title=title, text=f"{made.headline} {made.gate}", tone="warn" if made.struck else "good")


def tables(name: str, found: tuple[Table, ...], empty: str) -> list[TableBlock]:
    """Blocks for the tables of one section, each with an id of its own."""
    return [
        TableBlock(
            id=name if place == 0 else f"{name}-{place}",
            table=table,
            empty=empty,
            folded=place > 0 and len(found) > 4,
        )
        for place, table in enumerate(found)
    ]


def _tiles(found: Gathered) -> Tiles:
    first = found.measured[0] if found.measured else None
    saving = first.saving if first is not None and first.headline else None
    worth = first.nusd(saving.estimate) if first is not None and saving is not None else None
    tiles = (
        Tile(
            name="measured",
            label="Measured saving",
            value="not known" if worth is None else dollars(worth),
            exact=worth,
            note="no headline" if saving is None else f"{100 * saving.low:.1f} to {100 * saving.high:.1f} %",
            tone="" if worth is None else "good",
            href="/experiments",
        ),
        _sum("exact", "Exact savings", found.exact, "arithmetic on the bill"),
        _sum("modelled", "Modelled savings", found.modelled, "a counterfactual, not a measurement"),
        _sum("own_cost", "Cost of saving", found.own_cost, "embeddings, judges, shadows, classifiers"),
    )
    return Tiles(tiles=tiles)


def _sum(name: str, label: str, ways: tuple[Way, ...], note: str) -> Tile:
    amount = sum(one.amount for one in ways)
    return Tile(name=name, label=label, value=dollars(amount), exact=amount, note=note)


VIEW = View(name="proof", title=TITLE, group="Improve", build=build, roles=EVERYBODY)
