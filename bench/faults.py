"""Things that go wrong, for ``chaos.py``: a network that is cut, a disk that is full."""

import asyncio
import contextlib
import ctypes
import os
import threading
from pathlib import Path

from cluster import Cluster

_libc = ctypes.CDLL(None, use_errno=True)


class Proxy:
    """A TCP proxy on a loopback port, on a thread of its own, that can be told to misbehave.

    ``open``: passes bytes on. ``cut``: connections are reset and new ones refused at once. ``silent``: connections
    stay, nothing passes. ``deaf``: what clients say arrives, and the answers never come back: the other side acts,
    and nobody learns of it.
    """

    def __init__(self, target: int | str) -> None:
        """``target``: a loopback port, or the path of a socket."""
        self.target = target
        self.port = 0
        self._state = "open"
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        ready = threading.Event()
        self._ready = ready
        self._thread.start()
        ready.wait(10)

    def set(self, state: str) -> None:
        """Change at once; back to ``open`` and away from it resets what is connected, but for ``silent``."""
        asyncio.run_coroutine_threadsafe(self._set(state), self._loop).result(10)

    def close(self) -> None:
        """Stops."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _set(self, state: str) -> None:
        before, self._state = self._state, state
        self._changed.set()
        self._changed = asyncio.Event()
        if state == "cut" or before == "deaf":
            for task in list(self._tasks):
                task.cancel()

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4096))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        other: asyncio.StreamWriter | None = None
        try:
            if self._state == "cut":
                return
            far_reader, other = await self._open()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, other, back=False))
                both.create_task(self._pass(far_reader, writer, back=True))
        except* (OSError, _Ended):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            for one in (writer, other):
                if one is not None:
                    one.transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        while data := await reader.read(65_536):
            while self._state == "silent":
                await self._changed.wait()
            if back and self._state == "deaf":
                continue
            writer.write(data)
            await writer.drain()
        raise _Ended


class _Ended(Exception):
    """One side closed."""


class Disk:
    """A small disk under a folder, to be filled: a tmpfs where this process may mount one, else a limit on files."""

    def __init__(self, folder: Path, size: int = 256 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ballast = folder / "ballast"
        options = f"size={size}".encode()
        self.mounted = _libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options) == 0

    @property
    def kind(self) -> str:
        """How it is made full."""
        return "tmpfs without space" if self.mounted else "RLIMIT_FSIZE"

    def fill(self, cluster: Cluster) -> None:
        """Not a byte more."""
        if not self.mounted:
            cluster.limit_files(0)
            return
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            room = os.statvfs(self.folder)
            os.posix_fallocate(file.fileno(), 0, max(1, (room.f_bavail - 1) * room.f_frsize))
            while True:
                file.seek(0, os.SEEK_END)
                file.write(b"\0" * 4096)

    def free(self, cluster: Cluster) -> None:
        """Room again."""
        if not self.mounted:
            cluster.limit_files(-1)
            return
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Takes the disk away."""
        if self.mounted:
            _libc.umount2(str(self.folder).encode(), 2)
