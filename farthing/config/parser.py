"""``parse``: the text of ``farthing.toml`` to ``Settings``, pure, with every problem found before any is raised."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from farthing.config import budgets, checks, grammar, levers
from farthing.config.grammar import Setting
from farthing.config.places import default_home
from farthing.config.presets import DEFAULT_PROVIDERS, PRESETS, preset_values
from farthing.config.settings import Settings
from farthing.config.values import Wrong, did_you_mean, looks_secret, shown
from farthing.core.budget_check import period_problems
from farthing.core.errors import ConfigError
from farthing.core.policy import Budget

Fields = Mapping[str, Setting]
Values = dict[str, object]

_SECRET_KEYS: Final = frozenset({"api_key", "apikey", "key", "secret", "token", "password", "authorization"})


def parse(text: str, *, env: Mapping[str, str], source: str) -> Settings:
    """Settings from the file's text and the environment; ``text`` empty gives the defaults.

    Opens no file. ``source`` names the file in messages and in ``Settings.source``. Raises ``ConfigError`` with
    every problem: its place in the file, what is wrong, and what is allowed.
    """
    tree = _read_toml(text, source or "configuration")
    problems: list[str] = list(_secrets(tree, ""))
    _unknown_sections(tree, problems)
    top = {key: value for key, value in tree.items() if key in grammar.TOP}
    policy = _section(top, "", grammar.TOP, problems)
    single = {name: _one(tree, name, fields, problems) for name, fields in grammar.SECTIONS.items()}
    many = {name: _many(tree, name, fields, problems) for name, fields in grammar.LISTS.items()}
    server = _environment(single["server"], env, problems)
    providers = [_provider(path, values, problems) for path, values in many["providers"]]
    policy |= {"limits": single["limits"], "retries": single["retries"], "unpriced": single["unpriced"]}
    policy |= {
        "log": single["exchange_log"],
        "budgets": [_budget(path, values, problems) for path, values in many["budgets"]],
        "fallbacks": [values for _, values in many["fallbacks"]],
        "cache": [values for _, values in many["cache"]],
        "routes": [values for _, values in many["routes"]],
        "levers": [values for _, values in many["levers"]],
    }
    for path, values in many["levers"]:
        problems.extend(levers.problems(path, values))
    sinks = [_sink(path, values, problems) for path, values in many["alert_sinks"]]
    if problems:
        problems += _apart(tree, policy["budgets"], problems)
        raise ConfigError(problems, source=source or "configuration")
    whole: Values = {
        "home": default_home(env),
        "server": server,
        "providers": providers or DEFAULT_PROVIDERS,
        "policy": policy,
        "alerts": single["alerts"] | {"sinks": sinks},
        "analytics": single["analytics"],
        "store": single["store"],
        "cache_store": single["cache_store"],
        "embedder": single["embedder"],
        "dashboard": single["dashboard"],
        "batches": single["batches"],
        "allocation": single["allocation"],
        "source": source,
    }
    return _checked(whole, source or "configuration")


def _apart(tree: Mapping[str, object], budgets: object, told: Sequence[str]) -> list[str]:
    """What is wrong between settings, as far as it can be said while some of them are wrong by themselves."""
    found: list[str] = []
    for name in ("providers", "budgets", "routes", "cache", "alert_sinks"):
        rows = tree.get(name)
        labels = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        found += checks.twice(name, [label for label in labels if isinstance(label, str)])
    for place, values in enumerate(budgets if isinstance(budgets, list) else ()):
        try:
            budget = msgspec.convert(values, Budget, from_attributes=True)
        except msgspec.ValidationError:
            continue  # what it lacks is told already
        wrong = [problem for problem in told if problem.startswith(f"budgets[{place}].")]
        fields = {problem.partition(".")[2].partition(":")[0] for problem in wrong}
        found += [
            f'budgets[{place}]: {problem} (in "{budget.name[:64]}")'
            for problem in period_problems(budget)
            if problem.partition(" ")[0].partition(":")[0] not in fields
        ]
    return found


def _checked(whole: Values, source: str) -> Settings:
    try:
        settings = msgspec.convert(whole, Settings, from_attributes=True)
    except msgspec.ValidationError as error:
        raise ConfigError([str(error)], source=source) from error
    problems = checks.problems(settings)
    if problems:
        raise ConfigError(problems, source=source)
    return settings


def _read_toml(text: str, source: str) -> dict[str, object]:
    try:
        text.encode()
        return tomllib.loads(text)
    except UnicodeEncodeError as error:
        raise ConfigError([f"not valid Unicode at character {error.start}"], source=source) from error
    except RecursionError as error:
        raise ConfigError(["nested too deeply"], source=source) from error
    except ValueError as error:
        raise ConfigError([f"not valid TOML: {error}"], source=source) from error


def _secrets(value: object, path: str) -> Iterator[str]:
    """Every place where a secret was written into the file."""
    if isinstance(value, str) and looks_secret(value):
        yield (
            f"{path}: looks like a secret; secrets are never written in the file. Put it into an environment "
            'variable or a file and name that: api_key_env = "…" or api_key_file = "…"'
        )
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _secrets(item, f"{path}[{place}]")


def _unknown_sections(tree: Mapping[str, object], problems: list[str]) -> None:
    known = (*grammar.TOP, *grammar.SECTIONS, *grammar.LISTS)
    for key in tree:
        if key not in known:
            problems.append(f"{key}: unknown setting{did_you_mean(key, known)}; allowed: {', '.join(known)}")


def _section(raw: Mapping[str, object], path: str, fields: Fields, problems: list[str]) -> Values:
    """The section's values by record field; wrong ones are left out and reported."""
    found: Values = {}
    for key, value in raw.items():
        place = f"{path}.{key}" if path else key
        setting = fields.get(key)
        if setting is None:
            problems.append(f"{place}: {_unknown(key, fields)}")
            continue
        try:
            found[setting.into or key] = setting.read(value)
        except Wrong as wrong:
            problems.append(f"{place}: {wrong}")
    return found


