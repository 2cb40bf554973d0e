"""Governance: who owns the cost, the NIST AI RMF with its evidence, and who changed what."""

from contextlib import closing

from farthing.insight.governance_evidence import DAYS, gather, owners
from farthing.insight.reports import audit, governance
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Link, Page, TableBlock

CHANGES = 200
SUBJECTS = ("policy", "prices", "price_file", "key", "allocation", "anomaly_rule")


def build(ask: Ask) -> Page:
    """Owners, functions, changes of the subject in the address."""
    subject = ask.state.rest.get("subject", "")
    settings, keys = ask.sources.settings(), ask.sources.keys().all()
    with closing(ask.sources.practice()) as practice:
        found = practice.changes(limit=CHANGES, subject=subject)
        evidence = gather(ask.ledger, keys, practice, settings, now_ms=ask.now_ms)
    owned = owners(ask.ledger, keys, settings, now_ms=ask.now_ms)
    subjects = tuple(
        Link(text=name.replace("_", " ") or "all", href=ask.state.href("/governance", subject=name),
             current=name == subject)
        for name in ("", *SUBJECTS)
    )  # fmt: skip
    blocks: tuple[Block, ...] = (
        TableBlock(
            id="owners",
            table=governance.owners(owned, title=f"Owners, last {DAYS} days"),
            empty="Nothing was booked, and nobody has a budget or a key.",
            command="farthing key create search-prod --team search",
        ),
        TableBlock(id="nist", table=governance.nist(evidence)),
        subjects,
        TableBlock(
            id="changes",
            table=audit.build(found, title="Who changed what"),
            empty="Nothing has changed since this log began.",
            command="farthing audit",
        ),
    )
    lead = "Who answers for the cost, what shows it, and every change of policy, prices and keys. The log only grows."
    return Page(title="Governance", lead=lead, blocks=blocks)


VIEW = View(name="governance", title="Governance", group="Run", build=build, roles=OFFICE)
