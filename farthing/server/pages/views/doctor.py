"""Cache doctor: what prompts could have read from the provider's cache, what they read, and why not more."""

from typing import Final
from urllib.parse import quote

from farthing.insight.moments import shown
from farthing.lab.checkup import Checkup
from farthing.server.pages import figures
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Page, TableBlock, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.pages.studies import AskCheckup
from farthing.server.pages.views.explore import controls
from farthing.server.pages.views.opportunities import pending, scoped, until_ms
from farthing.server.tables.checkup import causes, lives, pays, places

LEAD: Final = "What prompts could have read from the provider's cache, what they read, and what kept them from more."


def build(ask: Ask) -> Page:
    """The traffic log of the period, examined on salted hashes: no text is read."""
    state = ask.state
    question = AskCheckup(since_ms=state.since_ms, until_ms=until_ms(ask), where=scoped(ask))
    asked = ask.sources.studies.checkup(question)
    if asked is None:
        return pending("Cache doctor", LEAD, ask, "/doctor")
    found, at_ms = asked
    table = causes(found, state.since_ms)
    blocks: list[Block] = [*controls(state, "/doctor", grouped=False)]
    if found.report.requests:
        blocks.append(Tiles(tiles=_tiles(found)))
    nothing = "No prompt missed what it could have read."
    blocks.append(
        TableBlock(
            id="causes",
            table=table,
            figure=figures.ranked(table, "cause", "usd_per_month") if _worth(found) else None,
            describes="What each cause of a miss costs a month.",
            open=True,
            links={"example": links(table.rows, lambda row: f"/requests/{quote(str(row[6]), safe='')}")},
            empty=nothing if found.report.requests else "No answered request of this period is logged.",
            command="" if found.report.requests else "farthing cache doctor --since 30d",
        )
    )
    if found.report.requests:
        where = "Too few calls of one feature on one model: at least 20 are needed."
        blocks.append(TableBlock(id="places", table=places(found), empty=where))
        without = "No prompt of this period needs marks: its providers cache by themselves."
        blocks.append(TableBlock(id="ttl", table=lives(found), empty=without))
    return Page(title="Cache doctor", lead=f"{LEAD} Looked at {shown(at_ms)[11:16]} UTC.", blocks=tuple(blocks))


def _worth(found: Checkup) -> bool:
    return any(one.nusd for one in found.report.findings)


def _tiles(found: Checkup) -> tuple[Tile, ...]:
    report = found.report
    missed = found.per_month(sum(one.nusd for one in report.findings if one.cause != "first_seen"))
    possible, read = round(report.possible_share * 10_000), round(report.read_share * 10_000)
    return (
        Tile(name="possible", label="Input that could be read", value=f"{possible / 100:.1f} %", exact=possible,
             unit="percent_hundredths", note=f"of {report.input_tokens:,} tokens"),
        Tile(name="read", label="Input that was read", value=f"{read / 100:.1f} %", exact=read,
             unit="percent_hundredths", tone="good" if read * 10 >= possible * 8 else "warn",
             note=f"{report.read_tokens:,} tokens"),
        Tile(name="missed", label="Missed, a month", value=dollars(missed), exact=missed,
             tone="warn" if missed else "good", note=f"at the rate of {found.days:.1f} days"),
        Tile(name="ttl", label="Time to live that pays", value=pays(found) if found.kept else "-",
             note="where prompts are marked" if found.kept else "no prompt needs marks"),
    )  # fmt: skip


VIEW = View(name="doctor", title="Cache doctor", group="Improve", build=build, roles=EVERYBODY)