def _unknown(key: str, fields: Fields) -> str:
    if key.lower() in _SECRET_KEYS and "api_key_env" in fields:
        return 'secrets are never written in the file; name the variable that holds it: api_key_env = "…"'
    if key.endswith("_ms") and key[:-3] in fields:
        return f'unknown setting; write {key[:-3]} = "30s" (a duration with its unit)'
    return f"unknown setting{did_you_mean(key, fields)}; allowed: {', '.join(fields)}"


def _one(tree: Mapping[str, object], name: str, fields: Fields, problems: list[str]) -> Values:
    raw = tree.get(name, {})
    if not isinstance(raw, dict):
        problems.append(f"{name}: is {shown(raw)}; a section is expected: [{name}]")
        return {}
    return _section(raw, name, fields, problems)


def _many(tree: Mapping[str, object], name: str, fields: Fields, problems: list[str]) -> Sequence[tuple[str, Values]]:
    raw = tree.get(name, [])
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        problems.append(f"{name}: is {shown(raw)}; sections with double brackets are expected: [[{name}]]")
        return ()
    result = []
    for place, item in enumerate(raw):
        label = item.get("name")
        path = f"{name}[{place}]"
        before = len(problems)
        values = _section(item, path, fields, problems)
        missing = [key for key in grammar.REQUIRED[name] if key not in item]
        problems.extend(f"{path}.{key}: is missing; every [[{name}]] needs it" for key in missing)
        if isinstance(label, str) and not looks_secret(label):
            problems[before:] = [f'{problem} (in "{label[:64]}")' for problem in problems[before:]]
        result.append((path, values))
    return result


def _environment(server: Values, env: Mapping[str, str], problems: list[str]) -> Values:
    """The server's values with FARTHING_HOST and FARTHING_PORT on top."""
    raw: Values = {}
    if env.get("FARTHING_HOST"):
        raw["host"] = env["FARTHING_HOST"]
    if env.get("FARTHING_PORT"):
        port = env["FARTHING_PORT"]
        raw["port"] = int(port) if port.isascii() and port.isdigit() and len(port) < 10 else port
    for key, value in raw.items():
        try:
            server = server | {key: grammar.SERVER[key].read(value)}
        except Wrong as wrong:
            problems.append(f"FARTHING_{key.upper()} (environment): {wrong}")
    return server


def _provider(path: str, values: Values, problems: list[str]) -> Values:
    """The provider's values over those of the preset of its name."""
    name = str(values.get("name", ""))
    preset = preset_values(name, str(values.get("kind", "")))
    if "api_key_file" in values and "api_key_env" not in values:
        preset.pop("api_key_env", None)
    merged = preset | values
    if name and not merged.get("base_url"):
        known = ", ".join(sorted(key for key, known in PRESETS.items() if known.base_url))
        hint = "its address depends on your installation" if name in PRESETS else f"known without one: {known}"
        problems.append(f'{path}.base_url: is missing for provider "{name}"; {hint}')
    if "api_key_env" in values and "api_key_file" in values:
        problems.append(f"{path}: has both api_key_env and api_key_file; keep one")
    return merged


def _sink(path: str, values: Values, problems: list[str]) -> Values:
    """A sink that names the variables its kind needs, and no other."""
    kind = values.get("kind")
    needs = {"apprise": ("url_env",), "webhook": ("url_env", "secret_env"), "log": ()}.get(str(kind), ())
    for key in ("url_env", "secret_env") if kind else ():
        if key in needs and key not in values:
            what = "its address" if key == "url_env" else "the key that signs its alerts"
            problems.append(f'{path}.{key}: is missing; name the environment variable that holds {what}: {key} = "…"')
        elif key in values and key not in needs:
            problems.append(f'{path}.{key}: means nothing with kind = "{kind}"')
    return values


def _budget(path: str, values: Values, problems: list[str]) -> Values:
    limits = [(unit, values.pop(unit)) for unit in grammar.LIMIT_UNITS if unit in values]
    fine = not any(problem.startswith(f"{path}.") for problem in problems)
    if fine and not limits and not values.get("credits"):
        problems.append(f"{path}: limits nothing; give credits, or at least one of {', '.join(grammar.LIMIT_UNITS)}")
    if values.get("per") == "request" and any(unit == "requests" for unit, _ in limits):
        problems.append(f'{path}.requests: means nothing with per = "request"; choose day, week, month or total')
    mode = values.pop("mode", None)
    if mode is not None:
        if values.get("hard", mode == "enforce") != (mode == "enforce"):
            problems.append(f'{path}.mode: "{mode}" contradicts hard; keep one of the two')
        values["hard"] = mode == "enforce"
    return budgets.dated(values | {"limits": limits})
