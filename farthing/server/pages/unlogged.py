"""What pages say that read the traffic log while it is switched off."""

from typing import Final

from msgspec.structs import replace

from farthing.server.pages.blocks import Note, Page

READERS: Final = frozenset(
    {"requests", "request", "traces", "trace", "sessions", "opportunities", "doctor", "routing", "replay",
     "replay-one", "experiments", "calculator"}
)  # fmt: skip
"""Pages that show less without a traffic log, or nothing."""
_NOTE: Final = Note(
    title="The traffic log is switched off",
    text="exchange_log.enabled = false: only the ledger is written. Refused calls are counted in metrics alone, and "
    "there is nothing new to replay, diagnose or optimize.",
)


def with_note(page: Page, name: str, *, logs: bool) -> Page:
    """The page of this name, with a note in front where it needs what is not written."""
    return page if logs or name not in READERS else replace(page, blocks=(_NOTE, *page.blocks))
