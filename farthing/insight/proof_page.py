"""The proof of savings as HTML, Markdown and JSON. The HTML is one file without scripts, fit for print."""

from html import escape
from typing import Final, Literal

import msgspec

from farthing.insight.moments import iso
from farthing.insight.proof_report import Proof, Section
from farthing.insight.render import as_json, cell, render
from farthing.insight.table import Column, Row, Table

Form = Literal["html", "md", "json"]
TITLES: Final = {
    "measured": "Measured",
    "exact": "Exact",
    "modelled": "Modelled",
    "own_cost": "Cost of saving",
    "books": "The books",
}
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --line: #c9c9ce; --soft: #595960; --mark: #0b5d3b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --paper: #161618; --line: #47474d; --soft: #b3b3ba; --mark: #6fd6a8; }
}
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .2rem; }
.headline { font-size: 1.15rem; border-left: 4px solid var(--mark); padding: .2rem .8rem; }
.basis { color: var(--mark); font-weight: 600; text-transform: uppercase; font-size: .75rem; letter-spacing: .06em; }
.lead, .notes, footer { color: var(--soft); margin: .2rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; font-size: .85rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
caption.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; font-size: 9pt; } h2 { break-after: avoid; } }
"""


def page(proof: Proof, form: Form) -> str:
    """The page in one of its forms, without a final newline."""
    match form:
        case "html":
            return _html(proof)
        case "md":
            return _markdown(proof)
        case "json":
            return msgspec.json.format(msgspec.json.encode(plain(proof)), indent=2).decode()


def plain(proof: Proof) -> dict[str, object]:
    """The page for programs."""
    return {
        "title": proof.title,
        "since": iso(proof.since_ms),
        "until": iso(proof.until_ms),
        "experiment": proof.experiment,
        "where": proof.where,
        "headline": {"text": proof.headline, "stands": proof.stands, "struck": proof.struck, "quality": proof.gate},
        **{section.id: [as_json(table) for table in section.tables] for section in proof.sections},
        "not_claimed": list(proof.not_claimed),
        "command": proof.command,
        "fingerprint": proof.fingerprint,
        "version": proof.version,
    }


def _markdown(proof: Proof) -> str:
    said = f"~~{proof.headline}~~" if proof.struck else f"**{proof.headline}**"
    parts = [f"# {proof.title}", "", said, ""]
    if proof.gate:
        parts += [proof.gate, ""]
    for section in proof.sections:
        parts += [f"## {TITLES[section.id]}", "", section.lead, ""]
        for table in section.tables:
            parts += [render(table, "md"), ""]
    parts += ["## Not claimed", "", *(f"- {line}" for line in proof.not_claimed), ""]
    parts += ["## Make it again", "", "```sh", f"{proof.command} --format md", "```", ""]
    return "\n".join([*parts, f"Fingerprint of the figures: `{proof.fingerprint}` · Farthing {proof.version}"])


def _html(proof: Proof) -> str:
    said = escape(proof.headline)
    body = [
        f"<h1>{escape(proof.title)}</h1>",
        f'<p class="headline">{f"<s>{said}</s>" if proof.struck else said}</p>',
        f"<p>{escape(proof.gate)}</p>" if proof.gate else "",
        *(_section(section) for section in proof.sections),
        "<section><h2>Not claimed</h2><ul>",
        *(f"<li>{escape(line)}</li>" for line in proof.not_claimed),
        "</ul></section>",
        f"<footer><h2>Make it again</h2><p><code>{escape(proof.command)} --format html</code></p>",
        f"<p>Fingerprint of the figures: <code>{proof.fingerprint}</code> · Farthing {escape(proof.version)}</p>",
        "</footer>",
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(proof.title)}</title><style>{_STYLE}</style></head>"
    )
    return f"{head}<body><main>\n" + "\n".join(part for part in body if part) + "\n</main></body></html>"


def _section(section: Section) -> str:
    tables = "\n".join(_table(table, alone=len(section.tables) == 1) for table in section.tables)
    return (
        f'<section id="{section.id}"><h2>{TITLES[section.id]}</h2>'
        f'<p class="lead"><span class="basis">{escape(section.basis)}</span> {escape(section.lead)}</p>'
        f"{tables}</section>"
    )


def _table(table: Table, *, alone: bool) -> str:
    """``alone``: the section's heading names it already."""
    heads = "".join(f'<th scope="col"{_kind(column)}>{escape(column.title)}</th>' for column in table.columns)
    rows = "".join(_row(table.columns, row) for row in table.rows)
    if not table.rows:
        rows = f'<tr><td colspan="{len(table.columns)}">nothing</td></tr>'
    notes = "".join(f'<p class="notes">{escape(note)}</p>' for note in table.notes)
    caption = f"<caption{' class=hidden' if alone else ''}>{escape(table.title)}</caption>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table>{caption}'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{notes}"
    )


def _row(columns: tuple[Column, ...], row: Row) -> str:
    cells = "".join(
        f"<td{_kind(column)}>{escape(cell(column, value))}</td>" for column, value in zip(columns, row, strict=True)
    )
    return f"<tr>{cells}</tr>"


def _kind(column: Column) -> str:
    return "" if column.kind == "text" else ' class="n"'
