"""Pages as HTML: templates over the blocks, everything escaped."""

import json

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from farthing import __version__
from farthing.core.errors import FarthingError
from farthing.server.pages import money
from farthing.server.pages.ask import Person, View
from farthing.server.pages.blocks import Figure, Form, Link, Note, Page, TableBlock, Text, Tiles
from farthing.server.pages.files import address, own_styles
from farthing.server.pages.guard import FIELD
from farthing.server.pages.state import PERIODS, State
from farthing.server.pages.views import VIEWS

LIVE_MS = 4_000
"""How often a page that follows asks whether there is anything new."""
_GROUPS = ("See", "Control", "Allocate", "Improve", "Run")


class Drawing:
    """The templates, read once."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("farthing.server.pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            file=address,
            own_styles=own_styles,
            version=__version__,
            shown=money.shown,
            exact=money.exact,
            cells=cells,
            figure=figure,
            csrf_field=FIELD,
            live_ms=LIVE_MS,
        )
        self._templates.filters["kind"] = kind

    def page(self, view: View, page: Page, person: Person, now: State, *, nonce: str, theme: str, csrf: str) -> str:
        """A page within its frame."""
        twin = f"/{view.name}" if now.path == "/" else now.path
        return self._templates.get_template("page.html").render(
            page=page,
            person=person,
            state=now,
            menu=menu(view, person, now),
            periods=[Link(text=text, href=now.href(since=since, until="now"), current=now.since == since)
                     for since, text in PERIODS],
            json=now.href(f"{twin}.json", **now.rest),
            csv=lambda name: now.href(f"{twin}.csv", **{**now.rest, "table": name}),
            here=now.href(**now.rest),
            nonce=nonce,
            theme=theme if theme in ("light", "dark") else "",
            csrf=csrf,
        )  # fmt: skip

    def sign_in(self, *, problem: str, following: str, nonce: str, theme: str, csrf: str) -> str:
        """The page that asks for name and password."""
        return self._templates.get_template("signin.html").render(
            problem=problem, following=following, nonce=nonce, theme=theme, csrf=csrf
        )

    def failed(self, error: FarthingError, *, nonce: str, theme: str) -> str:
        """What went wrong and what to do."""
        return self._templates.get_template("error.html").render(error=error, nonce=nonce, theme=theme)


def menu(view: View, person: Person, now: State) -> list[tuple[str, list[Link]]]:
    """The groups of the menu with what this person may open; the period travels along."""
    found = []
    for group in _GROUPS:
        links = [
            Link(text=one.title, href=now.href(one.address, by=("feature",)), current=one.name == view.name)
            for one in VIEWS
            if one.group == group and person.role in one.roles
        ]
        if links:
            found.append((group, links))
    return found


def kind(block: object) -> str:
    """Which template draws a block."""
    names = {Tiles: "tiles", TableBlock: "table", Note: "note", Text: "text", Form: "form", tuple: "links"}
    return names[type(block)]


def cells(block: TableBlock, at: int) -> Markup:
    """A row of a table. Not a template: a page has thousands of cells, and a loop there takes five times as long."""
    found = []
    for place, (column, value) in enumerate(zip(block.table.columns, block.table.rows[at], strict=True)):
        if column.name in block.hide:
            continue
        said, exact = money.drawn(column, value)
        href = block.links[column.name][at] if column.name in block.links else ""
        width = "" if column.kind != "text" or len(said) <= 20 else " long" if len(said) > 60 else " mid"
        title = f' title="{escape(exact)}"' if exact else ""
        text = f'<a href="{escape(href)}">{escape(said or "(none)")}</a>' if href else escape(said)
        if place:
            found.append(f'<td class="{column.kind}{width}"{title}>{text}</td>')
        else:
            wordy = " wordy" if len(said) > 24 else ""
            found.append(f'<th scope="row" class="{column.kind}{wordy}"{title}>{text}</th>')
    return Markup("\n".join(found))  # every part of it is escaped


def figure(data: Figure) -> Markup:
    """A figure inside a script element that holds data: nothing in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
