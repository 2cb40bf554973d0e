"""The failures a provider answers with, before a dialect gives them their JSON shape."""


class ApiError(Exception):
    """One refused call: ``status`` is HTTP's, ``kind`` and ``code`` are the dialect-neutral names of the cause."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


class ConnectionDropped(ConnectionResetError):
    """Raised instead of closing the socket when the ASGI server gives no access to its transport."""
