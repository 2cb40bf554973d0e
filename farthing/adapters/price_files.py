"""An installation's own price files: appended to, never rewritten, and only ever to something that loads."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

import httpx

from farthing.adapters.price_feed_yaml import PriceFile
from farthing.adapters.price_feeds import load_book, price_files
from farthing.core.errors import PriceBookError
from farthing.core.pricing_rows import USER_LAYER

BYTES_MAX: Final = 16 * 1024 * 1024
TIMEOUT_S: Final = 30.0


def append_document(home: str | Path, file: str, document: str) -> Path:
    """Append a YAML document to ``<home>/prices/<file>.yml`` if the whole book still loads with it.

    The file as it was stays a prefix of the file as it becomes. Raises :class:`PriceBookError` and changes nothing
    when the result would contradict itself.
    """
    path = _folder(home) / f"{file}.yml"
    before = path.read_text("utf-8") if path.exists() else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    text = f"{before}{gap}---\n{document.rstrip()}\n" if before else f"{document.rstrip()}\n"
    _install(home, path, text)
    return path


def take_file(home: str | Path, source: str, file: str) -> Path:
    """Install a price file from a path or an https address as ``<home>/prices/<file>.yml``.

    A file that is there already may only grow: its rows must all be in the new one, unchanged. Raises
    :class:`PriceBookError`, ``OSError``.
    """
    text = fetch(source)
    path = _folder(home) / f"{file}.yml"
    new = PriceFile(text, name=path.name, layer=USER_LAYER)
    if path.exists():
        kept = set(new.rows)
        lost = [
            row.id
            for row in PriceFile(path.read_text("utf-8"), name=path.name, layer=USER_LAYER).rows
            if row not in kept
        ]
        if lost:
            raise PriceBookError(
                [f"{row}: is in {path} and not, or not the same, in the new file" for row in lost], source=source
            )
    _install(home, path, text)
    return path


def fetch(source: str) -> str:
    """The text of a local file or an https address (http only from this machine). ``OSError`` when there is none."""
    if "://" not in source:
        return Path(source).read_text("utf-8")
    url = httpx.URL(source)
    if url.scheme != "https" and url.host not in ("127.0.0.1", "localhost", "::1"):
        raise OSError(f"{source}: prices are only taken over https")
    try:
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as client, client.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise OSError(f"{source}: answered {answer.status_code}")
            body = bytearray()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > BYTES_MAX:
                    raise OSError(f"{source}: more than {BYTES_MAX} bytes")
    except httpx.HTTPError as error:
        raise OSError(f"{source}: {error}") from error
    return bytes(body).decode("utf-8")


def _folder(home: str | Path) -> Path:
    folder = Path(home) / "prices"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _install(home: str | Path, path: Path, text: str) -> None:
    """Check the book with the new text, then put the file in place at once."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".new")
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        others = [other for other in price_files(home) if other != path]
        load_book([*others, draft])
        draft.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
