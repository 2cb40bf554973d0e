"""OpenTelemetry's spans (OTLP JSON) as flat rows: each token once, whatever spans repeat it."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from farthing.lab.traces_cells import BadRow, Flat, Json, attributes, either, nano, number, records, table

_AGENTS: Final = frozenset({"invoke_agent", "create_agent", "invoke_workflow"})
"""Their usage is that of the calls inside them, where those tell theirs; remote agents' stand for themselves."""
_INPUT: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT: Final = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_CACHED: Final = (
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_read_input_tokens",
    "llm.token_count.prompt_details.cache_read",
)
_WRITTEN: Final = (
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.cache_creation_input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "llm.token_count.prompt_details.cache_write",
)

_ERROR: Final = ("2", "STATUS_CODE_ERROR", "ERROR", "Error")
"""The status of a failed span: a number by the specification, a name where protobuf's own JSON is written."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of one span."""

    line: int
    key: tuple[str, str]
    """Trace and span."""
    parent: tuple[str, str]
    agent: bool
    row: Flat | None
    """None: it tells no usage, or runs a tool."""


def spans(line: int, resource: Json) -> Iterator[Span | BadRow]:
    """The spans of one ``resourceSpans``; one whose counts are none is told apart and takes no other with it."""
    service = attributes(table(resource.get("resource")).get("attributes")).get("service.name")
    for scope in records(resource.get("scopeSpans")):
        for span in records(scope.get("spans")):
            try:
                yield _span(line, span, service)
            except (ValueError, TypeError) as error:
                name = f"span {str(span.get('spanId'))[:40]}: {error}"
                yield BadRow(line=line, reason=name, content=str(span)[:500])


def _span(line: int, span: Json, service: object) -> Span:
    said = attributes(span.get("attributes"))
    trace, doing = str(span.get("traceId")), said.get("gen_ai.operation.name")
    spent = either(said, *_INPUT) is not None and doing != "execute_tool"
    return Span(
        line=line,
        key=(trace, str(span.get("spanId"))),
        parent=(trace, str(span.get("parentSpanId") or "")),
        agent=doing in _AGENTS,
        row=_row(span, said, service) if spent else None,
    )


def counted(found: Iterable[Span]) -> Iterator[tuple[int, Flat]]:
    """(line, row) of the spans that count, in file order.

    Calls of models do; agents only in traces without any, and of those the innermost that tell their usage.
    """
    every = {one.key: one for one in found}
    calls = {one.key[0] for one in every.values() if one.row is not None and not one.agent}
    telling = [one for one in every.values() if one.row is not None and (not one.agent or one.key[0] not in calls)]
    above = {key for one in telling for key in _above(one, every)}
    yield from ((one.line, one.row) for one in telling if one.row and not (one.agent and one.key in above))


def _above(one: Span, every: dict[tuple[str, str], Span]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    at = one.parent
    while at in every and at not in found:
        found.add(at)
        at = every[at].parent
    return found


def _row(span: Json, said: Json, service: object) -> Flat:
    return {
        "id": f"{span.get('traceId')}-{span.get('spanId')}",
        "time": nano(span.get("startTimeUnixNano")),
        "until": nano(span.get("endTimeUnixNano")),
        "model": either(said, "gen_ai.response.model", "gen_ai.request.model", "llm.model_name"),
        "provider": either(said, "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system"),
        "input": either(said, *_INPUT),
        "cached": either(said, *_CACHED),
        "written_5m": either(said, *_WRITTEN),
        "output": number(either(said, *_OUTPUT)),
        "cost": either(said, "gen_ai.usage.cost", "gen_ai.cost.total", "llm.cost.total"),
        "project": service,
        "user": either(said, "user.id", "enduser.id"),
        "session": either(said, "session.id", "gen_ai.conversation.id"),
        "tag:trace": span.get("traceId"),
        "tag:span": span.get("parentSpanId"),
        "tag:agent": either(said, "gen_ai.agent.name", "gen_ai.agent.id"),
        "failed": str(table(span.get("status")).get("code")) in _ERROR,
    }
