"""The price book of an installation: the base list, Farthing's corrections and the installation's own files.

``load_default_book`` puts them together; :class:`BookPrices` is the ``Prices`` port over the result. Nothing here
goes to the network.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from farthing.adapters.price_feed_yaml import Derived, PriceFile
from farthing.core import pricing, pricing_ceiling
from farthing.core.errors import PriceBookError
from farthing.core.money import BASIS, Nusd, Pusd, round_half_even
from farthing.core.price_book import PriceBook, Sheet
from farthing.core.pricing_check import problems
from farthing.core.pricing_rows import OVERLAY_LAYER, USER_LAYER, BookData, PriceRow, ProviderEntry
from farthing.core.types import Bounds, Charge, Target, Usage

OVERLAY_PACKAGE: Final = "farthing.data"


class BookPrices:
    """The ``Prices`` port over an immutable book."""

    __slots__ = ("book",)

    def __init__(self, book: PriceBook) -> None:
        self.book = book

    @property
    def ref(self) -> str:
        """Content hash of the snapshot."""
        return self.book.ref

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        """What this usage costs at that instant; unknown prices are a state of the charge."""
        return pricing.charge(self.book, usage, target, at_ms=at_ms)

    def ceiling(self, bounds: Bounds, target: Target, *, at_ms: int) -> Nusd | None:
        """The most that an attempt within these bounds can cost; None when a price is unknown."""
        return pricing_ceiling.ceiling(self.book, bounds, target, at_ms=at_ms)

    def sheet(self, usage: Usage, target: Target, *, at_ms: int) -> Sheet:
        """The rates of an answer's own model, which :meth:`charge` charges it by."""
        return pricing.quote(self.book, target, usage, "", at_ms)

    def worst(self, bounds: Bounds, target: Target, *, at_ms: int) -> pricing_ceiling.Worst | None:
        """What :meth:`ceiling` is computed with; None when no price is known."""
        return pricing_ceiling.worst(self.book, bounds, target, at_ms=at_ms)

    def context_window(self, target: Target) -> int | None:
        """The model's context window in tokens, if known."""
        resolved = self.book.resolve(target.price_as, target.price_model or target.model)
        return resolved.context_window if resolved else None


class Loaded(NamedTuple):
    """A book and what was noticed while building it."""

    book: PriceBook
    dust: tuple[str, ...]
    """List prices finer than a pico-USD per unit, rounded half-even: "row: listed → used"."""
    skipped: tuple[str, ...]
    """Listed prices for which there is no unit."""


def load_default_book(extra_files: Sequence[str | Path] = ()) -> PriceBook:
    """The base list, Farthing's corrections and the given YAML files. Raises :class:`PriceBookError`."""
    return load_book(extra_files).book


def load_book(extra_files: Sequence[str | Path] = (), *, base: bool = True, corrections: bool = True) -> Loaded:
    """Like :func:`load_default_book`, with what was rounded or left out.

    Without ``corrections`` the base list is taken as it is; without ``base`` only the given files count.
    What this version ships never changes, so a process builds it once: a book is immutable and may be shared.
    """
    return _built(extra_files, base, corrections) if extra_files else _shipped(base, corrections)


@functools.cache
def _shipped(base: bool, corrections: bool) -> Loaded:
    return _built((), base, corrections)


def _built(extra_files: Sequence[str | Path], base: bool, corrections: bool) -> Loaded:
    found: list[str] = []
    files = list(_overlay_files()) if base and corrections else []
    for path in extra_files:
        try:
            files.append(PriceFile(Path(path).read_text("utf-8"), name=str(path), layer=USER_LAYER))
        except PriceBookError as error:
            found += [f"{path}: {problem}" for problem in error.problems]
        except (OSError, UnicodeDecodeError) as error:
            found.append(f"{path}: cannot be read ({error})")
    if found:
        raise PriceBookError(found, source="price files")
    parts = [file.data() for file in files]
    dust: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    if base:
        listed, dust, skipped = _base(files)
        parts.insert(0, listed)
    data = _without_replaced(_together(parts), files)
    wrong = problems(data)
    if wrong:
        raise PriceBookError(wrong, source="price book")
    return Loaded(PriceBook(data), dust, skipped)


