"""Which upstream serves a model: a pure function of the configured providers and the policy's fallbacks.

An upstream that is named serves, whatever it speaks. Otherwise whoever claims the model does, then whoever takes what
nobody claims; among equals those that speak the caller's own dialect come first, and in configured order.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from farthing.core.errors import UnknownModel
from farthing.core.policy import Fallback
from farthing.core.types import Dialect, ProviderDialect, Target

ProviderKind = Literal["openai", "anthropic", "azure", "gemini", "bedrock"]
_MEMO_MAX = 10_000


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """What routing needs to know of a configured provider."""

    name: str
    dialect: ProviderDialect
    models: tuple[str, ...] = ()
    """Name patterns it serves; empty: whatever no other provider claims."""
    price_as: str = ""
    price_models: tuple[tuple[str, str], ...] = ()
    region: str = ""


class Routes:
    """The upstreams in their configured order. Look-ups are memoised; the memo is bounded."""

    def __init__(self, upstreams: Iterable[Upstream], fallbacks: tuple[Fallback, ...] = ()) -> None:
        self._upstreams = tuple(upstreams)
        self._by_name = {upstream.name: upstream for upstream in self._upstreams}
        self._fallbacks = fallbacks
        self._memo: dict[tuple[str, Dialect], tuple[Target, ...]] = {}

    def targets(self, model: str, dialect: Dialect) -> tuple[Target, ...]:
        """The primary target and its fallbacks, in order. Raises :class:`UnknownModel`."""
        key = (model, dialect)
        found = self._memo.get(key)
        if found is None:
            found = self._resolve(model, dialect)
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            self._memo[key] = found
        return found

    def fallback_for(self, model: str) -> Fallback | None:
        """The first fallback whose pattern matches the model asked for."""
        return next((rule for rule in self._fallbacks if fnmatchcase(model, rule.model)), None)

    def _resolve(self, model: str, dialect: Dialect) -> tuple[Target, ...]:
        targets = [self._primary(model, dialect)]
        rule = self.fallback_for(model)
        for name in rule.to if rule else ():
            target = self._primary(name, dialect)
            if target not in targets:
                targets.append(target)
        return tuple(targets)

    def _primary(self, model: str, dialect: Dialect) -> Target:
        prefix, slash, rest = model.partition("/")
        named = self._by_name.get(prefix) if slash and rest else None
        if named is not None:
            return _target(named, rest)
        native = [upstream for upstream in self._upstreams if upstream.dialect == dialect]
        others = [upstream for upstream in self._upstreams if upstream.dialect != dialect]
        for upstream in (*native, *others):
            if any(fnmatchcase(model, pattern) for pattern in upstream.models):
                return _target(upstream, model)
        for upstream in (*native, *others):
            if not upstream.models:
                return _target(upstream, model)
        raise self._unknown(model)

    def _unknown(self, model: str) -> UnknownModel:
        served = "; ".join(
            f"{upstream.name}: {', '.join(upstream.models) or 'any model'} ({upstream.dialect} API)"
            for upstream in self._upstreams
        )
        return UnknownModel(
            f"No configured provider serves the model '{model[:200]}'.",
            hint=f"Configured: {served or 'nothing'}. Add the model to a provider in farthing.toml.",
            param="model",
        )


def _target(upstream: Upstream, model: str) -> Target:
    return Target(
        provider=upstream.name,
        price_as=upstream.price_as or upstream.name,
        model=model,
        price_model=next((priced for sent, priced in upstream.price_models if sent == model), ""),
        region=upstream.region,
    )
