"""Who would serve a model: the configured provider that sells it, else its maker in the price book."""

from collections.abc import Callable

from farthing.cli.context import App
from farthing.core.types import Target, Usage, UsagePart
from farthing.core.units import INPUT
from farthing.lab.import_targets import target_of

_ONE_TOKEN = Usage(source="reported", parts=(UsagePart(lines=((INPUT, 1),)),))


def server_of(app: App, model: str) -> Target:
    """The target of a model that nobody has asked for yet; ``unknown`` where nobody sells it."""
    return target_of("", model, app.settings.providers, sells(app))


def sells(app: App) -> Callable[[str, str], bool]:
    """Whether a model has a price at a provider."""
    prices, now_ms = app.stores.price_book(app.settings), app.now_ms()

    def sold(provider: str, model: str) -> bool:
        target = Target(provider=provider, price_as=provider, model=model)
        return prices.charge(_ONE_TOKEN, target, at_ms=now_ms).total is not None

    return sold
