"""Prompts as they stand in a repository: request templates in JSON, TOML or YAML, or text with a YAML head."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

import msgspec
import yaml

SUFFIXES: Final = (".json", ".toml", ".yaml", ".yml", ".md", ".txt", ".prompt")
_TEXT: Final = (".md", ".txt", ".prompt")
_HEAD: Final = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_DYNAMIC: Final = re.compile(
    r"\{\{.{0,200}?\}\}|\$\{[^}\n]{1,100}\}|(?<![\w\"{])\{[A-Za-z_][\w.]{0,60}\}|<%=?.{0,200}?%>"
)
"""A value put in at call time: what comes before the first one is the part that a provider's cache can serve."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt of a repository."""

    id: str
    file: str
    model: str = ""
    max_tokens: int | None = None
    feature: str = ""
    text: str = ""
    """Everything that is sent, in prefix order: tools, system, messages."""

    @property
    def prefix(self) -> str:
        """What is the same in every call: the text before the first value that is put in."""
        found = _DYNAMIC.search(self.text)
        return self.text if found is None else self.text[: found.start()]

    @property
    def dynamic(self) -> str:
        """The first value that is put in, as written; "" when there is none."""
        found = _DYNAMIC.search(self.text)
        return "" if found is None else found[0][:60]

    @property
    def line(self) -> int:
        """The line of the text on which that value stands; 1 when there is none."""
        return self.prefix.count("\n") + 1 if self.dynamic else 1


def read(file: str, text: str) -> Prompt:
    """The prompt in a file. Raises ``ValueError`` with what is wrong."""
    path = PurePosixPath(file)
    # git hands files over as they are committed, an editor's line ends and mark included; the model reads the same.
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").replace("\r\n", "\n")
    try:
        return _read(path, text)
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error
    except (RecursionError, TypeError, OverflowError) as error:
        raise ValueError(f"{file}: is nested too deep, or holds what no request can ({error})") from error


def _read(path: PurePosixPath, text: str) -> Prompt:
    file = str(path)
    if path.suffix in _TEXT:
        head = _HEAD.match(text)
        fields = _mapping(yaml.safe_load(head[1]), file) if head else {}
        return _prompt(path, fields, text[head.end() :] if head else text)
    if path.suffix == ".json":
        found: object = msgspec.json.decode(text)
    elif path.suffix == ".toml":
        found = tomllib.loads(text)
    else:
        found = yaml.safe_load(text)
    fields = _mapping(found, file)
    parts = [
        fields.get(name) for name in ("tools", "functions", "system", "instructions", "messages", "input", "prompt")
    ]
    return _prompt(path, fields, "\n".join(_flat(part) for part in parts if part))


def _mapping(found: object, file: str) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise ValueError(f"{file}: a request template is a table with model, system, messages…")
    return found


def _prompt(path: PurePosixPath, fields: Mapping[str, object], text: str) -> Prompt:
    cap = next((fields[n] for n in ("max_tokens", "max_completion_tokens", "max_output_tokens") if n in fields), None)
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"{path}: max_tokens is {cap!r}; a whole number is expected")
    return Prompt(
        id=str(fields.get("id") or path.stem),
        file=str(path),
        model=str(fields.get("model") or ""),
        max_tokens=cap,
        feature=str(fields.get("feature") or ""),
        text=text,
    )


def _flat(part: object) -> str:
    """Text as a model reads it, near enough to count: strings as they are, structure as compact JSON."""
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "\n".join(_flat(one) for one in part)
    if isinstance(part, dict) and "content" in part and "role" in part:
        return f"{part['role']}: {_flat(part['content'])}"
    if isinstance(part, dict) and part.get("type") == "text":
        return _flat(part.get("text", ""))
    return msgspec.json.encode(part).decode()
