"""The files that pages load: our style and scripts, and Plotly's own script out of its wheel."""

import hashlib
import re
from functools import cache
from importlib import resources
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpAsk
from starlette.responses import PlainTextResponse, Response

from farthing.server.pages.guard import secured

_OURS: Final = {
    "style.css": "text/css; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PLOTLY: Final = "plotly.min.js"


@cache
def content(name: str) -> tuple[bytes, str, str]:
    """(bytes, media type, tag of the content). Raises ``KeyError`` for files that are none of ours."""
    if name == _PLOTLY:
        body = (resources.files("plotly") / "package_data" / _PLOTLY).read_bytes()
        return body, "text/javascript; charset=utf-8", hashlib.sha256(body).hexdigest()[:16]
    kind = _OURS[name]
    body = (resources.files("farthing.server.pages") / "static" / name).read_bytes()
    return body, kind, hashlib.sha256(body).hexdigest()[:16]


@cache
def own_styles() -> tuple[str, ...]:
    """Ids of style elements that Plotly's script would add by itself, which the page's policy forbids.

    An element that is there already is left alone: the page brings them empty. They are for maps, which no page has.
    """
    found = re.findall(rb'document\.getElementById\("([0-9a-f]{40,64})"\)', content(_PLOTLY)[0])
    return tuple(sorted({one.decode() for one in found}))


def address(name: str) -> str:
    """Where pages load a file from; it changes with the content, so that it may be kept for a year."""
    return f"/static/{name}?v={content(name)[2]}"


async def static(ask: HttpAsk) -> Response:
    """One file."""
    try:
        body, kind, tag = await run_in_threadpool(content, ask.path_params["name"])
    except KeyError:
        return secured(PlainTextResponse("There is no such file.", 404))
    headers = {"etag": f'"{tag}"', "cache-control": "public, max-age=3600"}
    if ask.query_params.get("v") == tag:
        headers["cache-control"] = "public, max-age=31536000, immutable"
    if ask.headers.get("if-none-match") == headers["etag"]:
        return secured(Response(status_code=304, headers=headers))
    return secured(Response(body, media_type=kind, headers=headers))
