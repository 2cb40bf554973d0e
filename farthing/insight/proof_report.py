"""The proof of savings as one page: what is measured, modelled and exact, each apart and under its name.

Everything on the page follows from the books, the register of experiments and the price book, so that the command at
its foot makes the same page again; a fingerprint over the figures tells whether it did.
"""

import shlex
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from farthing.insight.gathering import Gathered, Where
from farthing.insight.moments import iso, shown
from farthing.insight.proof import Measured
from farthing.insight.render import as_json, usd
from farthing.insight.reports import experiments, ways
from farthing.insight.table import Column, Table, share

TITLE: Final = "Proof of savings"
_CLAIMS: Final = (
    "Measured, exact and modelled amounts describe the same calls from different sides; they are not added to one "
    "another.",
    "Nothing is projected: a measured saving holds for the calls of its experiment, under the policy of that time.",
    "No period is compared with an earlier one: traffic changes for reasons of its own.",
)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the page."""

    id: str
    basis: str
    """``measured``, ``exact``, ``modelled``, ``cost``, ``fact``: what kind of figures these are."""
    lead: str
    tables: tuple[Table, ...]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The whole page."""

    title: str
    since_ms: int
    until_ms: int
    experiment: str
    """The one that was asked for; empty: all of the period."""
    where: Where
    headline: str
    stands: bool
    """The headline is a result; else it says why there is none yet."""
    struck: bool
    """A result without a passed quality gate: shown struck through."""
    gate: str
    """What is known of quality, beside the headline."""
    sections: tuple[Section, ...]
    not_claimed: tuple[str, ...]
    command: str
    fingerprint: str
    """Over all figures: the same books give the same."""
    version: str = ""

    def tables(self) -> tuple[Table, ...]:
        """Every table in the order of the page."""
        return tuple(table for section in self.sections for table in section.tables)


def proof(found: Gathered, *, experiment: str = "", version: str = "") -> Proof:
    """The page of a period. ``experiment``: the one that was asked for; "" for all of the period."""
    sections = tuple(_sections(found))
    first = found.measured[0] if found.measured else None
    headline, stands, struck = _headline(first)
    not_claimed = tuple(_not_claimed(found))
    body = {
        "headline": headline,
        "sections": {section.id: [as_json(table) for table in section.tables] for section in sections},
        "not_claimed": not_claimed,
    }
    return Proof(
        title=f"{TITLE}, {shown(found.since_ms)} to {shown(found.until_ms)} UTC",
        since_ms=found.since_ms,
        until_ms=found.until_ms,
        experiment=experiment,
        where=found.where,
        headline=headline,
        stands=stands,
        struck=struck,
        gate=_gate(first),
        sections=sections,
        not_claimed=not_claimed,
        command=command(found.since_ms, found.until_ms, experiment, found.where),
        fingerprint=sha256(msgspec.json.encode(body, order="sorted")).hexdigest()[:24],
        version=version,
    )


def command(since_ms: int, until_ms: int, experiment: str, where: Where = ()) -> str:
    """What makes the page again."""
    words = ["farthing", "savings", "report", "--since", iso(since_ms), "--until", iso(until_ms)]
    words += ["--experiment", experiment] if experiment else []
    for name, value in where:
        words += ["--where", f"{name}={value}"]
    return shlex.join(words)


def _headline(found: Measured | None) -> tuple[str, bool, bool]:
    if found is None:
        return (
            "Nothing was measured: no experiment ran in this period. Start one with 'farthing experiment start'.",
            False,
            False,
        )
    name = found.experiment.name
    saving = found.saving
    if saving is None or found.objections:
        return f"'{name}': {experiments.withheld(found)}", False, False
    low, high = usd(found.nusd(saving.low)), usd(found.nusd(saving.high))
    looks = experiments.interval_name(found)
    return (
        f"'{name}' saved {experiments.percent_range(saving)}, valid for {looks}: {usd(found.nusd(saving.estimate))} "
        f"({low} to {high}) in {found.treated.conversations:,} treated conversations beside "
        f"{found.control.conversations:,} in control.",
        True,
        found.quality != "holds",
    )


