"""The price book of an installation."""

import functools
from pathlib import Path

from farthing.adapters import price_files as price_store
from farthing.adapters.price_feeds import BookPrices, Loaded, load_book, load_default_book, price_files
from farthing.bootstrap.home import made_home, note_file
from farthing.config import Settings
from farthing.core.types import Target, Usage, UsagePart
from farthing.core.units import INPUT, OUTPUT
from farthing.insight.slices import ListPrice


def price_book(settings: Settings) -> BookPrices:
    """The price book: base, overlay, and this installation's own rows on top."""
    return BookPrices(load_default_book(price_files(settings.home)))


def prices_of(settings: Settings, files: tuple[Path, ...]) -> BookPrices:
    """A price book in which ``files`` stand in place of this installation's own; none: the list prices."""
    return BookPrices(load_default_book(files))


def load_prices(settings: Settings, files: tuple[Path, ...] | None = None, *, corrections: bool = True) -> Loaded:
    """The price book with what loading it had to say; ``files`` instead of this installation's own."""
    return load_book(price_files(settings.home) if files is None else files, corrections=corrections)


def append_prices(settings: Settings, file: str, document: str) -> Path:
    """Adds dated rows to one of this installation's price files; never changes a row that is there."""
    made_home(settings)
    path = price_store.append_document(settings.home, file, document)
    note_file(settings, path)
    return path


def take_prices(settings: Settings, source: str, file: str) -> Path:
    """Takes a price file from a path or URL into this installation, when its owner says so."""
    made_home(settings)
    path = price_store.take_file(settings.home, source, file)
    note_file(settings, path)
    return path


def list_price(settings: Settings) -> ListPrice:
    """List prices by this installation's book; providers bill under the names that settings give them."""
    billed = {one.name: one.price_as or one.name for one in settings.providers}
    loaded = functools.cache(lambda: price_book(settings))

    def price(provider: str, model: str, tokens: tuple[int, int], at_ms: int) -> int | None:
        lines = tuple((unit, count) for unit, count in ((INPUT, tokens[0]), (OUTPUT, tokens[1])) if count > 0)
        if not lines:
            return 0
        target = Target(provider=provider, price_as=billed.get(provider, provider), model=model)
        usage = Usage(parts=(UsagePart(lines=lines),), source="reported", model=model)
        return loaded().charge(usage, target, at_ms=at_ms).total

    return price
