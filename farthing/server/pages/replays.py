"""Replays that were asked for in the dashboard: each is the command ``farthing replay`` in a process of its own.

A job is a folder below ``replays`` in the installation's home, so every worker and the next process see the same
jobs. Whoever runs holds a lock of the operating system on its folder: it is free the moment the process is gone,
however that came about. One runs at a time.
"""

import fcntl
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from farthing.core.errors import BadRequest, StoreFailed
from farthing.insight.render import from_json
from farthing.insight.table import Table

FOLDER: Final = "replays"
JOBS_MAX: Final = 100
CPU_S: Final = 3_600
ERROR_BYTES: Final = 4_000

State = Literal["running", "done", "failed", "cancelled"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    title: str
    policy: str
    """The policy to try, as the text of a configuration file."""
    since: str
    until: str
    """Both as moments that the command understands."""
    prices: Literal["then", "now"] = "then"
    every_set: bool = False
    by: str
    at_ms: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is; see ``farthing replay --progress``."""

    replay: int
    replays: int
    label: str
    done: int
    requests: int


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    id: str
    order: Order
    state: State
    progress: Progress | None = None
    tables: tuple[Table, ...] = ()
    problem: str = ""
    """Why it failed, in the command's own words."""
    ended_ms: int | None = None


class Replays:
    """All jobs of an installation. Blocking; any thread, any worker."""

    def __init__(self, home: str, command: Sequence[str]) -> None:
        """``command``: what runs ``farthing`` with this installation's home and configuration."""
        self._folder = Path(home) / FOLDER
        self._command = tuple(command)
        self._children: list[subprocess.Popen[bytes]] = []

    def all(self) -> tuple[Replay, ...]:
        """Newest first, without their tables."""
        self._reap()
        names = sorted((path.parent.name for path in self._folder.glob("*/order.json")), reverse=True)
        return tuple(self._read(name, whole=False) for name in names)

    def one(self, name: str) -> Replay | None:
        """One job with its tables; None when there is none of that name."""
        self._reap()
        known = name and all(c.isalnum() or c == "-" for c in name)
        return self._read(name, whole=True) if known and (self._folder / name / "order.json").is_file() else None

    def start(self, order: Order) -> str:
        """Starts one; its name. Raises ``BadRequest`` while another runs, ``StoreFailed``."""
        self._reap()
        digest = hashlib.sha256(msgspec.json.encode(order)).hexdigest()[:6]
        name = f"{datetime.fromtimestamp(order.at_ms / 1000, UTC):%Y%m%d-%H%M%S}-{digest}"
        folder = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "slot").open("a+b") as slot:
                if not _locked(slot):
                    raise BadRequest("A replay is running already.", hint="Wait for it, or cancel it.")
                self._tidy()
                folder.mkdir()
                (folder / "policy.toml").write_text(order.policy, encoding="utf-8")
                self._launch(folder, order, slot)
                (folder / "order.json").write_bytes(msgspec.json.encode(order))
        except OSError as error:
            raise StoreFailed(f"The replay cannot be started: {error.strerror}.") from error
        return name

    def cancel(self, name: str) -> None:
        """Ends a running job; nothing where it has ended. Raises ``BadRequest`` for an unknown one."""
        folder = self._known(name)
        with (folder / "lock").open("a+b") as lock:
            if _locked(lock):
                return
            (folder / "cancelled").touch()
            try:
                # Whoever holds the lock is alive, so the number is still its own.
                os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
            except (OSError, ValueError) as error:
                raise StoreFailed("The replay cannot be ended.", hint="Try again in a moment.") from error

    def delete(self, name: str) -> None:
        """Forgets a job that has ended. Raises ``BadRequest`` for one that runs or is unknown."""
        folder = self._known(name)
        if _is_running(folder):
            raise BadRequest("This replay is running.", hint="Cancel it first.")
        shutil.rmtree(folder, ignore_errors=True)

    def _launch(self, folder: Path, order: Order, slot: IO[bytes]) -> None:
        command = [
            *self._command, "replay", "--policy", str(folder / "policy.toml"), "--since", order.since,
            "--until", order.until, "--prices", order.prices, "--state", str(folder / "parts.json"),
            "--progress", str(folder / "progress.json"), "--format", "json",
        ]  # fmt: skip
        if order.every_set:
            command.append("--shapley")
        with (
            (folder / "lock").open("a+b") as lock,
            (folder / "result.json").open("wb") as result,
            (folder / "error.txt").open("wb") as problems,
        ):
            _locked(lock)
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=problems,
                pass_fds=(lock.fileno(), slot.fileno()),  # it holds both locks until it ends
            )
        os.setpriority(os.PRIO_PROCESS, child.pid, 10)
        if sys.platform == "linux":
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (CPU_S, CPU_S))
        (folder / "pid").write_text(str(child.pid))
        self._children.append(child)

    def _read(self, name: str, *, whole: bool) -> Replay:
        folder = self._folder / name
        order = msgspec.json.decode((folder / "order.json").read_bytes(), type=Order)
        if _is_running(folder):
            return Replay(id=name, order=order, state="running", progress=_progress(folder))
        raw = _bytes(folder / "result.json")
        ended_ms = (folder / "result.json").stat().st_mtime_ns // 1_000_000 if raw else None
        if raw:
            try:
                documents = msgspec.json.decode(raw, type=list[dict[str, object]])
                tables = tuple(from_json(one) for one in documents) if whole else ()
                return Replay(id=name, order=order, state="done", tables=tables, ended_ms=ended_ms)
            except (msgspec.MsgspecError, ValueError):
                pass  # cut short: it ended before it had written all
        if (folder / "cancelled").exists():
            return Replay(id=name, order=order, state="cancelled")
        said = _bytes(folder / "error.txt")[-ERROR_BYTES:].decode("utf-8", "replace").strip()
        problem = said.removeprefix("Error: ") or "It ended without a result: it took too long, or was ended."
        return Replay(id=name, order=order, state="failed", problem=problem)

    def _known(self, name: str) -> Path:
        if self.one(name) is None:
            raise BadRequest("There is no such replay.", hint="Look at the list again.")
        return self._folder / name

    def _tidy(self) -> None:
        """Forgets the oldest beyond the most that are kept."""
        for path in sorted(self._folder.glob("*/order.json"), reverse=True)[JOBS_MAX - 1 :]:
            shutil.rmtree(path.parent, ignore_errors=True)

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]


def _locked(file: IO[bytes]) -> bool:
    """Takes the lock on an open file, which goes on while any process has it open; False: another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_running(folder: Path) -> bool:
    try:
        with (folder / "lock").open("rb") as lock:
            return not _locked(lock)
    except FileNotFoundError:
        return False


def _progress(folder: Path) -> Progress | None:
    try:
        return msgspec.json.decode((folder / "progress.json").read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