def _gate(found: Measured | None) -> str:
    if found is None:
        return ""
    word = "Quality" if found.quality == "holds" else "Unverified quality"
    return f"{word}: {found.quality} ({found.basis}; margin {found.experiment.margin_bp / 100:g} points)."


def _sections(found: Gathered) -> list[Section]:
    spend = found.whole.spend
    tables: list[Table] = []
    if found.measured:
        tables.append(experiments.results(found.measured))
        for one in found.measured:
            tables += [experiments.arms(one), experiments.intervals(one), experiments.quality(one)]
    measured = Section(
        id="measured",
        basis="measured",
        lead="By experiments: conversations drawn by chance did without. Net of what saving costs."
        if tables
        else "No experiment ran in this period, so nothing is measured.",
        tables=tuple(tables),
    )
    exact = ways.build(
        found.exact,
        title="Exact savings",
        amount="saved",
        spend=spend,
        notes=("Arithmetic on what was billed: the same answer not bought twice, the same tokens below list price.",),
    )
    modelled = ways.build(
        found.modelled,
        title="Modelled savings",
        amount="saved by the model",
        spend=spend,
        notes=("Rests on tokens that nobody was billed for: another model's answer, a longer prompt.",),
    )
    own = ways.build(
        found.own_cost,
        title="Cost of saving",
        amount="spent",
        spend=spend,
        notes=("Embeddings, judges, shadows, classifiers and rejected answers. Measured savings have it in them.",),
    )
    return [
        measured,
        Section(
            id="exact", basis="exact", lead="Certain, and no proof that anything was optimised.", tables=(exact,)
        ),
        Section(id="modelled", basis="modelled", lead="A counterfactual, not a measurement.", tables=(modelled,)),
        Section(id="own_cost", basis="cost", lead="What the optimiser itself cost.", tables=(own,)),
        Section(id="books", basis="fact", lead="What all of it rests on.", tables=(_books(found),)),
    ]


def _books(found: Gathered) -> Table:
    whole = found.whole
    priced = share(whole.entries - whole.unpriced, whole.entries)
    facts: Sequence[tuple[str, str]] = (
        ("period (UTC)", f"{shown(found.since_ms)} to {shown(found.until_ms)}"),
        ("ledger total", usd(whole.spend)),
        ("entries", f"{whole.entries:,}"),
        ("priced", "-" if priced is None else f"{priced / 100:.2f} %"),
        ("on estimated quantities", f"{whole.estimated:,}"),
        ("without team and feature", f"{whole.untagged:,}"),
        ("policies", ", ".join(sorted(whole.policies)) or "-"),
        ("price books", ", ".join(sorted(whole.price_books)) or "-"),
    )
    return Table(
        title="The books",
        columns=(Column(name="fact", title="fact"), Column(name="value", title="value")),
        rows=tuple(facts),
    )


def _not_claimed(found: Gathered) -> list[str]:
    said = list(_CLAIMS)
    for one in found.measured:
        said += _of_experiment(one)
    whole = found.whole
    if whole.unpriced:
        said.append(f"{whole.unpriced:,} entries have no known price; whatever they saved or cost is in no figure.")
    if whole.no_baseline:
        said.append(f"{whole.no_baseline:,} calls have no baseline to compare with.")
    if whole.unvalued:
        said.append(f"{whole.unvalued:,} discounts could not be rated again and are left out.")
    if whole.capped:
        said.append(f"What {whole.capped:,} capped answers would have cost without the cap.")
    return said


def _of_experiment(one: Measured) -> list[str]:
    name = one.experiment.name
    said = []
    if one.quality != "holds":
        said.append(f"That answers of '{name}' are as good as before: {one.basis}, verdict {one.quality}.")
    if "caches" in one.experiment.off:
        said.append(
            f"What '{name}' would save with no control at all: control neither reads nor fills the caches, so they "
            "know fewer answers."
        )
    if one.experiment.kind == "switchback":
        said.append(
            f"That blocks of '{name}' are free of each other: what one leaves behind may outlast the wash-out."
        )
    if any(unit == "request" for unit, _ in one.units):
        said.append(f"That calls of '{name}' without session and user are independent: each stands for itself.")
    return said
