"""A bare httptools server on asyncio.Protocol, our client: the floor for Python. Usage: raw.py PORT UPSTREAM_PORT

A prototype to measure by, not a server: no limits, no time-outs, no pipelining, no backpressure.
"""

import asyncio
import sys

import httptools
import uvloop

from farthing.adapters.http import HttpTransport
from farthing.ports.provider import HttpRequest, Timeouts

TIMEOUTS = Timeouts()
KEPT = (b"content-type", b"authorization")


class Server(asyncio.Protocol):
    def __init__(self, http: HttpTransport, base: str) -> None:
        self._http = http
        self._base = base
        self._parser = httptools.HttpRequestParser(self)
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        if (name := name.lower()) in KEPT:
            self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        task = asyncio.get_running_loop().create_task(self._forward())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self) -> None:
        request = HttpRequest(
            method="POST", url=self._base + self._path, headers=tuple(self._headers), body=self._body
        )
        reply = await self._http.send(request, timeouts=TIMEOUTS)
        head = [b"HTTP/1.1 %d OK\r\n" % reply.status]
        for name, value in reply.headers:
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        if any(name == b"content-length" for name, _ in reply.headers):
            head.append(await reply.read())
            self._transport.write(b"".join(head))
            return
        self._transport.write(b"".join(head))
        async for chunk in reply.chunks():
            self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self._transport.write(b"0\r\n\r\n")


async def main(port: int, upstream: int) -> None:
    http = HttpTransport()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(http, f"http://127.0.0.1:{upstream}"), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
