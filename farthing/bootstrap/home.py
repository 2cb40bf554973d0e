"""The folder of an installation: its file names, its secrets, and what it notes of changes."""

import contextlib
import getpass
import hashlib
import os
import platform
import secrets
import sys
from pathlib import Path

from farthing import config
from farthing.adapters import store_opening
from farthing.adapters.practice_log import SqlPractice
from farthing.adapters.system import SystemClock
from farthing.config import Settings
from farthing.core.errors import ConfigError
from farthing.ports.audit import Changed

LEDGER_FILE = "farthing.db"
SALT_FILE = "salt"
DASHBOARD_SECRET_FILE = "dashboard-secret"


def load_settings(config_path: str | None = None, home: str | None = None) -> Settings:
    """The settings of this installation from its file, the environment and the defaults. Raises ConfigError."""
    return config.load(config_path, home, env=os.environ, platform=sys.platform)


def ledger_path(settings: Settings) -> Path:
    """The one file that is the ledger."""
    return Path(settings.home) / LEDGER_FILE


def made_home(settings: Settings) -> Path:
    """The installation's folder, made when it is not there yet. Raises :class:`ConfigError`."""
    home = Path(settings.home)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            [f"FARTHING_HOME {home} cannot be made: {error.strerror}; set FARTHING_HOME to a folder you may write to"]
        ) from None
    return home


def open_practice(settings: Settings) -> SqlPractice:
    """Marks on incidents, outcomes and the audit log, beside the ledger."""
    made_home(settings)
    return store_opening.open_practice(settings, os.environ)


def note_file(settings: Settings, path: Path) -> None:
    """Notes in the audit log that a file of prices changed."""
    after = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    changed = Changed(at_ms=SystemClock().now_ms(), subject="price_file", name=path.name, after=after, by=me())
    with contextlib.closing(open_practice(settings)) as practice:
        practice.note(changed)


def me() -> str:
    """The user of this machine; "" where there is none (containers)."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def salt_of(settings: Settings) -> bytes:
    """The installation's salt for the traffic log's digests."""
    return own_secret(settings, SALT_FILE)


def own_secret(settings: Settings, name: str) -> bytes:
    """Random bytes of this installation; made once, readable by its owner only."""
    path = made_home(settings) / name
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


def worker_name() -> str:
    """A name for this process among those that share a ledger."""
    return f"{platform.node()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
