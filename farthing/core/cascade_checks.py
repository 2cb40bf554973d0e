"""Checks of an answer that need no model, and the form in which two answers are compared."""

import ast
import json
import re
from collections.abc import Mapping

import msgspec

from farthing.core.json_schema import schema_problem

_FENCE = re.compile(r"```([\w+-]*)[ \t]*\n(.*?)```", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_FINAL = re.compile(r"(?:^|\n)\W*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:=]\s*(.+?)\s*$", re.IGNORECASE)
_CODE_PYTHON = ("py", "python", "python3")
_SHORT_CHARS = 200
_TEXT_MAX = 200_000


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One model's answer, as far as a cascade looks at it."""

    model: str
    text: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()
    """(name, arguments as JSON text)."""
    finish: str = "stop"
    logprob: float | None = None
    """Mean log probability per token, when the provider returned them."""


def deterministic(
    check: str, answer: Answer, *, schema: str = "", pattern: str = "", tools: tuple[tuple[str, str], ...] = ()
) -> str:
    """What is wrong with the answer, in words; empty when the check passes or has nothing to look at."""
    if check == "json":
        return _json_problem(answer.text)
    if check == "json_schema":
        return _schema_problem(answer.text, schema)
    if check == "regex":
        return "" if re.search(pattern, answer.text[:_TEXT_MAX]) else "does not match the pattern"
    if check == "tool_arguments":
        return _tool_problem(answer.tool_calls, dict(tools))
    if check == "code":
        return _code_problem(answer.text)
    return ""


def comparable(answer: Answer) -> str:
    """The answer in a form that equal answers share; empty when there is nothing to compare.

    Tool calls by name and normalised arguments; JSON and Python literals by value; a stated final answer alone;
    numbers by value (``1,200.0`` is ``1200``); short texts by their words. Long free text compares as nothing: two
    wordings of one thought would never agree.
    """
    if answer.tool_calls:
        calls = sorted(f"{name}({_canonical_json(arguments)})" for name, arguments in answer.tool_calls)
        return "tools:" + ";".join(calls)
    text = _final(answer.text)
    if not text:
        return ""
    value = _value(text)
    if value is not None:
        return "value:" + value
    return "text:" + re.sub(r"\W+", " ", text.casefold()).strip() if len(text) <= _SHORT_CHARS else ""


def _final(text: str) -> str:
    text = text.strip()
    boxed = _BOXED.findall(text)
    if boxed:
        return str(boxed[-1]).strip()
    stated = _FINAL.search(text)
    if stated:
        return stated[1].strip().strip("*`").strip()
    fenced = _FENCE.findall(text)
    return fenced[0][1].strip() if len(fenced) == 1 and text.startswith("```") else text


def _value(text: str) -> str | None:
    """A number, JSON or literal as canonical text; None when it is none of them."""
    plain = (
        text.replace(",", "").lstrip("$€£").rstrip(".%") if re.fullmatch(r"[$€£]?-?[\d,]*\.?\d+\.?%?", text) else text
    )
    try:
        number = float(plain)
    except ValueError:
        pass
    else:
        if number == number and abs(number) < 1e15:
            return repr(int(number)) if number == int(number) else repr(round(number, 9))
    if text[:1] not in "[{(\"'" and text not in ("true", "false", "null", "True", "False", "None"):
        return None
    for reader in (json.loads, ast.literal_eval):
        try:
            return json.dumps(reader(text), sort_keys=True, default=repr, separators=(",", ":"))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return None


def _canonical_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return text


def _json_problem(text: str) -> str:
    try:
        msgspec.json.decode(_unfenced(text).encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    return ""


def _unfenced(text: str) -> str:
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[2] if fenced else text


def _schema_problem(text: str, schema: str) -> str:
    problem = _json_problem(text)
    if problem or not schema:
        return problem
    return schema_problem(json.loads(_unfenced(text)), json.loads(schema))


def _tool_problem(calls: tuple[tuple[str, str], ...], schemas: Mapping[str, str]) -> str:
    for name, arguments in calls:
        if name not in schemas:
            return f"calls '{name}', which is no tool of the request"
        try:
            value = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return f"the arguments of '{name}' are not JSON"
        problem = schema_problem(value, json.loads(schemas[name] or "{}"))
        if problem:
            return f"the arguments of '{name}' {problem}"
    return ""


def _code_problem(text: str) -> str:
    """Python and JSON blocks must parse; other languages are not judged. An answer without code has a problem."""
    blocks = _FENCE.findall(text)
    if not blocks:
        return "holds no code block"
    for language, code in blocks:
        try:
            if language.lower() in _CODE_PYTHON:
                ast.parse(code)
            elif language.lower() == "json":
                json.loads(code)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            return f"a {language} block does not compile: {error}"
    return ""
