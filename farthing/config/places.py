"""Where an installation lives and where its file may be: paths computed from the environment, nothing opened."""

import sys
from collections.abc import Mapping
from pathlib import PurePath

FILE_NAME = "farthing.toml"


def default_home(env: Mapping[str, str], *, platform: str = sys.platform) -> str:
    """The folder for everything Farthing writes: ``FARTHING_HOME``, else the platform's user data folder.

    Linux and other Unix: ``$XDG_DATA_HOME/farthing`` or ``~/.local/share/farthing``; macOS:
    ``~/Library/Application Support/farthing``; Windows: ``%LOCALAPPDATA%\\farthing``.
    """
    if env.get("FARTHING_HOME"):
        return env["FARTHING_HOME"]
    user = PurePath(env.get("HOME") or env.get("USERPROFILE") or ".")
    if platform == "darwin":
        return str(user / "Library" / "Application Support" / "farthing")
    if platform == "win32":
        return str(PurePath(env.get("LOCALAPPDATA") or user / "AppData" / "Local") / "farthing")
    return str(PurePath(env.get("XDG_DATA_HOME") or user / ".local" / "share") / "farthing")


def config_candidates(env: Mapping[str, str], *, home: str, chosen: str = "") -> tuple[tuple[str, bool], ...]:
    """(path, must exist) pairs in order of precedence; the first that exists is read, none means defaults.

    A file that was named (``--config``, ``FARTHING_CONFIG``) must exist; ``./farthing.toml`` and
    ``<home>/farthing.toml`` are used when they are there.
    """
    named = chosen or env.get("FARTHING_CONFIG", "")
    if named:
        return ((named, True),)
    return ((FILE_NAME, False), (str(PurePath(home) / FILE_NAME), False))
