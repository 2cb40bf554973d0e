"""Reading a body's fields with their places, so that whatever is wrong or untranslatable is named where it stands."""

from collections.abc import Collection, Mapping

import msgspec

from farthing.core.errors import BadRequest, Untranslatable

Fields = dict[str, object]


class Losses:
    """The fields a translation could not carry, each named once, in the order met."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, name: str) -> None:
        """``name`` is dropped or only approximated."""
        self._names[name] = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._names)


def refuse(field: str, why: str, hint: str = "") -> Untranslatable:
    """The error for a field that the other API has no words for and that must not be dropped."""
    return Untranslatable(
        f"'{field}' cannot be translated to the API of the provider that serves this model: {why}.",
        hint=hint or f"Leave '{field}' out, or ask for a model of a provider that speaks the API of this request.",
        param=field,
    )


def parse(body: bytes) -> Fields:
    """The body as an object. Raises :class:`BadRequest`."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.") from None
    return obj(value, "body")


def obj(value: object, where: str) -> Fields:
    """An object. Raises :class:`BadRequest` that names ``where``."""
    if not isinstance(value, dict):
        raise BadRequest(f"'{where}' must be an object.", param=where)
    return value


def items(value: object, where: str) -> list[object]:
    """A list; null counts as empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"'{where}' must be a list.", param=where)
    return value


def text(value: object, where: str) -> str:
    """A string; null counts as empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"'{where}' must be a string.", param=where)
    return value


def whole(value: object, where: str) -> int | None:
    """A whole number or nothing."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"'{where}' must be a whole number.", param=where)
    return value


def number(value: object, where: str) -> float | None:
    """A number or nothing."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadRequest(f"'{where}' must be a number.", param=where)
    return float(value)


def flag(value: object, where: str) -> bool | None:
    """True, false or nothing."""
    if value is None or isinstance(value, bool):
        return value
    raise BadRequest(f"'{where}' must be true or false.", param=where)


def sift(fields: Mapping[str, object], known: Collection[str], losses: Losses, place: str) -> None:
    """Declares what a nested object says beyond ``known``; ``place`` is its path without indexes."""
    for name, value in fields.items():
        if name not in known and value is not None:
            losses.add(f"{place}.{name}")


def sift_top(
    fields: Mapping[str, object],
    known: Collection[str],
    lost: Collection[str],
    refused: Mapping[str, str],
    losses: Losses,
) -> None:
    """Declares the top-level fields that are only hints (``lost``); refuses those that change what is asked.

    Raises :class:`Untranslatable` for ``refused`` and for every field that nobody here has heard of.
    """
    for name, value in fields.items():
        if name in known or value is None or value == [] or value == {}:
            continue
        if name in lost:
            losses.add(name)
        else:
            raise refuse(name, refused.get(name, "it has no counterpart there"))


def dumps(value: object) -> bytes:
    """JSON. Raises :class:`BadRequest` for numbers that no JSON writer takes."""
    try:
        return msgspec.json.encode(value)
    except (OverflowError, ValueError, RecursionError) as error:
        raise BadRequest(f"The body holds a value that cannot be written again: {error}.") from None


def arguments_object(arguments: str, where: str) -> msgspec.Raw:
    """Arguments said as text, as the object that other APIs want. Raises :class:`BadRequest`."""
    given = arguments.strip() or "{}"
    try:
        value = msgspec.json.decode(given)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"'{where}' must be a JSON object as text.", param=where)
    return msgspec.Raw(given.encode("utf-8", "replace"))


def without_nulls(fields: Fields) -> Fields:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value is not None}
