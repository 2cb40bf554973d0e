"""What a page is made of: data only. The templates draw it, ``.json`` and ``.csv`` write it, tests read it."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from farthing.insight.render import as_json
from farthing.insight.table import Table

Tone = Literal["", "good", "warn", "bad"]
Figure = dict[str, object]
"""A Plotly figure, ``data`` and ``layout``, without colours: the script takes those from the style sheet."""


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """One figure at the top of a page."""

    name: str
    label: str
    value: str
    """For people."""
    exact: int | None = None
    """For programs, in nano-USD, hundredths of a percent or a count, as ``unit`` says; None: not known."""
    unit: Literal["nusd", "percent_hundredths", "count"] = "nusd"
    note: str = ""
    href: str = ""
    tone: Tone = ""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go from here."""

    text: str
    href: str
    current: bool = False


class TableBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A table; with a figure, the table is the figure's twin: whoever cannot see the one reads the other."""

    id: str
    table: Table
    links: Mapping[str, tuple[str, ...]] = {}
    """Column name -> the address of each row's cell; "" for none."""
    figure: Figure | None = None
    describes: str = ""
    """What the figure shows, in one sentence."""
    empty: str = "There is nothing here yet."
    command: str = ""
    """The command to type next when the table is empty."""
    hide: tuple[str, ...] = ()
    """Columns for programs only."""
    compact: bool = False
    """Many columns of short values: one line a row, moved sideways where the screen is narrower."""
    narrow: bool = False
    """It may stand beside others like it."""
    folded: bool = False
    """The table is long: shown when it is asked for."""
    open: bool = False
    """It stays open under its figure, because it says more."""
    actions: tuple["RowAction", ...] = ()


class RowAction(msgspec.Struct, frozen=True, kw_only=True):
    """A button at the end of a row that sends the row's id."""

    label: str
    path: str
    ids: tuple[str, ...]
    """One for each row; "" for rows without the button."""


class Tiles(msgspec.Struct, frozen=True, kw_only=True):
    """A row of figures."""

    tiles: tuple[Tile, ...]


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence or two."""

    text: str
    tone: Tone = ""
    command: str = ""
    links: tuple[Link, ...] = ()
    title: str = ""
    percent: int | None = None
    """How far something is; None: nothing is under way."""


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Text as it is, monospaced."""

    title: str
    text: str


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One input of a form."""

    name: str
    label: str
    kind: Literal["text", "number", "range", "select", "date", "hidden", "file", "area"] = "text"
    value: str = ""
    options: tuple[str, ...] = ()
    hint: str = ""
    low: str = ""
    high: str = ""
    step: str = ""
    required: bool = False


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A form: ``get`` changes the page's address, ``post`` changes something."""

    id: str
    title: str
    fields: tuple[Field, ...]
    action: str
    method: Literal["get", "post"] = "get"
    submit: str = "Show"
    live: bool = False
    """The page's figures follow the inputs without a click."""
    folded: bool = False

    @property
    def uploads(self) -> bool:
        """It sends a file."""
        return any(field.kind == "file" for field in self.fields)


Block = Tiles | TableBlock | Note | Text | Form | tuple[Link, ...]


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page, ready to draw."""

    title: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()
    live: bool = False
    """It shows what is booked now: open in a browser, it follows."""
    pending: bool = False
    """Something is still being worked out: open in a browser, it looks again until that is done."""
    onward: str = ""
    """The query of the address under which the rest of a long list stands; empty: nothing is left."""

    @property
    def draws(self) -> bool:
        """It has figures, or may get some while its inputs move."""
        live = any(isinstance(block, Form) and block.live for block in self.blocks)
        return live or any(block.figure is not None for block in self.tables())

    def tables(self) -> tuple[TableBlock, ...]:
        """The tables in the order of the page."""
        return tuple(block for block in self.blocks if isinstance(block, TableBlock))

    def table(self, name: str) -> TableBlock | None:
        """The table of an id; without one, the page's first."""
        return next((block for block in self.tables() if name in ("", block.id)), None)


def plain(page: Page) -> dict[str, object]:
    """The page for programs: every figure exact, every table as ``--format json`` prints it."""
    tiles = [tile for block in page.blocks if isinstance(block, Tiles) for tile in block.tiles]
    return {
        "title": page.title,
        "figures": {
            tile.name: {"label": tile.label, "shown": tile.value, "value": tile.exact, "unit": tile.unit}
            for tile in tiles
        },
        "tables": {block.id: as_json(block.table) for block in page.tables()},
        "texts": {block.title: block.text for block in page.blocks if isinstance(block, Text)},
        "notes": [block.text for block in page.blocks if isinstance(block, Note)],
        "next": page.onward or None,
    }
