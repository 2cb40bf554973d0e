"""Price files: YAML documents of dated rows, as Farthing's own corrections and an installation's contracts use them.

Every scalar is read as text, so that a price never passes through a float. All problems of a file are reported at
once, with the path inside the file. The grammar is documented in ``docs/concepts/pricing.md``.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final, NamedTuple, cast

from farthing.adapters.price_feed_fields import WEEKDAYS, Fields, day_minutes, stated_price
from farthing.core.errors import PriceBookError
from farthing.core.money import BASIS, Pusd, exact_decimal, scaled_int
from farthing.core.pricing_rows import (
    ANY_MODEL,
    BookData,
    Match,
    ModelEntry,
    Multiplier,
    PriceRow,
    PriceSource,
    ProviderEntry,
    Schedule,
)
from farthing.core.units import TOKEN_UNITS, UNITS

_DOCUMENT: Final = {
    "provider", "inherits", "tiers", "name_prefixes", "source", "source_url", "checked_on", "models", "multipliers",
    "schedules", "calendars", "verified_on", "derived", "note",
}  # fmt: skip
_MODEL: Final = {
    "id", "aliases", "match", "context_window", "snapshots", "falls_to", "replaces", "prices", "provider",
    "source_url", "checked_on", "source", "note",
}  # fmt: skip
_PRICE: Final = {"from", "to", "when", "schedule", "marginal", "source_url", "checked_on", "source", "note"}
_MULTIPLIER: Final = {
    "name", "provider", "models", "units", "factor", "when", "assumed", "from", "to", "source", "source_url",
    "checked_on", "note",
}  # fmt: skip
_SOURCES: Final = ("list", "contract", "manual", "self_hosted")


class Derived(NamedTuple):
    """A unit that the base list leaves out, priced in proportion to one it has."""

    provider: str
    models: tuple[str, ...]
    """Shell patterns of model ids."""
    unit: str
    of: str
    basis_points: int
    source_url: str
    checked_on: str


class PriceFile(Fields):
    """One parsed file: records for the book, and what it says about other layers."""

    def __init__(self, text: str, *, name: str, layer: int) -> None:
        """Parse ``text``. Raises :class:`PriceBookError` with every problem found."""
        super().__init__(name)
        self.layer = layer
        self.rows: list[PriceRow] = []
        self.models: list[ModelEntry] = []
        self.multipliers: list[Multiplier] = []
        self.schedules: list[Schedule] = []
        self.providers: list[ProviderEntry] = []
        self.replaces: set[tuple[str, str]] = set()
        """(provider, model) whose rows in lower layers are left out."""
        self.derived: list[Derived] = []
        self.verified: dict[str, frozenset[date]] = {}
        """Dates in the base list that are checks, not starts; see ``price_feed_genai``."""
        self._ids: dict[str, int] = {}
        for number, document in enumerate(self.documents(text), 1):
            self._document(document, f"document {number}" if number > 1 else "")
        if self.problems:
            raise PriceBookError(self.problems, source=name)

    def data(self) -> BookData:
        """The file's records."""
        return BookData(
            rows=tuple(self.rows),
            multipliers=tuple(self.multipliers),
            schedules=tuple(self.schedules),
            models=tuple(self.models),
            providers=tuple(self.providers),
        )

    def _document(self, document: dict[str, Any], path: str) -> None:
        self.unknown(document, _DOCUMENT, path)
        provider = self.text(document, "provider")
        calendars = {
            name: frozenset(self.days(dates, f"{path}calendars.{name}"))
            for name, dates in self.mapping(document, "calendars", path).items()
        }
        for name, body in self.mapping(document, "schedules", path).items():
            self._schedule(name, body, calendars, f"{path}schedules.{name}")
        if document.get("verified_on"):
            self.verified[provider] = frozenset(
                date.fromordinal(day + date(1970, 1, 1).toordinal())
                for day in self.days(document["verified_on"], f"{path}verified_on")
            )
        if any(key in document for key in ("inherits", "tiers", "name_prefixes")):
            self.providers.append(
                ProviderEntry(
                    id=provider,
                    inherits=self.texts(document, "inherits", path),
                    tiers=tuple(sorted(self.pairs(document, "tiers", path))),
                    name_prefixes=self.pairs(document, "name_prefixes", path),
                )
            )
        for number, body in enumerate(self.items(document, "derived", path)):
            self._derived(provider, body, document, f"{path}derived[{number}]")
        for number, body in enumerate(self.items(document, "models", path)):
            self._model(body, document, f"{path}models[{number}]")
        for number, body in enumerate(self.items(document, "multipliers", path)):
            self._multiplier(body, document, f"{path}multipliers[{number}]")

    def _model(self, body: Any, document: dict[str, Any], path: str) -> None:
        if not isinstance(body, dict):
            self.problems.append(f"{path}: a model is a mapping (id:, prices:)")
            return
        self.unknown(body, _MODEL, path)
        provider = self.text(body, "provider") or self.text(document, "provider")
        model = self.text(body, "id")
        if not provider or not model:
            self.problems.append(f"{path}: needs an id, and a provider here or at the top")
            return
        path = f"{path} {provider}/{model}"
        if self.flag(body, "replaces", path):
            self.replaces.add((provider, model))
        if model != ANY_MODEL:
            window = self.text(body, "context_window")
            if window and not window.isdigit():
                self.problems.append(f"{path}: context_window is a number of tokens, not {window!r}")
                window = ""
            self.models.append(
                ModelEntry(
                    provider=provider,
                    id=model,
                    layer=self.layer,
                    names=self.texts(body, "aliases", path),
                    match=self._match(body["match"], path) if body.get("match") else None,
                    context_window=int(window) if window else None,
                    snapshots=self.texts(body, "snapshots", path),
                    falls_to=tuple(sorted(self.pairs(body, "falls_to", path))),
                )
            )
        for number, prices in enumerate(self.items(body, "prices", path)):
            if isinstance(prices, dict):
                self._prices(provider, model, prices, (body, document), f"{path} prices[{number}]")
            else:
                self.problems.append(f"{path} prices[{number}]: is a mapping of units to prices")

    def _prices(
        self, provider: str, model: str, body: dict[str, Any], outer: tuple[dict[str, Any], ...], path: str
    ) -> None:
        when = tuple(sorted(self.pairs(body, "when", path)))
        start, end = self.instant(body, "from", path), self.instant(body, "to", path)
        schedule = self.text(body, "schedule")
        marginal = self.flag(body, "marginal", path)
        source, url, checked_on = self._provenance((body, *outer), path)
        tail = "".join(f";{facet}={value}" for facet, value in when)
        tail += (f";{schedule}" if schedule else "") + (f";from={body['from']}" if start is not None else "")
        for unit, value in body.items():
            if unit in _PRICE:
                continue
            if not isinstance(unit, str) or unit not in UNITS:
                self.problems.append(f"{path}: {unit!r} is not a unit; units: {', '.join(sorted(UNITS))}")
                continue
            if model == ANY_MODEL and unit in TOKEN_UNITS:
                self.problems.append(f"{path}: tokens are priced per model, not for {provider}/*")
                continue
            steps = self._steps(unit, value, f"{path}.{unit}")
            if not steps:
                continue
            self.rows.append(
                PriceRow(
                    id=self._unique(f"{provider}/{model}/{unit}{tail};{self.name}"),
                    layer=self.layer,
                    provider=provider,
                    model=model,
                    unit=unit,
                    steps=steps,
                    marginal=marginal,
                    when=when,
                    schedule=schedule,
                    valid_from_ms=start,
                    valid_to_ms=end,
                    source=source,
                    source_url=url,
                    checked_on=checked_on,
                    note=self.text(body, "note"),
                )
            )

    def _multiplier(self, body: Any, document: dict[str, Any], path: str) -> None:
        if not isinstance(body, dict):
            self.problems.append(f"{path}: a multiplier is a mapping (name:, factor:)")
            return
        self.unknown(body, _MULTIPLIER, path)
        name = self.text(body, "name")
        provider = self.text(body, "provider") or self.text(document, "provider")
        if not name or not provider:
            self.problems.append(f"{path}: needs a name, and a provider here or at the top ('*': every provider)")
            return
        try:
            factor = scaled_int(exact_decimal(self.text(body, "factor")), BASIS)
            if factor < 0:
                raise ValueError("a factor is not negative")
        except ValueError as error:
            self.problems.append(f"{path}.factor: {error}; a factor such as '1.1' has at most four decimals")
            return
        units = self.texts(body, "units", path)
        self.problems += [f"{path}.units: {unit!r} is not a unit" for unit in units if unit not in UNITS | {"*"}]
        source, url, checked_on = self._provenance((body, document), path)
        when = tuple(sorted(self.pairs(body, "when", path)))
        models = self.texts(body, "models", path) or (ANY_MODEL,)
        told = "".join(f";{facet}={value}" for facet, value in when)
        begins = self.text(body, "from")
        self.multipliers.append(
            Multiplier(
                id=self._unique(f"{provider}/{name}{told}{';from=' + begins if begins else ''};{self.name}"),
                layer=self.layer,
                name=name,
                provider=provider,
                models=models,
                units=units,
                basis_points=factor,
                when=when,
                assumed=self.flag(body, "assumed", path),
                valid_from_ms=self.instant(body, "from", path),
                valid_to_ms=self.instant(body, "to", path),
                source=source,
                source_url=url,
                checked_on=checked_on,
                note=self.text(body, "note"),
            )
        )

    def _derived(self, provider: str, body: Any, document: dict[str, Any], path: str) -> None:
        if not isinstance(body, dict):
            self.problems.append(f"{path}: is a mapping (unit:, of:, factor:)")
            return
        self.unknown(body, {"unit", "of", "factor", "models", "source_url", "checked_on", "note"}, path)
        unit, of = self.text(body, "unit"), self.text(body, "of")
        self.problems += [f"{path}: {name!r} is not a unit" for name in (unit, of) if name not in UNITS]
        _, url, checked_on = self._provenance((body, document), path)
        try:
            factor = scaled_int(exact_decimal(self.text(body, "factor")), BASIS)
        except ValueError as error:
            self.problems.append(f"{path}.factor: {error}")
            return
        models = self.texts(body, "models", path) or (ANY_MODEL,)
        self.derived.append(Derived(provider, models, unit, of, factor, url, checked_on))

    def _schedule(self, name: str, body: Any, calendars: Mapping[str, frozenset[int]], path: str) -> None:
        if not isinstance(body, dict):
            self.problems.append(f"{path}: a schedule is a mapping (windows:, weekdays:)")
            return
        self.unknown(body, {"windows", "weekdays", "holidays", "utc_offset_minutes"}, path)
        windows: list[tuple[int, int]] = []
        for text in self.texts(body, "windows", path):
            try:
                begin, end = (day_minutes(part) for part in text.split("-"))
                if not begin < end:
                    raise ValueError("ends before it begins; split windows at midnight")
                windows.append((begin, end))
            except ValueError as error:
                self.problems.append(f"{path}.windows: {text!r} is not HH:MM-HH:MM in UTC ({error})")
        days = self.texts(body, "weekdays", path) or WEEKDAYS
        self.problems += [
            f"{path}.weekdays: {day!r} is not one of {', '.join(WEEKDAYS)}" for day in days if day not in WEEKDAYS
        ]
        calendar = self.text(body, "holidays")
        if calendar and calendar not in calendars:
            self.problems.append(f"{path}.holidays: no calendar {calendar!r} in this file")
        self.schedules.append(
            Schedule(
                name=name,
                windows=tuple(sorted(windows)),
                weekdays=tuple(WEEKDAYS.index(day) for day in days if day in WEEKDAYS),
                holidays=calendars.get(calendar, frozenset()),
                calendar=calendar,
                utc_offset_minutes=self._offset(body, path),
            )
        )

    def _offset(self, body: dict[str, Any], path: str) -> int:
        text = self.text(body, "utc_offset_minutes") or "0"
        if text.lstrip("-").isdecimal() and abs(int(text)) <= 14 * 60:
            return int(text)
        self.problems.append(f"{path}.utc_offset_minutes: {text!r} is not local time minus UTC in minutes")
        return 0

    def _steps(self, unit: str, value: Any, path: str) -> tuple[tuple[int, Pusd], ...]:
        """``"2.50"``, or ``{0: "2.50", 272001: "5"}``: prompt tokens from which each price holds."""
        pairs = value.items() if isinstance(value, dict) else (("0", value),)
        steps: list[tuple[int, Pusd]] = []
        for edge, price in pairs:
            try:
                steps.append((int(edge), stated_price(unit, str(price))))
            except ValueError as error:
                self.problems.append(f"{path}: {error}")
                return ()
        steps.sort()
        if not steps or steps[0][0] != 0:
            self.problems.append(f"{path}: the first step is 0, the price of the shortest prompt")
        return tuple(steps)

    def _provenance(self, outer: tuple[dict[str, Any], ...], path: str) -> tuple[PriceSource, str, str]:
        source, url, checked_on = (
            next((text for body in outer if (text := self.text(body, key))), default)
            for key, default in (("source", "list"), ("source_url", ""), ("checked_on", ""))
        )
        if source not in _SOURCES:
            self.problems.append(f"{path}: source {source!r} is not one of {', '.join(_SOURCES)}")
            source = "manual"
        if checked_on:
            list(self.days([checked_on], f"{path}.checked_on"))
        elif source == "list":
            self.problems.append(f"{path}: a list price needs checked_on, the day it was compared with its source")
        if source == "list" and not url:
            self.problems.append(f"{path}: a list price needs source_url")
        return cast("PriceSource", source), url, checked_on

    def _match(self, body: Any, path: str) -> Match:
        if isinstance(body, dict) and len(body) == 1:
            kind, value = next(iter(body.items()))
            if kind in ("or", "and") and isinstance(value, list):
                return Match(kind=kind, clauses=tuple(self._match(part, path) for part in value))
            if kind in ("equals", "starts_with", "ends_with", "contains", "regex") and isinstance(value, str):
                return Match(kind=kind, text=value)
        self.problems.append(f"{path}.match: one of equals, starts_with, ends_with, contains, regex, or, and")
        return Match(kind="equals", text="")

    def _unique(self, row_id: str) -> str:
        count = self._ids.get(row_id, 0) + 1
        self._ids[row_id] = count
        return row_id if count == 1 else f"{row_id}#{count}"
