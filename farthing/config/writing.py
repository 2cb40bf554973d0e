"""Writing a configuration file: all of the new one or none of it."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Puts ``text`` in the file's place, with the old one's permissions. Raises ``OSError``; then nothing changed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode & 0o7777)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
