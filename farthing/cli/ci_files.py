"""What a pull request changes: prompts and configuration now and at a base, read from folders or from git."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from farthing.cli.context import App, Broken, text_of
from farthing.cli.models import server_of
from farthing.config import parse
from farthing.core.errors import ConfigError
from farthing.core.policy import Policy
from farthing.core.types import Target, Usage, UsagePart
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE, INPUT_CACHE_WRITE_5M, OUTPUT
from farthing.insight.ci_baseline import VERSION, Baseline
from farthing.insight.ci_cost import Pricer, Tokens
from farthing.insight.ci_prompts import SUFFIXES, Prompt, read
from farthing.insight.render import usd

MILLION = 1_000_000


class Side(NamedTuple):
    """One side of the comparison."""

    prompts: dict[str, Prompt]
    config: str | None
    """The text of the configuration file; None: there is none."""


def working_tree(folder: str, config: str) -> Side:
    """What stands in the current directory."""
    return _side(_folder(Path(folder)), text_of(Path(config)) if Path(config).is_file() else None)


def at_base(base: str, folder: str, config: str) -> Side:
    """What stands at ``base``: a folder laid out like this one, or a git revision. Raises ``Broken``."""
    if Path(base).is_dir():
        root = Path(base)
        file = root / config
        files = {str(Path(name).relative_to(root)): text for name, text in _folder(root / folder).items()}
        return _side(files, text_of(file) if file.is_file() else None)
    names = _git("ls-tree", "-r", "-z", "--name-only", base, "--", folder, config).decode().split("\0")
    wanted = [name for name in names if name and (name == config or name.endswith(SUFFIXES))]
    texts = _batch(base, wanted)
    return _side({name: text for name, text in texts.items() if name != config}, texts.get(config))


def load_baseline(path: Path) -> Baseline:
    """The committed baseline. Raises ``Broken``."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Baseline)
    except OSError as error:
        raise Broken(f"There is no baseline at {path}; make one with: farthing baseline export") from error
    except msgspec.DecodeError as error:
        raise Broken(f"{path} is no baseline: {error}") from error
    if found.version != VERSION:
        raise Broken(f"{path} has version {found.version}; this release reads {VERSION}: export it again.")
    return found


def pricer(app: App) -> Pricer:
    """Prices of this installation's book, counts of its tokenizer; each asked once."""
    book, tokenizer = app.stores.price_book(app.settings), app.stores.tokenizer(app.settings)
    now_ms = app.now_ms()
    counts: dict[tuple[str, str], tuple[int, float | None]] = {}
    targets: dict[str, Target] = {}
    marked = {one.name for one in app.settings.providers if one.kind == "anthropic"}

    def price(model: str, tokens: Tokens) -> int | None:
        if not model:
            return None
        if model not in targets:
            targets[model] = server_of(app, model)
        claude = targets[model].price_as == "anthropic" or targets[model].provider in marked
        writes = INPUT_CACHE_WRITE_5M if claude else INPUT_CACHE_WRITE
        units = zip((INPUT, INPUT_CACHE_READ, writes, OUTPUT), tokens, strict=True)
        lines = tuple((unit, count * MILLION) for unit, count in units if count > 0)
        usage = Usage(parts=(UsagePart(lines=lines, tier_basis=sum(tokens[:3])),), source="estimated", model=model)
        return book.charge(usage, targets[model], at_ms=now_ms).total if lines else 0

    def count(text: str, model: str) -> tuple[int, float | None]:
        if (text, model) not in counts:
            found = tokenizer.count(text.encode("utf-8", "replace"), model=model)
            counts[text, model] = found.tokens, found.error
        return counts[text, model]

    return Pricer(price, count)


def policy_changes(before: str | None, after: str | None) -> list[str]:
    """What the configuration changes, in words. Raises ``Broken`` for one that cannot be read."""
    if before == after:
        return []
    old, new = (_policy(text) for text in (before, after))
    if old.ref == new.ref:
        return []
    lines = [f"policy {old.ref} → {new.ref}"]
    for what, was, now in (
        ("budget", {one.name: one for one in old.budgets}, {one.name: one for one in new.budgets}),
        ("route", {one.name: one for one in old.routes}, {one.name: one for one in new.routes}),
        ("cache", {one.name: one for one in old.cache}, {one.name: one for one in new.cache}),
    ):
        lines += _named(what, was, now)
    for field in type(new.limits).__struct_fields__:
        first, second = getattr(old.limits, field), getattr(new.limits, field)
        if first != second:
            lines.append(f"limits.{field}: {first} → {second}")
    return lines


def _named(what: str, was: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    lines = [f"{what} {name}: new" for name in now if name not in was]
    lines += [f"{what} {name}: removed" for name in was if name not in now]
    for name in now:
        if name in was and was[name] != now[name]:
            limits = [_limits(one[name]) for one in (was, now)]
            lines.append(f"{what} {name}: {' → '.join(limits) if limits[0] != limits[1] else 'changed'}")
    return lines


def _limits(one: object) -> str:
    pairs = getattr(one, "limits", ())
    return ", ".join(usd(value) if unit == "usd" else f"{value:,} {unit}" for unit, value in pairs) or "changed"


def _policy(text: str | None) -> Policy:
    try:
        return parse(text or "", env={"HOME": "/"}, source="farthing.toml").policy
    except ConfigError as error:
        raise Broken(str(error)) from error


def _side(files: Mapping[str, str], config: str | None) -> Side:
    prompts: dict[str, Prompt] = {}
    problems = []
    for name, text in sorted(files.items()):
        try:
            prompt = read(name, text)
        except ValueError as error:
            problems.append(str(error))
            continue
        if prompt.id in prompts:
            problems.append(f"{name}: the id {prompt.id!r} is that of {prompts[prompt.id].file} too")
        prompts[prompt.id] = prompt
    if problems:
        raise Broken("\n".join(problems))
    return Side(prompts, config)


def _folder(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in SUFFIXES)
    return {str(path): text_of(path) for path in files}


def _batch(base: str, names: list[str]) -> dict[str, str]:
    """Many files of one revision by one process."""
    asked = "".join(f"{base}:{name}\n" for name in names).encode()
    data = _git("cat-file", "--batch", stdin=asked)
    found: dict[str, str] = {}
    for name in names:
        head, _, data = data.partition(b"\n")
        size = int(head.split()[2])
        found[name] = data[:size].decode("utf-8", "replace")
        data = data[size + 1 :]
    return found


def _git(*arguments: str, stdin: bytes = b"") -> bytes:
    try:
        done = subprocess.run(["git", *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise Broken("git is not installed; give --base a folder instead") from error
    if done.returncode:
        raise Broken(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