def price_files(home: str | Path) -> tuple[Path, ...]:
    """An installation's own price files: ``<home>/prices/*.yml``, by name."""
    folder = Path(home) / "prices"
    return tuple(sorted((*folder.glob("*.yml"), *folder.glob("*.yaml")))) if folder.is_dir() else ()


@functools.cache
def _overlay_files() -> tuple[PriceFile, ...]:
    folder = resources.files(OVERLAY_PACKAGE).joinpath("prices")
    return tuple(
        PriceFile(entry.read_text("utf-8"), name=entry.name.removesuffix(".yml"), layer=OVERLAY_LAYER)
        for entry in sorted(folder.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".yml")
    )


def _base(files: Iterable[PriceFile]) -> tuple[BookData, tuple[str, ...], tuple[str, ...]]:
    from farthing.adapters import price_feed_genai  # imported here: it takes 0.25 s, and most commands need no prices

    verified: dict[str, frozenset[date]] = {}
    dropped: set[tuple[str, str]] = set()
    for file in files:
        for provider, dates in file.verified.items():
            verified[provider] = verified.get(provider, frozenset()) | dates
        dropped |= file.replaces
    feed = price_feed_genai.load(verified, frozenset(dropped))
    rows = (*feed.rows, *_derived(feed.rows, [rule for file in files for rule in file.derived]))
    listed = BookData(rows=rows, models=feed.models, providers=feed.providers, schedules=feed.schedules)
    return listed, feed.dust, feed.skipped


def _derived(rows: Sequence[PriceRow], rules: Sequence[Derived]) -> Iterator[PriceRow]:
    """Rows for units that the list leaves out although the provider documents them as a multiple of another."""
    stated = {(row.provider, row.model, row.unit) for row in rows}
    for row in rows:
        for rule in rules:
            if (row.provider, row.unit) != (rule.provider, rule.of) or (row.provider, row.model, rule.unit) in stated:
                continue
            if any(fnmatchcase(row.model, pattern) for pattern in rule.models):
                yield msgspec.structs.replace(
                    row,
                    id=row.id.replace(f"/{row.unit}", f"/{rule.unit}"),
                    unit=rule.unit,
                    steps=tuple(
                        (edge, Pusd(round_half_even(price * rule.basis_points, BASIS))) for edge, price in row.steps
                    ),
                    source_url=rule.source_url,
                    checked_on=rule.checked_on,
                    note=f"{rule.basis_points / BASIS:g} × {rule.of}",
                )


def _together(parts: Sequence[BookData]) -> BookData:
    providers: dict[str, ProviderEntry] = {}
    for part in parts:
        for entry in part.providers:
            held = providers.get(entry.id)
            providers[entry.id] = entry if held is None else _joined(held, entry)
    return BookData(
        rows=tuple(row for part in parts for row in part.rows),
        multipliers=tuple(item for part in parts for item in part.multipliers),
        schedules=tuple(item for part in parts for item in part.schedules),
        models=tuple(entry for part in parts for entry in part.models),
        providers=tuple(providers.values()),
    )


def _joined(first: ProviderEntry, second: ProviderEntry) -> ProviderEntry:
    return msgspec.structs.replace(
        first,
        inherits=second.inherits or first.inherits,
        tiers=(*first.tiers, *second.tiers),
        name_prefixes=second.name_prefixes or first.name_prefixes,
    )


def _without_replaced(data: BookData, files: Sequence[PriceFile]) -> BookData:
    """Leave out lower layers' rows, and the base's claims to names, of models that a higher layer replaces."""
    replaced: dict[tuple[str, str], int] = {}
    for file in files:
        for model in file.replaces:
            replaced[model] = max(replaced.get(model, 0), file.layer)

    def kept(item: PriceRow, model: str) -> bool:
        return item.layer >= replaced.get((item.provider, model), 0)

    return msgspec.structs.replace(data, rows=tuple(row for row in data.rows if kept(row, row.model)))
