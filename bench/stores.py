"""The stores that ``race.py`` and ``chaos.py`` run on, by name, and what can go wrong with each."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from faults import Proxy

from farthing.testing.servers import PostgresServer, ValkeyServer


class Store(Protocol):
    """The books' store as a test handles it."""

    name: str

    def start(self) -> tuple[str, Mapping[str, str]]:
        """Start what it needs; the TOML and the environment that make a gateway use it."""
        ...

    def stop(self) -> None: ...

    def faults(self) -> dict[str, Callable[[float], None]]:
        """What can go wrong with it, by name; each one lasts for some seconds and returns when it is healed."""
        ...


class SqliteStore:
    """SQLite in the gateway's folder: nothing to start."""

    name = "sqlite"

    def start(self) -> tuple[str, Mapping[str, str]]:
        return "", {}

    def stop(self) -> None:
        pass

    def faults(self) -> dict[str, Callable[[float], None]]:
        return {}


class ScaledStore:
    """Budgets in Valkey, the ledger in PostgreSQL, each behind a proxy that can cut it off."""

    name = "valkey+postgres"

    def __init__(self) -> None:
        self._valkey = ValkeyServer()
        self._postgres = PostgresServer()

    def start(self) -> tuple[str, Mapping[str, str]]:
        self._valkey.start()
        self._postgres.start().quick()
        socket = parse_qs(urlsplit(self._postgres.url).query)["host"][0]
        self._to_valkey = Proxy(self._valkey.port)
        self._to_postgres = Proxy(f"{socket}/.s.PGSQL.5432")
        return (
            '[store]\nkind = "valkey"\n',
            {
                "FARTHING_VALKEY_URL": f"valkey://127.0.0.1:{self._to_valkey.port}/0",
                "FARTHING_POSTGRES_URL": f"postgresql://postgres:@127.0.0.1:{self._to_postgres.port}/postgres",
            },
        )

    def stop(self) -> None:
        self._to_valkey.close()
        self._to_postgres.close()
        self._valkey.kill()
        self._postgres.remove()

    def faults(self) -> dict[str, Callable[[float], None]]:
        return {
            "kill -9 of Valkey, data lost": self._kill_valkey,
            "kill -9 of PostgreSQL": self._kill_postgres,
            "Valkey cut off": lambda seconds: _network(self._to_valkey, "cut", seconds),
            "Valkey silent": lambda seconds: _network(self._to_valkey, "silent", seconds),
            "Valkey acts, answers lost": lambda seconds: _network(self._to_valkey, "deaf", seconds),
            "PostgreSQL cut off": lambda seconds: _network(self._to_postgres, "cut", seconds),
            "PostgreSQL acts, answers lost": lambda seconds: _network(self._to_postgres, "deaf", seconds),
        }

    def _kill_valkey(self, seconds: float) -> None:
        self._valkey.kill()
        time.sleep(seconds)
        self._valkey.start()

    def _kill_postgres(self, seconds: float) -> None:
        self._postgres.kill()
        time.sleep(seconds)
        self._postgres.start()


STORES: Mapping[str, Callable[[], Store]] = {"sqlite": SqliteStore, "valkey+postgres": ScaledStore}


def store_names() -> list[str]:
    """All of them."""
    return list(STORES)


def store_of(name: str) -> Store:
    """A store of its own."""
    return STORES[name]()


def _network(proxy: Proxy, state: str, seconds: float) -> None:
    proxy.set(state)
    time.sleep(seconds)
    proxy.set("open")
