"""Experiments: their designs, and of one of them the arms, the interval, quality, and what is still missing."""

import secrets
from collections.abc import Mapping
from contextlib import closing

from farthing.core.arms import Gate
from farthing.core.errors import BadRequest, NotFound
from farthing.core.experiment import PARTS, Experiment
from farthing.insight.arms import CARRY_MS
from farthing.insight.experiment_design import Words, design
from farthing.insight.proof import Measured
from farthing.insight.reports import experiments as report
from farthing.ports.audit import AuditLog, Changed
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
    Tile,
    Tiles,
    Tone,
)
from farthing.server.pages.money import dollars
from farthing.server.pages.studies import AskProof

TITLE = "Experiments"
LEAD = "Part of the conversations does without caches, routes or levers, drawn by chance: what they save is the rest."
START = "farthing experiment start NAME --holdout 5"
ALL = "all that the policy has"


def build(ask: Ask) -> Page:
    """All experiments, and the result of the one that the address names, else of the last one begun."""
    with closing(ask.sources.practice()) as register:
        known = register.experiments()
    named = ask.state.rest.get("show", "")
    chosen = next((one for one in known if named in ("", one.name)), None)
    if named and chosen is None:
        raise NotFound(f"There is no experiment '{named[:80]}'.", hint="The list of all is under Experiments.")
    table = report.listed(known, now_ms=ask.now_ms)
    blocks: list[Block] = []
    pending = False
    if chosen is not None:
        more = _result(ask, chosen)
        pending = more is None
        blocks += more or [
            Note(
                title="The books are being read",
                text="A long experiment takes a while. This page looks again by itself; else use the link.",
                links=(Link(text="Look again", href=ask.state.href("/experiments", show=chosen.name)),),
            )
        ]
    blocks.append(
        TableBlock(
            id="experiments",
            table=table,
            links={"experiment": links(table.rows, lambda row: ask.state.href("/experiments", show=str(row[0])))},
            hide=("by",),
            empty="No saving was put to the test yet.",
            command=START,
            actions=(
                RowAction(label="Stop", path="/experiments/stop", ids=tuple(_stoppable(ask, one) for one in known)),
            ),
        )
    )
    if ask.person.role == "admin" and not any(_stoppable(ask, one) for one in known):
        blocks.append(_form())
    return Page(title=TITLE, lead=LEAD, blocks=tuple(blocks), pending=pending)


def start(ask: Ask, said: Mapping[str, str]) -> str:
    """Begins an experiment. Raises ``ConfigError`` with everything wrong, ``Conflict``."""
    pairs = [pair.partition("=") for pair in said.get("match", "").split(",") if pair.strip()]
    words = Words(
        name=said.get("name", "").strip(),
        off=said.get("off", "") if said.get("off", "") != ALL else "",
        holdout=said.get("holdout", ""),
        match=tuple((name.strip(), value.strip()) for name, _, value in pairs),
        until=said.get("until", ""),
        why=said.get("why", ""),
    )
    policy = ask.sources.settings().policy
    made = design(words, policy, now_ms=ask.now_ms, salt=secrets.token_hex(8), by=ask.person.name)
    with closing(ask.sources.practice()) as register:
        register.begin(made, now_ms=ask.now_ms)
        _note(register, ask, made.name, "started")
    return f"/experiments?show={made.name}"


def stop(ask: Ask, said: Mapping[str, str]) -> str:
    """Ends the experiment that runs. Raises ``BadRequest``."""
    name = said.get("id", "")
    with closing(ask.sources.practice()) as register:
        if not register.end(name, at_ms=ask.now_ms):
            raise BadRequest("This experiment is not running.", hint="Look at Experiments again.")
        _note(register, ask, name, "stopped")
    return f"/experiments?show={name}"


def _note(register: AuditLog, ask: Ask, name: str, after: str) -> None:
    register.note(Changed(at_ms=ask.now_ms, subject="experiment", name=name, after=after, by=ask.person.name))


