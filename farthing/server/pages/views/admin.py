"""Admin: virtual keys, the health of this gateway, who may sign in, and who changed what."""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final

import msgspec

from farthing import __version__
from farthing.core.errors import BadRequest
from farthing.core.types import KeyRecord, Scope
from farthing.insight.moments import parse_moment, shown
from farthing.insight.table import Column, Table
from farthing.ports.audit import Changed
from farthing.server.pages.ask import ADMIN, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Note, Page, RowAction, TableBlock

SAID: Final = ("team", "project", "user", "feature", "customer")
VALUE_MAX: Final = 128
CHANGES: Final = 50


def build(ask: Ask) -> Page:
    """The page."""
    return _page(ask, ())


def create_key(ask: Ask, said: Mapping[str, str]) -> Page:
    """Makes a key; the page that shows its secret, once. Raises ``BadRequest``."""
    name = said.get("name", "").strip()
    problems = [] if name and len(name) <= 64 and name.isprintable() else ["name: 1 to 64 printable characters"]
    values = {one: said.get(one, "").strip() for one in SAID}
    problems += [
        f"{one}: at most {VALUE_MAX} printable characters"
        for one, value in values.items()
        if len(value) > VALUE_MAX or not value.isprintable()
    ]
    expires_ms = _expires(said.get("expires", "").strip(), ask.now_ms, problems)
    models = tuple(part.strip() for part in said.get("models", "").split(",") if part.strip())
    key_id, secret = f"key_{secrets.token_hex(8)}", f"fk-{secrets.token_urlsafe(32)}"
    keys = ask.sources.keys()
    if any(one.name == name and one.revoked_at_ms is None for one in keys.all()):
        problems.append(f"name: there is a live key '{name}' already")
    if problems:
        raise BadRequest("; ".join(problems), hint="Go back and correct the form.")
    keys.add(
        KeyRecord(
            id=key_id,
            name=name,
            hash=hashlib.sha256(secret.encode()).hexdigest(),
            hint=secret[-4:],
            scope=msgspec.structs.replace(Scope(key=key_id), **values),
            created_at_ms=ask.now_ms,
            expires_at_ms=expires_ms,
            models=models,
        )
    )
    _record(ask, key_id, "created", name)
    note = Note(
        title=f"The secret of {name}",
        text="Copy it now: only its hash is kept, and it cannot be shown again.",
        command=secret,
        tone="good",
    )
    return _page(ask, (note,))


def revoke_key(ask: Ask, said: Mapping[str, str]) -> str:
    """Ends a key, from its next call on. Raises ``BadRequest``."""
    key_id = said.get("id", "")
    if not ask.sources.keys().revoke(key_id, at_ms=ask.now_ms):
        raise BadRequest("There is no such live key.", hint="'farthing key ls --all' lists all keys.")
    _record(ask, key_id, "revoked", "")
    return "/admin"


def _page(ask: Ask, first: tuple[Block, ...]) -> Page:
    blocks = (*first, _keys(ask), _form(), _health(ask), _users(ask), _changes(ask))
    return Page(title="Admin", lead="Keys, health, people, and who changed what.", blocks=blocks)


def _record(ask: Ask, key_id: str, after: str, detail: str) -> None:
    practice = ask.sources.practice()
    try:
        practice.note(
            Changed(at_ms=ask.now_ms, subject="key", name=key_id, after=after, by=ask.person.name, detail=detail)
        )
    finally:
        practice.close()


def _expires(text: str, now_ms: int, problems: list[str]) -> int | None:
    if not text:
        return None
    try:
        ends = parse_moment(text, now_ms=now_ms)
    except ValueError as error:
        problems.append(f"expires: {error}")
        return None
    if ends <= now_ms:
        problems.append(f"expires: {shown(ends)} UTC is past")
    return ends


