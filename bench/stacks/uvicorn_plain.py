"""uvicorn (httptools, uvloop), a plain ASGI application, our client. Usage: uvicorn_plain.py PORT UPSTREAM_PORT"""

import sys

import uvicorn

from farthing.adapters.http import HttpTransport
from farthing.ports.provider import HttpRequest, Timeouts, Transport

TIMEOUTS = Timeouts()


class PassThrough:
    """Forwards every POST."""

    def __init__(self, transport: Transport, upstream: int) -> None:
        self._transport = transport
        self._base = f"http://127.0.0.1:{upstream}"

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        parts = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        kept = (b"content-type", b"authorization")
        request = HttpRequest(
            method="POST",
            url=self._base + scope["path"],
            headers=tuple((name, value) for name, value in scope["headers"] if name in kept),
            body=b"".join(parts),
        )
        reply = await self._transport.send(request, timeouts=TIMEOUTS)
        try:
            await self._answer(reply, send)
        finally:
            reply.close()

    async def _answer(self, reply, send) -> None:
        sized = any(name == b"content-length" for name, _ in reply.headers)
        headers = [header for header in reply.headers if header[0] != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if sized:
            await send({"type": "http.response.body", "body": await reply.read()})
            return
        async for chunk in reply.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def serve(app: object, port: int) -> None:
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    serve(PassThrough(HttpTransport(), int(sys.argv[2])), int(sys.argv[1]))
