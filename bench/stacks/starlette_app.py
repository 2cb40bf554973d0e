"""uvicorn, starlette, our client. Usage: starlette_app.py PORT UPSTREAM_PORT"""

import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from uvicorn_plain import TIMEOUTS, serve

from farthing.adapters.http import HttpTransport
from farthing.ports.provider import HttpRequest

TRANSPORT = HttpTransport()
BASE = f"http://127.0.0.1:{sys.argv[2]}"


async def forward(request: Request) -> Response:
    outgoing = HttpRequest(
        method="POST",
        url=BASE + request.url.path,
        headers=(
            (b"content-type", request.headers["content-type"].encode()),
            (b"authorization", request.headers["authorization"].encode()),
        ),
        body=await request.body(),
    )
    reply = await TRANSPORT.send(outgoing, timeouts=TIMEOUTS)
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    if "content-length" in headers:
        return Response(await reply.read(), reply.status, headers)
    del headers["transfer-encoding"]
    return StreamingResponse(reply.chunks(), reply.status, headers)


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/v1/chat/completions", forward, methods=["POST"])]), int(sys.argv[1]))
