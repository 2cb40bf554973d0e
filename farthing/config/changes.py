"""What ``farthing`` itself changed in its configuration file, kept so that it can be taken back."""

import difflib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from farthing.config.editing import Toml, add_section
from farthing.config.writing import replace_file

FOLDER = "changes"


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one file."""

    path: str
    why: str
    before: str
    after: str
    at_ms: int


def with_section(source: str, section: str, values: Mapping[str, Toml]) -> tuple[str, str]:
    """The text of a configuration file as it is, and with one more ``[[section]]``. Raises ``ConfigError``."""
    old = Path(source).resolve().read_text(encoding="utf-8-sig")
    return old, add_section(old, section, values, source=source)


def diff(before: str, after: str, name: str) -> str:
    """What changes in a file, as people read it."""
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), name, name, n=2)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def apply(home: Path, change: Applied) -> None:
    """Writes the file and keeps what it was, the latter first. Raises ``OSError``; then the file is as it was."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(path.stem) for path in _kept(folder)), default=0) + 1
    note = folder / f"{number:06d}.json"
    note.write_bytes(msgspec.json.encode(change))
    try:
        replace_file(Path(change.path), change.after)
    except OSError:
        note.unlink(missing_ok=True)
        raise


def last(home: Path) -> tuple[Path, Applied] | None:
    """The newest change that was not taken back, and where it is kept."""
    kept = sorted(_kept(home / FOLDER))
    return (kept[-1], msgspec.json.decode(kept[-1].read_bytes(), type=Applied)) if kept else None


def is_current(change: Applied) -> bool:
    """The file is still as that change left it."""
    path = Path(change.path)
    return path.is_file() and path.read_text(encoding="utf-8-sig") == change.after


def undo(note: Path, change: Applied) -> None:
    """Puts back what the file was. Raises ``OSError``."""
    replace_file(Path(change.path), change.before)
    note.unlink()


def _kept(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if path.stem.isdigit()]