def _stoppable(ask: Ask, one: Experiment) -> str:
    """Its name, where this person may stop it now."""
    over_ms = one.over_ms
    runs = one.stopped_ms is None and (over_ms is None or over_ms > ask.now_ms)
    return one.name if runs and ask.person.role == "admin" else ""


def _form() -> Form:
    fields = (
        Field(name="name", label="Name", hint="small letters, digits and .-_; used once", required=True),
        Field(name="off", label="Control does without", kind="select", value=ALL, options=(ALL, *PARTS)),
        Field(name="holdout", label="Control, percent", value="5", hint="0.1 to 90"),
        Field(name="match", label="Only calls whose", hint="team=search, with commas; empty: everybody"),
        Field(name="until", label="Planned end", hint="28d or 2026-12-24; empty: until it is stopped"),
        Field(name="why", label="What for"),
    )
    return Form(
        id="start",
        title="New experiment",
        fields=fields,
        action="/experiments/start",
        method="post",
        submit="Begin",
        folded=True,
    )


def _result(ask: Ask, chosen: Experiment) -> list[Block] | None:
    """The experiment's figures; None while they are worked out."""
    over_ms = chosen.over_ms
    open_ended = over_ms is None or over_ms > ask.now_ms
    asked = ask.sources.studies.proof(
        AskProof(
            since_ms=chosen.starts_ms - CARRY_MS,
            until_ms=None if open_ended else over_ms,
            where=ask.person.scope,
            experiment=chosen.name,
        )
    )
    if asked is None:
        return None
    if not asked[0].measured:
        return []
    (found,) = asked[0].measured
    if found.objections:
        said = report.withheld(found)
        verdict = Note(title=f"{chosen.name}: not to be told yet", text=said[0].upper() + said[1:], tone="warn")
    else:
        verdict = Note(
            title=f"{chosen.name}: " + ("it may be told" if found.quality == "holds" else "unverified quality"),
            text=f"The rules for a headline are met. Quality: {found.quality} ({found.basis}).",
            tone="good" if found.quality == "holds" else "warn",
            command=f"farthing savings report --experiment {chosen.name}",
        )
    return [
        verdict,
        Tiles(tiles=_tiles(found, report.state_of(chosen, ask.now_ms))),
        TableBlock(id="arms", table=report.arms(found)),
        TableBlock(id="intervals", table=report.intervals(found), empty="No interval yet."),
        TableBlock(id="quality", table=report.quality(found), empty="Nothing to compare yet."),
    ]


def _tiles(found: Measured, state: str) -> tuple[Tile, ...]:
    saving = found.saving
    spread = "" if saving is None else f"{100 * saving.low:.1f} to {100 * saving.high:.1f} %, 95 %"
    worth = None if saving is None else found.nusd(saving.estimate)
    return (
        Tile(name="state", label="State", value=state),
        Tile(name="control", label="Control conversations", value=f"{found.control.conversations:,}",
             exact=found.control.conversations, unit="count",
             note=f"about {found.missing:,} more are needed" if found.missing else "enough"),
        Tile(name="saving", label="Saving", value="-" if saving is None else f"{100 * saving.estimate:.1f} %",
             exact=None if saving is None else round(10_000 * saving.estimate), unit="percent_hundredths",
             note=spread, tone="good" if found.headline else ""),
        Tile(name="saved", label="Saved in the treated arm", value="-" if worth is None else dollars(worth),
             exact=worth, note="net of what saving cost"),
        Tile(name="quality", label="Quality gate", value=found.quality, note=found.basis,
             tone=_TONES.get(found.quality, "")),
    )  # fmt: skip


_TONES: dict[Gate, Tone] = {"holds": "good", "regressed": "bad"}

VIEW = View(name="experiments", title=TITLE, group="Improve", build=build, roles=OFFICE)
