"""Providers' bills that were given to this installation: files in the folder ``bills`` of its home."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from farthing.core.errors import BadRequest
from farthing.insight.billed import Kind

FOLDER: Final = "bills"
BILLS_MAX: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
_ENDS: Final = (".json", ".jsonl", ".csv")


class BillFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    name: str
    size: int
    saved_ms: int

    @property
    def kind(self) -> Kind:
        """Whose bill its name says that it is."""
        first = self.name.partition("-")[0]
        return "anthropic" if first == "anthropic" else "csv" if self.name.endswith(".csv") else "openai"


class Bills:
    """The folder. Uploads and files that were put there by hand are alike."""

    def __init__(self, home: str) -> None:
        self._folder = Path(home) / FOLDER

    def all(self) -> tuple[BillFile, ...]:
        """The files, newest first."""
        found = []
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if _fine(path.name) and path.is_file() and not path.is_symlink():
                seen = path.stat()
                found.append(BillFile(name=path.name, size=seen.st_size, saved_ms=seen.st_mtime_ns // 1_000_000))
        return tuple(sorted(found, key=lambda one: (-one.saved_ms, one.name)))

    def path(self, name: str) -> Path:
        """Where a bill is. Raises ``BadRequest`` for a name that is none of them."""
        if all(one.name != name for one in self.all()):
            raise BadRequest(
                f"There is no bill '{name[:100]}'.", hint=f"Upload it, or put it into the folder {FOLDER}."
            )
        return self._folder / name

    def add(self, kind: Kind, text: str, now_ms: int) -> str:
        """Keeps a bill; its name. The same text is kept once. Raises ``BadRequest``, ``OSError``."""
        if not text.strip():
            raise BadRequest("The file is empty.", hint="Choose the saved answer of a report API, or a CSV bill.")
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        known = next((one.name for one in self.all() if digest in one.name and one.name.startswith(kind)), "")
        if known:
            return known
        if len(self.all()) >= BILLS_MAX:
            raise BadRequest(f"There are {BILLS_MAX} bills already.", hint="Delete some first.")
        day = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%d}"
        name = f"{kind}-{day}-{digest}.{'csv' if kind == 'csv' else 'json'}"
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._folder / name)
        return name

    def delete(self, name: str) -> None:
        """Deletes a bill. Raises ``BadRequest`` for a name that is none of them."""
        self.path(name).unlink(missing_ok=True)


def _fine(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name.endswith(_ENDS)
