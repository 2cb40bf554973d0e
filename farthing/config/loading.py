"""``load``: finds the file and parses it; the one function of this package that opens anything."""

import sys
from collections.abc import Mapping
from pathlib import Path

from farthing.config.parser import parse
from farthing.config.places import config_candidates, default_home
from farthing.config.settings import Settings
from farthing.core.errors import ConfigError


def load(
    config_path: str | None = None,
    home: str | None = None,
    *,
    env: Mapping[str, str],
    platform: str = sys.platform,
) -> Settings:
    """The settings of an installation: the file that was named, or that is there, or the defaults.

    ``config_path`` and ``home`` (command line) win over ``env``, which wins over the file. Raises ``ConfigError``.
    """
    folder = str(Path(home or default_home(env, platform=platform)).expanduser())
    chosen = {**env, "FARTHING_HOME": folder}
    for name, must_exist in config_candidates(env, home=folder, chosen=config_path or ""):
        path = Path(name).expanduser()
        if must_exist or path.is_file():
            return parse(_text(path), env=chosen, source=str(path))
    return parse("", env=chosen, source="")


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text at byte {error.start}"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    raise ConfigError([problem], source=str(path))
