"""``farthing key``: the virtual keys of callers. A secret is shown once and kept only as a hash."""

import hashlib
import secrets
from typing import Final

import click

from farthing.cli.context import (
    SAID,
    App,
    Failed,
    closed,
    format_option,
    moment,
    pass_app,
    scope_of,
    scope_options,
    show,
)
from farthing.core.types import KeyRecord
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Row, Table

REFINABLE: Final = (*SAID, "tags")
_NAME_MAX: Final = 128
_DEFAULT_REFINE: Final = "user,feature,customer,session,tags"


def plain_name(_: click.Context, __: click.Parameter, name: str) -> str:
    """A name that can be read in a list and typed again."""
    if not name.strip() or name != name.strip() or len(name) > _NAME_MAX or not name.isprintable():
        raise click.BadParameter(f"a name has 1 to {_NAME_MAX} printable characters and no spaces around them")
    return name


@click.group()
def key() -> None:
    """Create, list and revoke the keys of callers."""


@key.command()
@click.argument("name", callback=plain_name)
@scope_options
@click.option(
    "--refine",
    default=_DEFAULT_REFINE,
    show_default=True,
    help=f'What callers may say themselves, by header: "none" or some of {",".join(REFINABLE)}.',
)
@click.option("--model", "models", multiple=True, help="A model name pattern this key may use; repeatable.")
@click.option("--expires", metavar="WHEN", help='When it ends: "2027-01-31", or "90d" from now.')
@format_option("table", "json")
@pass_app
def create(
    app: App,
    /,
    name: str,
    tags: tuple[tuple[str, str], ...],
    refine: str,
    models: tuple[str, ...],
    expires: str | None,
    form: Format,
    **said: str,
) -> None:
    """Create the key NAME and print its secret, once."""
    now_ms = app.now_ms()
    key_id = f"key_{secrets.token_hex(8)}"
    secret = f"fk-{secrets.token_urlsafe(32)}"
    record = KeyRecord(
        id=key_id,
        name=name,
        hash=hashlib.sha256(secret.encode()).hexdigest(),
        hint=secret[-4:],
        scope=scope_of(said, tags, key=key_id),
        refine=_refine(refine),
        created_at_ms=now_ms,
        expires_at_ms=_expires(expires, now_ms),
        models=models,
    )
    with closed(app.stores.open_keys(app.settings)) as keys:
        if any(one.name == name and one.revoked_at_ms is None for one in keys.all()):
            raise Failed(f'There is a live key "{name}" already; revoke it first or choose another name.')
        keys.add(record)
    if form == "json":
        columns = tuple(Column(name=part, title=part) for part in ("id", "name", "secret"))
        show(Table(title="Key", columns=columns, rows=((key_id, name, secret),)), form)
        return
    click.echo(f"{secret}\n")
    click.echo(f'This is the secret of "{name}" ({key_id}). It is not kept and cannot be shown again.', err=True)


@key.command()
@click.option("--all", "everything", is_flag=True, help="Revoked and expired keys too.")
@format_option()
@pass_app
def ls(app: App, everything: bool, form: Format) -> None:
    """List keys."""
    with closed(app.stores.open_keys(app.settings)) as keys:
        records = sorted(keys.all(), key=lambda one: (one.created_at_ms, one.id))
    now_ms = app.now_ms()
    rows = [_row(one, now_ms) for one in records if everything or _state(one, now_ms) == "live"]
    titles = ("id", "name", "hint", "state", "scope", "refine", "models", "created", "expires")
    columns = tuple(Column(name=title, title=title) for title in titles)
    notes = () if rows or not records else ("All keys have ended; --all lists them.",)
    show(Table(title="Keys", columns=columns, rows=tuple(rows), notes=notes), form)


@key.command()
@click.argument("key_id", metavar="ID-OR-NAME")
@pass_app
def revoke(app: App, key_id: str) -> None:
    """End a key, from its next call on."""
    with closed(app.stores.open_keys(app.settings)) as keys:
        found = [one for one in keys.all() if key_id in (one.id, one.name) and one.revoked_at_ms is None]
        if not found:
            raise Failed(f'There is no live key "{key_id}"; "farthing key ls --all" lists all keys.')
        if len(found) > 1:
            raise Failed(f'"{key_id}" names several keys; revoke one by its id: {", ".join(one.id for one in found)}')
        keys.revoke(found[0].id, at_ms=app.now_ms())
    click.echo(f'Revoked "{found[0].name}" ({found[0].id}).')


def _refine(text: str) -> tuple[str, ...]:
    names = [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in REFINABLE]
    if unknown:
        raise click.BadParameter(
            f"unknown: {', '.join(unknown)}; allowed: none or {', '.join(REFINABLE)}", param_hint="--refine"
        )
    return tuple(dict.fromkeys(names))


def _expires(text: str | None, now_ms: int) -> int | None:
    """The instant; a span counts from now into the future."""
    if text is None:
        return None
    instant = moment(click.get_current_context(), None, text)
    ends = 2 * now_ms - instant if text.strip()[-1:] in "mhdw" else instant
    if ends <= now_ms:
        raise click.BadParameter(f"{shown(ends)} UTC is past", param_hint="--expires")
    return ends


def _state(record: KeyRecord, now_ms: int) -> str:
    if record.revoked_at_ms is not None:
        return "revoked"
    return "expired" if record.expires_at_ms is not None and record.expires_at_ms <= now_ms else "live"


def _row(record: KeyRecord, now_ms: int) -> Row:
    scope = record.scope
    said = [f"{name}={getattr(scope, name)}" for name in REFINABLE if name != "tags" and getattr(scope, name)] + [
        f"tag:{name}={value}" for name, value in scope.tags
    ]
    return (
        record.id,
        record.name,
        f"…{record.hint}",
        _state(record, now_ms),
        ", ".join(said) or "-",
        ", ".join(record.refine) or "none",
        ", ".join(record.models) or "all",
        shown(record.created_at_ms),
        None if record.expires_at_ms is None else shown(record.expires_at_ms),
    )