def _keys(ask: Ask) -> TableBlock:
    records = sorted(ask.sources.keys().all(), key=lambda one: (one.revoked_at_ms is not None, -one.created_at_ms))
    rows = []
    for one in records:
        ended = one.expires_at_ms is not None and one.expires_at_ms <= ask.now_ms
        state = "revoked" if one.revoked_at_ms is not None else "expired" if ended else "live"
        said = [f"{name}={value}" for name, value in msgspec.structs.asdict(one.scope).items()
                if isinstance(value, str) and value and name != "key"]  # fmt: skip
        rows.append((
            one.name, f"…{one.hint}", state, ", ".join(said) or "-", ", ".join(one.models) or "all",
            shown(one.created_at_ms), None if one.expires_at_ms is None else shown(one.expires_at_ms), one.id,
        ))  # fmt: skip
    names = ("name", "hint", "state", "scope", "models", "created", "expires", "id")
    columns = tuple(Column(name=name, title=name, unknown="never") for name in names)
    live = tuple("" if one.revoked_at_ms is not None else one.id for one in records)
    return TableBlock(
        id="keys",
        table=Table(title="Keys", columns=columns, rows=tuple(rows)),
        hide=("id",),
        actions=(RowAction(label="Revoke", path="/admin/keys/revoke", ids=live),),
        empty="No key exists: whoever reaches this gateway on this machine may call it.",
        command="farthing key create search-prod --team search",
    )


def _form() -> Form:
    hints = {"team": "its calls are booked on it"}
    fields = tuple(Field(name=name, label=name.capitalize(), hint=hints.get(name, "")) for name in SAID)
    return Form(
        id="new-key",
        title="New key",
        method="post",
        action="/admin/keys/create",
        submit="Create key",
        folded=True,
        fields=(
            Field(name="name", label="Name", required=True, hint="search-prod"),
            *fields,
            Field(name="models", label="Models", hint="gpt-4o*, claude-*; empty: all"),
            Field(name="expires", label="Expires", kind="date"),
        ),
    )


def _health(ask: Ask) -> TableBlock:
    settings = ask.sources.settings()
    problems = ask.sources.ready()
    rows = (
        ("ready", "; ".join(problems) or "yes"),
        ("version", __version__),
        ("listens on", f"{settings.server.host}:{settings.server.port}"),
        ("workers", str(settings.server.workers)),
        ("store", settings.store.kind),
        ("reports read", settings.analytics.reports),
        ("configuration", settings.source or "defaults"),
        ("price book", ask.sources.book().ref),
        ("providers", ", ".join(one.name for one in settings.providers)),
    )
    columns = (Column(name="what", title="what"), Column(name="state", title="state"))
    return TableBlock(id="health", table=Table(title="Health", columns=columns, rows=rows))


def _users(ask: Ask) -> TableBlock:
    columns = tuple(Column(name=name, title=name) for name in ("name", "role", "team"))
    rows = tuple((one.name, one.role, one.team) for one in ask.sources.settings().dashboard.users)
    return TableBlock(
        id="users",
        table=Table(title="People", columns=columns, rows=rows),
        empty="Sign-in is off: this machine only.",
        command="farthing dashboard password NAME --role admin",
    )


def _changes(ask: Ask) -> TableBlock:
    practice = ask.sources.practice()
    try:
        found = practice.changes(limit=CHANGES)
    finally:
        practice.close()
    names = ("at (UTC)", "what", "name", "before", "after", "by", "detail")
    rows = tuple(
        (shown(one.at_ms), one.subject, one.name, one.before, one.after, one.by, one.detail) for one in found
    )
    columns = tuple(Column(name=name.partition(" ")[0], title=name) for name in names)
    return TableBlock(
        id="changes",
        table=Table(title="Who changed what", columns=columns, rows=rows),
        empty="Nothing has changed since this log began.",
        command="farthing audit",
    )


VIEW = View(name="admin", title="Admin", group="Run", build=build, roles=ADMIN)
