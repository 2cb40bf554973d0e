"""FOCUS: the ledger as rows of the FinOps Open Cost and Usage Specification, and the checks of every export."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final, Literal

import msgspec

from farthing.core.errors import FarthingError
from farthing.core.money import NUSD_PER_USD, format_usd
from farthing.core.units import TOKEN_UNITS
from farthing.insight.focus_lines import FocusLine, Key
from farthing.insight.moments import iso

Version = Literal["1.2", "1.3", "1.4"]
Kind = Literal["string", "decimal", "datetime", "boolean", "int"]
Cell = str | Decimal | bool | int | None

PER_MILLION: Final = 1_000_000

_NULLS: Final = (
    "AvailabilityZone", "CapacityReservationId", "CapacityReservationStatus", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "CommitmentDiscountUnit", "InvoiceId", "ResourceId", "ResourceName", "ResourceType",
)  # fmt: skip
"""Columns that must be there and have nothing to say: no commitments, no reservations, no resources, no invoice."""

_DECIMALS: Final = frozenset(
    {
        "BilledCost", "CommitmentDiscountQuantity", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice",
        "EffectiveCost", "ListCost", "ListUnitPrice", "PricingCurrencyContractedUnitPrice",
        "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "PricingQuantity",
    }
)  # fmt: skip
_TIMES: Final = frozenset({"BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"})
_OTHERS: Final[dict[str, Kind]] = {"x_Unpriced": "boolean", "x_Lines": "int"}

_COMMON: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory",
    "PricingCurrency", "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice", "PricingQuantity", "PricingUnit", "RegionId", "RegionName", "ServiceCategory",
    "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId",
    "SubAccountName", "SubAccountType", "Tags", *_NULLS,
)  # fmt: skip
_NAMES: Final[dict[Version, tuple[str, ...]]] = {
    "1.2": ("ProviderName", "PublisherName"),
    "1.3": ("HostProviderName", "ProviderName", "PublisherName", "ServiceProviderName"),
    "1.4": ("HostProviderName", "ServiceProviderName"),
}
CUSTOM: Final = ("x_EntryId", "x_FarthingRowId", "x_Lines", "x_RequestId", "x_Unpriced", "x_UsageSource")

_COMPANIES: Final = {
    "anthropic": "Anthropic", "aws": "AWS", "azure": "Microsoft", "cohere": "Cohere", "deepseek": "DeepSeek",
    "google": "Google", "groq": "Groq", "mistral": "Mistral AI", "openai": "OpenAI", "openrouter": "OpenRouter",
    "perplexity": "Perplexity", "x-ai": "xAI",
}  # fmt: skip

_METERS: Final = {
    "input": "Input Tokens",
    "input_cache_read": "Cached Input Tokens",
    "output": "Output Tokens",
    "output_reasoning": "Reasoning Output Tokens",
}
_PIECES: Final = {
    "web_search": "Searches", "file_search": "Searches", "grounding": "Searches", "maps_grounding": "Searches",
    "search_unit": "Searches", "web_fetch": "Requests", "request": "Requests", "code_session": "Sessions",
    "image": "Images", "page": "Pages", "character": "Characters", "input_audio_ms": "Milliseconds",
    "output_audio_ms": "Milliseconds", "output_video_ms": "Milliseconds", "tool_call": "Requests",
    "cache_storage_token_hour": "Token-Hours",
}  # fmt: skip


class ExportRefused(FarthingError):
    """The rows do not add up, so no file is written."""


class Sums(msgspec.Struct, kw_only=True):
    """What the rows written so far come to."""

    rows: int = 0
    billed: int = 0
    above_list: int = 0
    """Rows whose contracted cost is above their list cost."""


def columns(version: Version) -> tuple[str, ...]:
    """The columns of a version in alphabetical order, Farthing's own last."""
    return (*sorted((*_COMMON, *_NAMES[version])), *CUSTOM)


def kind_of(column: str) -> Kind:
    """How a column is held."""
    if column in _DECIMALS:
        return "decimal"
    return "datetime" if column in _TIMES else _OTHERS.get(column, "string")


def rows(
    found: Iterable[FocusLine], version: Version, accounts: Mapping[str, str], sums: Sums
) -> Iterator[dict[str, Cell]]:
    """One dictionary a row, checked as it is made. Raises :class:`ExportRefused` for a row that does not add up."""
    for line in found:
        check(line)
        sums.rows += 1
        sums.billed += line.amounts.billed
        sums.above_list += line.amounts.quantity > 0 and line.amounts.contracted > line.amounts.listed
        yield row(line, version, accounts)


def check(line: FocusLine) -> None:
    """Quantity × unit price is the cost, within half a nano-dollar for each rounding in it."""
    amounts = line.amounts
    for name, price, cost in (
        ("ContractedCost", line.key.contracted_price, amounts.contracted),
        ("ListCost", line.key.list_price, amounts.listed),
    ):
        if price is not None and abs(amounts.quantity * price - cost) * 2 > amounts.lines:
            raise ExportRefused(
                f"Row {line.id}: {name} is {format_usd(cost)}, but {amounts.quantity} × "
                f"{price} nano-dollars is not, even allowing for {amounts.lines} roundings.",
                hint="Nothing was exported. Open the entries with `farthing receipt`.",
            )


def check_total(sums: Sums, ledger: int) -> None:
    """The rows' BilledCost is the ledger's total, to the nano-dollar. Raises :class:`ExportRefused`."""
    if sums.billed != ledger:
        raise ExportRefused(
            f"The rows come to {format_usd(sums.billed)}, the ledger to {format_usd(ledger)} for the same period.",
            hint="Nothing was exported. Calls may have been booked meanwhile: end the period before now.",
        )


