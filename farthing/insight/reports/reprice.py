"""Repricing: what the past would cost under another price book, model by model."""

from collections.abc import Iterable
from typing import Final

from farthing.core.repricing import Rerated
from farthing.insight.render import usd
from farthing.insight.table import Column, Row, Table

TITLE: Final = "Repricing"

COLUMNS: Final = (
    Column(name="provider", title="provider"),
    Column(name="model", title="model"),
    Column(name="entries", title="entries", kind="int"),
    Column(name="before", title="booked", kind="usd", unknown="unpriced"),
    Column(name="after", title="repriced", kind="usd", unknown="unpriced"),
    Column(name="difference", title="difference", kind="usd"),
    Column(name="changed", title="changed", kind="int"),
    Column(name="newly_priced", title="newly priced", kind="int"),
    Column(name="newly_unpriced", title="newly unpriced", kind="int"),
    Column(name="unpriced", title="still unpriced", kind="int"),
    Column(name="kept", title="kept", kind="int"),
)

_KEPT: Final = {
    "stated": "the provider itself stated the cost",
    "billed": "reconciled with the provider's bill",
    "reversed": "taken back",
    "not_metered": "the amount is a ceiling, not metered usage",
}


class Tally:
    """Sums of one model; ``add`` every entry."""

    def __init__(self) -> None:
        self.entries = self.before = self.after = self.difference = 0
        self.changed = self.newly_priced = self.newly_unpriced = self.unpriced = self.kept = 0
        self.known_before = self.known_after = False

    def add(self, one: Rerated) -> None:
        """Counts one entry. A price that the other book lacks stays in ``after`` as it is booked."""
        self.entries += 1
        after = one.before if one.newly_unpriced else one.after
        self.before += one.before or 0
        self.after += after or 0
        self.difference += one.difference
        self.known_before |= one.before is not None
        self.known_after |= after is not None
        self.changed += one.before is not None and one.difference != 0
        self.newly_priced += one.newly_priced
        self.newly_unpriced += one.newly_unpriced
        self.unpriced += one.before is None and one.after is None
        self.kept += one.kept != ""

    def row(self, provider: str, model: str) -> Row:
        """The model's line."""
        return (
            provider,
            model,
            self.entries,
            self.before if self.known_before else None,
            self.after if self.known_after else None,
            self.difference if self.known_before or self.known_after else None,
            self.changed,
            self.newly_priced,
            self.newly_unpriced,
            self.unpriced,
            self.kept,
        )


class Repricing:
    """What a repricing found. Feed it with ``add``; read it with ``table``."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], Tally] = {}
        self._kept: dict[str, int] = {}
        self.total = Tally()

    def add(self, one: Rerated) -> None:
        """Counts one entry."""
        self._models.setdefault((one.entry.provider, one.entry.model), Tally()).add(one)
        self.total.add(one)
        if one.kept:
            self._kept[one.kept] = self._kept.get(one.kept, 0) + 1

    def table(self, *, title: str, book: str, applied: int | None, already: int = 0) -> Table:
        """Largest difference first. ``applied``: adjustments booked now; None: a dry run."""
        ordered = sorted(self._models.items(), key=lambda item: (-abs(item[1].difference), -item[1].entries, item[0]))
        rows = tuple(tally.row(*key) for key, tally in ordered)
        return Table(
            title=title,
            columns=COLUMNS,
            rows=rows,
            total=self.total.row("total", "") if rows else None,
            notes=tuple(self._notes(book, applied, already)),
        )

    def _notes(self, book: str, applied: int | None, already: int) -> Iterable[str]:
        yield f"Repriced with price book {book}, at the prices of each call's own instant."
        if self._kept:
            said = "; ".join(f"{count:,} × {_KEPT[reason]}" for reason, count in sorted(self._kept.items()))
            yield f"Kept as booked: {said}."
        if self.total.newly_unpriced:
            yield (
                f"{self.total.newly_unpriced:,} entries have a price that this book does not know. They stay as "
                "they are booked: a known price is never replaced by an unknown one."
            )
        if applied is None:
            yield "Dry run: nothing was booked. Add --apply to book the difference as adjustments."
            return
        was = f" ({already:,} were there already)" if already else ""
        yield (
            f"Booked {applied:,} adjustments{was}, {usd(self.total.difference)} in all. The original entries are "
            "unchanged, and so are the counters of budgets."
        )
