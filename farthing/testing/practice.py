"""An installation in a folder with a ledger of its own, and the command line over it: real stores, a set clock."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.types import LedgerEntry

DAY_MS = 86_400_000
NOW_MS = 1_795_262_400_000
"""2026-11-21T12:00:00Z, a Saturday."""


class Home:
    """One installation; ``now_ms`` is what its commands take for now."""

    def __init__(self, folder: Path, *, config: str = "", now_ms: int = NOW_MS) -> None:
        self.folder = folder
        self.now_ms = now_ms
        self.config = folder / "farthing.toml"
        self.config.write_text(config, encoding="utf-8")

    def book(self, entries: Iterable[LedgerEntry]) -> None:
        """Books entries as an import does."""
        importer = SqliteImporter(self.folder / "farthing.db")
        importer.import_batch(entries, ())
        importer.close()

    @property
    def ledger(self) -> SqliteLedger:
        """The ledger, for reading."""
        return SqliteLedger(self.folder / "farthing.db")

    def run(self, *arguments: str) -> Result:
        """Runs a command. Raises what the command did not expect."""
        # By name: the test kit stands beside the command line, not above it.
        main = importlib.import_module("farthing.cli").main
        app = importlib.import_module("farthing.cli.context").App(now_ms=lambda: self.now_ms)
        where = ("--home", str(self.folder), "--config", str(self.config))
        result = CliRunner().invoke(main, (*where, *arguments), obj=app)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *arguments: str) -> str:
        """The standard output of a command that must succeed."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """What a command says in JSON."""
        return json.loads(self.ok(*arguments, "--format", "json"))
