"""uvicorn, a plain ASGI application, httpx as the client. Usage: httpx_app.py PORT UPSTREAM_PORT"""

import sys

from uvicorn_plain import PassThrough, serve

from farthing.adapters.http import LibraryTransport

if __name__ == "__main__":
    serve(PassThrough(LibraryTransport(), int(sys.argv[2])), int(sys.argv[1]))