def row(line: FocusLine, version: Version, accounts: Mapping[str, str]) -> dict[str, Cell]:
    """The row of one line."""
    key, amounts = line.key, line.amounts
    company = _COMPANIES.get(key.price_as, key.price_as or key.provider)
    account = accounts.get(key.provider, key.provider)
    team = dict(key.scope).get("team") or None
    cells: dict[str, Cell] = dict.fromkeys(_NULLS)
    cells |= _costs(line)
    cells |= _periods(key)
    cells |= {
        "BillingAccountId": account,
        "BillingAccountName": key.provider,
        "BillingAccountType": "Account",
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if key.correction else None,
        "ChargeDescription": _description(key),
        "ChargeFrequency": "Usage-Based",
        "InvoiceIssuerName": company,
        "ProviderName": company,
        "PublisherName": company,
        "ServiceProviderName": company,
        "HostProviderName": company,
        "RegionId": key.region or None,
        "RegionName": key.region or None,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": f"{company} API",
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": team,
        "SubAccountName": team,
        "SubAccountType": "Team" if team else None,
        "Tags": _json({_tag(name): value for name, value in key.scope}),
        "x_EntryId": key.entry_id or None,
        "x_FarthingRowId": line.id,
        "x_Lines": amounts.lines,
        "x_RequestId": key.request_id or None,
        "x_Unpriced": key.unpriced,
        "x_UsageSource": key.source,
    }
    cells |= _sku(key)
    return {name: cells[name] for name in columns(version)}


def _costs(line: FocusLine) -> dict[str, Cell]:
    key, amounts = line.key, line.amounts
    tokens = key.unit in TOKEN_UNITS
    scale = PER_MILLION if tokens else 1
    priced = key.contracted_price is not None
    consumed = Decimal(amounts.quantity) if amounts.quantity and (priced or key.unpriced) else None
    unit = "Tokens" if tokens else _PIECES.get(key.unit, "Units")
    contracted = _price(key.contracted_price, scale)
    listed = _price(key.list_price, scale)
    return {
        "BilledCost": _usd(amounts.billed),
        "EffectiveCost": _usd(amounts.billed),
        "ContractedCost": _usd(amounts.contracted),
        "ListCost": _usd(amounts.listed),
        "ConsumedQuantity": consumed,
        "ConsumedUnit": unit if consumed is not None else None,
        "PricingQuantity": Decimal(amounts.quantity) / scale if priced else None,
        "PricingUnit": (f"{PER_MILLION} Tokens" if tokens else unit) if priced else None,
        "PricingCategory": "Standard" if priced else None,
        "ContractedUnitPrice": contracted,
        "ListUnitPrice": listed,
        "PricingCurrency": "USD",
        "PricingCurrencyContractedUnitPrice": contracted,
        "PricingCurrencyEffectiveCost": _usd(amounts.billed),
        "PricingCurrencyListUnitPrice": listed,
    }


def _periods(key: Key) -> dict[str, Cell]:
    month = iso(key.start_ms)[:7]
    year, number = int(month[:4]), int(month[5:])
    following = f"{year + number // 12:04d}-{number % 12 + 1:02d}"
    return {
        "BillingPeriodStart": f"{month}-01T00:00:00Z",
        "BillingPeriodEnd": f"{following}-01T00:00:00Z",
        "ChargePeriodStart": f"{iso(key.start_ms)[:19]}Z",
        "ChargePeriodEnd": f"{iso(key.end_ms)[:19]}Z",
    }


def _sku(key: Key) -> dict[str, Cell]:
    """SkuId is the model, SkuMeter the token class, SkuPriceId everything that decides the price."""
    sku = f"{key.price_as or key.provider}/{key.model}"
    details = {"x_Unit": key.unit, "x_ServiceTier": key.tier or "default"}
    if key.region:
        details["x_Region"] = key.region
    price_id = None
    if key.contracted_price is not None:
        row_id = hashlib.sha256(key.row.encode()).hexdigest()[:8]
        price_id = f"{sku}/{key.unit}/{key.tier or 'default'}/{key.region or 'global'}/{row_id}"
    return {
        "SkuId": sku,
        "SkuMeter": _meter(key.unit),
        "SkuPriceId": price_id,
        "SkuPriceDetails": _json(details) if price_id else None,
    }


def _meter(unit: str) -> str:
    if unit in _METERS:
        return _METERS[unit]
    words = unit.replace("_", " ").title()
    return f"{words} Tokens" if unit in TOKEN_UNITS else words


def _description(key: Key) -> str:
    what = f"{key.model}, {_meter(key.unit).lower()}"
    if key.tier not in ("", "default", "standard"):
        what += f", {key.tier} tier"
    if key.unpriced:
        return f"{what}; the price is not known, the cost is not zero"
    if key.contracted_price is None:
        return f"{what}; booked without metered usage"
    return what


def _tag(name: str) -> str:
    """A free label keeps its name; what Farthing itself says carries its prefix."""
    return name[4:] if name.startswith("tag:") else f"farthing/{name}"


def _usd(nano: int) -> Decimal:
    return Decimal(format_usd(nano))


def _price(nano: Fraction | None, scale: int) -> Decimal | None:
    """Nano-USD a unit as dollars per pricing unit; exact wherever a decimal can be."""
    if nano is None:
        return None
    return Decimal(nano.numerator * scale) / Decimal(nano.denominator * NUSD_PER_USD)


def _json(values: Mapping[str, str]) -> str:
    return msgspec.json.encode(dict(sorted(values.items()))).decode()
