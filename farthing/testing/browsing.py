"""A visitor of the dashboard in a real Chromium whose requests and complaints are watched; where shots are kept."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # a tool of the tests: the kit imports without it
    from playwright.sync_api import Browser, BrowserContext, Page

FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS: Final = 60_000
"""How long a page may take on a busy machine."""

SHOTS: Final = "FARTHING_SHOTS"
"""The environment variable that names the folder for screenshots of whole pages."""


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Debian's Chromium. Raises ``AssertionError`` where it is not installed."""
    from playwright.sync_api import expect, sync_playwright

    path = shutil.which("chromium")
    assert path, "these tests drive Debian's Chromium: apt-get install chromium"
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield launched
        launched.close()


def shots() -> Path:
    """Where screenshots go: the folder named by ``FARTHING_SHOTS``, ``build/shots`` without it (git ignores it)."""
    folder = Path(os.environ.get(SHOTS) or "build/shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visit:
    """One visitor: a page whose requests and complaints are watched."""

    def __init__(self, context: "BrowserContext", origin: str) -> None:
        self.origin = origin
        self.complaints: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", lambda one: self._watch(one.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: self._hear(line.type, line.text))

    def open(self, path: str) -> "Page":
        """The page at a path of the gateway."""
        self.page.goto(self.origin + path)
        return self.page

    def _watch(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.complaints.append(f"a request left the origin: {url}")

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error" and "status of 40" not in text:
            self.complaints.append(text)


def drawn(page: "Page") -> "Page":
    """The page once its charts are there, and nothing of it is still being worked out."""
    page.wait_for_selector("html[data-drawn='1'] main:not([data-pending])", state="attached", timeout=90_000)
    return page
