"""The reports' API in the OpenAPI document: ``/api/v1/<report>`` answers what the page of that name shows."""

from typing import Any, Final

from farthing.server.pages.state import GRAINS
from farthing.server.pages.views import VIEWS

API: Final = "/api/v1"


def api_paths() -> dict[str, Any]:
    """Every report's path with the state it understands and what it answers."""
    return {f"{API}{_twin(view.name, view.address)}": _path(view.title, view.address) for view in VIEWS}


def _twin(name: str, address: str) -> str:
    return f"/{name}" if address == "/" else address


def _path(title: str, address: str) -> dict[str, Any]:
    text = {"type": "string", "maxLength": 2000}
    parameters: list[dict[str, Any]] = [
        _parameter("since", text, "From: 30d, 2026-11, 2026-11-21T14:00Z."),
        _parameter("until", text, "Up to, itself excluded."),
        _parameter("by", text, "Dimensions, with commas."),
        _parameter("grain", {"type": "string", "enum": list(GRAINS)}, "Slots of time."),
        _parameter("where", {"type": "array", "items": text, "maxItems": 12}, "name=value; all must hold."),
    ]
    if "{id}" in address:
        parameters = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
    answers = {"200": {"description": "The report", "content": {"application/json": {"schema": _REPORT}}}}
    later = "Still being worked out: ask again after Retry-After seconds"
    answers["202"] = {"description": later, "content": {"application/json": {"schema": _REPORT}}}
    answers |= {code: _error(why) for code, why in _ERRORS.items()}
    return {"get": {"summary": title, "parameters": parameters, "responses": answers}}


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _error(why: str) -> dict[str, Any]:
    return {
        "description": why,
        "content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}},
    }


_ERRORS: Final = {
    "400": "Something in the address is wrong; all of it is named",
    "401": "Sign in: HTTP Basic with name and password",
    "403": "Not for this role",
    "404": "Not there, or not within this person's scope",
    "503": "The ledger cannot be read",
}
_REPORT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["title", "figures", "tables", "notes"],
    "properties": {
        "title": {"type": "string"},
        "figures": {"type": "object"},
        "tables": {"type": "object", "description": "By id: title, rows, total and notes, money exact."},
        "notes": {"type": "array", "items": {"type": "string"}},
        "next": {
            "type": ["string", "null"],
            "description": "The query of the rest of a long list, for the same path; null: nothing is left.",
        },
    },
}
