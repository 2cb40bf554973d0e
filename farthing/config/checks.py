"""Checks across sections, and notes: what is allowed but worth knowing before it runs."""

import ipaddress
from collections import Counter
from fnmatch import fnmatchcase
from typing import get_args

from farthing.config.settings import ProviderSettings, Settings
from farthing.core.allocation import problems as allocation_problems
from farthing.core.budget_check import period_problems
from farthing.core.policy import Budget, Fallback
from farthing.core.policy_routes import route_problems
from farthing.core.types import ProviderDialect


def problems(settings: Settings) -> list[str]:
    """What is wrong between settings that are each fine by themselves."""
    found = [
        *twice("providers", [provider.name for provider in settings.providers]),
        *twice("budgets", [budget.name for budget in settings.policy.budgets]),
        *twice("alert_sinks", [sink.name for sink in settings.alerts.sinks]),
    ]
    found += _cache(settings)
    found += [f"allocation: {problem}" for problem in allocation_problems(settings.allocation)]
    for dialect in get_args(ProviderDialect):
        rest = [one.name for one in settings.providers if not one.models and dialect_of(one) == dialect]
        if len(rest) > 1:
            listed = ", ".join(f'"{name}"' for name in rest)
            found.append(
                f"providers: {listed} name no models, and only one provider can take whatever no other claims; "
                'add models = ["…"] to the others'
            )
    for place, fallback in enumerate(settings.policy.fallbacks):
        found.extend(f"fallbacks[{place}].to: {problem}" for problem in _unreachable(settings, fallback))
    for place, budget in enumerate(settings.policy.budgets):
        found.extend(f'budgets[{place}]: {problem} (in "{budget.name}")' for problem in period_problems(budget))
    found += _routes(settings)
    retries = settings.policy.retries
    if retries.backoff_ms > retries.backoff_ms_max:
        found.append("retries.backoff: is longer than retries.backoff_max")
    log = settings.policy.log
    if log.text != "none" and not log.enabled:
        found.append(f'exchange_log.text: "{log.text}" keeps nothing while exchange_log.enabled = false')
    return found


def _routes(settings: Settings) -> list[str]:
    """Routes that contradict themselves or name models that no provider serves."""
    found = twice("routes", [route.name for route in settings.policy.routes])
    for place, route in enumerate(settings.policy.routes):
        found.extend(f'routes[{place}].{problem} (in "{route.name}")' for problem in route_problems(route))
        cascade = route.cascade
        others = (route.classifier, cascade.peer, cascade.judge) if cascade else (route.classifier,)
        for model in dict.fromkeys((*(model for _, model in route.tiers), *filter(None, others))):
            if not serving(settings.providers, model):
                found.append(f'routes[{place}]: no provider serves "{model}" (in "{route.name}")')
    return found


def notes(settings: Settings) -> tuple[str, ...]:
    """Settings that are allowed but deserve a second look, for ``farthing check``."""
    found = []
    if not is_loopback(settings.server.host):
        who = "anyone who reaches the port can spend" if settings.server.allow_open else "every caller needs a key"
        found.append(f"server.host: {settings.server.host} is reachable from other machines; {who}")
    if settings.server.durability == "relaxed":
        found.append("server.durability: relaxed; a crash can lose the entries of its last 100 ms")
    if not any(budget.hard for budget in settings.policy.budgets):
        found.append("budgets: none is hard; nothing limits spending")
    if settings.policy.budgets and not settings.alerts.sinks:
        found.append("alert_sinks: none; nobody is told when a budget is nearly used up")
    found += [note for budget in settings.policy.budgets for note in _matches_nothing(settings, budget)]
    if settings.policy.unpriced.action == "allow":
        found.append("unpriced.action: allow; calls with unknown prices pass USD budgets unseen")
    if not settings.policy.log.enabled:
        found.append("exchange_log.enabled: false; nothing is logged for replay, doctor, optimize, and refused calls")
    if settings.policy.log.text == "full":
        found.append("exchange_log.text: full; prompts and answers are kept as they are")
    return tuple(found)


def _matches_nothing(settings: Settings, budget: Budget) -> list[str]:
    """Why a budget most likely binds no call, although nothing is wrong with it."""
    found = [
        f'budget "{budget.name}": {name} = "{value}" is taken letter by letter; only model knows * and ?'
        for name, value in budget.match
        if name != "model" and ("*" in value or "?" in value)
    ]
    known = [one.name for one in settings.providers]
    for name, value in budget.match:
        if name == "provider" and value not in known:
            found.append(f'budget "{budget.name}": no provider is called "{value}"; configured: {", ".join(known)}')
    return found


def serving(providers: tuple[ProviderSettings, ...], model: str) -> tuple[ProviderSettings, ...]:
    """The providers that ``model`` (or ``provider/model``) is meant for: named, claiming it, or taking the rest."""
    head, slash, rest = model.partition("/")
    named = tuple(one for one in providers if slash and rest and one.name == head)
    claiming = tuple(one for one in providers if any(fnmatchcase(model, pattern) for pattern in one.models))
    return named or claiming or tuple(one for one in providers if not one.models)


def dialect_of(provider: ProviderSettings) -> ProviderDialect:
    """The API this provider speaks."""
    return "openai" if provider.kind == "azure" else provider.kind


def _unreachable(settings: Settings, fallback: Fallback) -> list[str]:
    """Why the fallback's models cannot be reached. Another API is no hindrance: the call is translated."""
    names = ", ".join(provider.name for provider in settings.providers)
    lost = [model for model in fallback.to if not serving(settings.providers, model)]
    return [f'no provider serves "{model}"; configured providers: {names}' for model in lost]


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cache(settings: Settings) -> list[str]:
    found = twice("cache", [route.name for route in settings.policy.cache])
    if settings.cache_store.kind == "valkey" and not settings.cache_store.url_env:
        found.append("cache_store.url_env: is missing; name the variable that holds the address of Valkey")
    return found + _embedder(settings)


def _embedder(settings: Settings) -> list[str]:
    """What the chosen kind of embedder needs and was not given."""
    chosen = settings.embedder
    if chosen.kind == "onnx" and not chosen.folder:
        return ['embedder.folder: is missing; kind = "onnx" reads model.onnx and tokenizer.json from it']
    if chosen.kind != "endpoint":
        return []
    found = [
        f'embedder.{name}: is missing; kind = "endpoint" needs it'
        for name in ("provider", "model", "dimensions")
        if not getattr(chosen, name)
    ]
    if chosen.provider and chosen.provider not in [one.name for one in settings.providers if one.kind == "openai"]:
        found.append(f'embedder.provider: "{chosen.provider}" is none of the [[providers]] of kind "openai"')
    return found


def twice(section: str, names: list[str]) -> list[str]:
    """Names that are used more than once."""
    counted = Counter(names)
    return [f'{section}: the name "{name}" is used {times} times' for name, times in counted.items() if times > 1]
