"""Forms from elsewhere are refused (WTForms' session tokens), and every page carries its security headers."""

import secrets
from typing import Any, Final

from starlette.datastructures import FormData
from starlette.responses import Response
from wtforms import Form
from wtforms.csrf.session import SessionCSRF

from farthing.core.errors import Forbidden

FIELD: Final = "csrf_token"
_FIXED: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=()",
}


class _Guarded(Form):  # type: ignore[misc]  # WTForms ships no types
    class Meta:
        csrf = True
        csrf_class = SessionCSRF
        csrf_time_limit = None


def token(session: dict[str, Any], secret: bytes) -> str:
    """The token that this session's forms carry."""
    form = _Guarded(meta={"csrf_context": session, "csrf_secret": secret})
    return str(form.csrf_token.current_token)


def check_form(session: dict[str, Any], secret: bytes, data: FormData) -> None:
    """Raises ``Forbidden`` for a form that this session was not given."""
    form = _Guarded(data, meta={"csrf_context": session, "csrf_secret": secret})
    if not form.validate():
        raise Forbidden("This form is too old or came from elsewhere.", hint="Reload the page and send it again.")


def nonce() -> str:
    """For the one style element that a page has."""
    return secrets.token_urlsafe(16)


def secured(answer: Response, style_nonce: str = "") -> Response:
    """The answer with its headers: nothing from elsewhere, no inline script, no frame, no guessing of types."""
    style = f" 'nonce-{style_nonce}'" if style_nonce else ""
    policy = (
        "default-src 'none'; script-src 'self'; "
        f"style-src 'self'{style}; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    answer.headers["content-security-policy"] = policy
    for name, value in _FIXED.items():
        answer.headers[name] = value
    answer.headers.setdefault("cache-control", "no-store")
    return answer
