"""Who may look: sign-in by name and password, sessions, programs with the same password, nobody on loopback."""

import base64
import binascii
import hashlib
import hmac
import threading
from collections.abc import Callable
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from starlette.requests import HTTPConnection

from farthing.config import Settings
from farthing.config.settings import DashboardUser
from farthing.core.errors import Forbidden, Unauthorized
from farthing.server.pages.ask import Person

LOCAL: Final = Person(name="local", role="admin", signed_in=False)
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]", "::1")
_TRIES: Final = 5
"""Wrong passwords of one name before it has to wait."""
_WAIT_MS: Final = 30_000
_NOBODY: Final = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$2VzPxpBIPlVSvYyNrR3oxn5WuJSfbZsJM0mMzZSHBHM"
"""Compared when there is no such user, so that an answer takes as long."""


class Door:
    """Tells who looks, from the settings as they are now."""

    def __init__(self, settings: Callable[[], Settings], now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._hasher = PasswordHasher()
        self._wrong: dict[str, tuple[int, int]] = {}
        self._proved: dict[str, str] = {}
        self._one = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Nobody signs in: no users are configured and only this machine can reach the gateway."""
        settings = self._settings()
        host = settings.server.host
        return not settings.dashboard.users and (host in _LOOPBACK or host.startswith("127."))

    def person(self, ask: HTTPConnection) -> Person | None:
        """Who asks; None: somebody who has to sign in. Raises ``Forbidden`` where nobody can."""
        if self.is_open:
            host = ask.headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name not in _LOOPBACK:
                raise Forbidden(
                    f"Sign-in is off for this machine only, and this request came for '{host[:100]}'.",
                    hint="Open the dashboard at http://127.0.0.1, or add [[dashboard.users]] to farthing.toml.",
                )
            return LOCAL
        if not self._settings().dashboard.users:
            raise Forbidden(
                "This gateway can be reached from other machines and has no dashboard users.",
                hint="Run 'farthing dashboard password NAME --role admin' and put what it prints into farthing.toml.",
            )
        user = self._user(str(ask.session.get("user", "")))
        if user is not None and hmac.compare_digest(str(ask.session.get("mark", "")), mark(user)):
            return _person(user)
        return None

    def program(self, authorization: str) -> Person | None:
        """Who a program is, by HTTP Basic; None when it says nothing. Blocking. Raises ``Unauthorized``."""
        kind, _, rest = authorization.partition(" ")
        if kind.lower() != "basic" or self.is_open:
            return None
        try:
            name, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthorized(
                "The Authorization header is not HTTP Basic.", hint="Send name and password."
            ) from None
        return _person(self.sign_in(name, password))

    def sign_in(self, name: str, password: str) -> DashboardUser:
        """The user of a name and password. Blocking: hashing takes its time. Raises ``Unauthorized``."""
        user = self._user(name)
        now_ms = self._now_ms()
        tries, since_ms = self._wrong.get(name, (0, 0))
        if tries >= _TRIES and now_ms - since_ms < _WAIT_MS:
            raise Unauthorized("Too many wrong passwords for this name.", hint="Wait half a minute and try again.")
        proof = hashlib.sha256(f"{name}\n{password}".encode()).hexdigest()
        if user is not None and self._proved.get(user.password_hash) == proof:
            return user
        with self._one:  # one at a time: each takes 64 MiB
            try:
                self._hasher.verify(user.password_hash if user is not None else _NOBODY, password[:1024])
                right = user is not None
            except (Argon2Error, InvalidHashError):
                right = False
        if not right or user is None:
            if len(self._wrong) > 10_000:
                self._wrong.clear()
            self._wrong[name[:64]] = (tries + 1, now_ms)
            raise Unauthorized("Name or password is wrong.", hint="Ask whoever runs this gateway for an account.")
        self._wrong.pop(name, None)
        self._proved = {**dict(list(self._proved.items())[-100:]), user.password_hash: proof}
        return user

    def _user(self, name: str) -> DashboardUser | None:
        return next((user for user in self._settings().dashboard.users if user.name == name), None)


def mark(user: DashboardUser) -> str:
    """What a session remembers of a password: a new password ends the sessions of the old one."""
    return hashlib.sha256(f"{user.name}\n{user.password_hash}".encode()).hexdigest()[:32]


def _person(user: DashboardUser) -> Person:
    return Person(name=user.name, role=user.role, team=user.team)
