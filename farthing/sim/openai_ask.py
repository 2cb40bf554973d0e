"""What an OpenAI request asks of the model: caps, stops, tools, schema and reasoning effort."""

from typing import Any

from farthing.sim.admission import Ticket, positive
from farthing.sim.answer import EFFORT, Ask, answer_seed, pick_tools
from farthing.sim.errors import invalid
from farthing.sim.prompt import Prompt

OPEN_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}, "confidence": {"type": "number"}}}


def cap_of(ticket: Ticket, prompt_tokens: int, *names: str) -> tuple[int, int]:
    """(tokens the answer may have, the cap the caller set or 0); raises a 400 when the prompt is too long."""
    card = ticket.card
    asked = next((value for name in names if (value := positive(ticket.body, name)) is not None), 0)
    room = card.context - prompt_tokens
    if room < 1:
        raise invalid(
            f"This model's maximum context length is {card.context} tokens. However, your messages resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    if asked > card.output_max:
        raise invalid(
            f"max_tokens is too large: {asked}. This model supports at most {card.output_max} completion tokens.",
            param=names[0],
        )
    return min(asked or card.output_max, room), asked


def stops_of(body: dict[str, Any]) -> tuple[str, ...]:
    """Stop sequences, at most 4."""
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else (stop or [])
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(item, str) for item in stops):
        raise invalid("Invalid 'stop': expected a string or an array of at most 4 strings.", param="stop")
    return tuple(stops)


def schema_of(body: dict[str, Any]) -> Any:
    """The JSON schema of the answer (chat ``response_format`` or Responses ``text.format``); None: prose."""
    wanted = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    kind = wanted.get("type", "text") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return OPEN_OBJECT
    if kind == "json_schema":
        return (wanted.get("json_schema") or wanted).get("schema") or OPEN_OBJECT
    raise invalid(f"Invalid value: {kind!r} for response_format.type.", param="response_format.type")


def tools_of(ticket: Ticket, prompt: Prompt, digest: bytes) -> tuple[tuple[str, Any], ...]:
    """The tool calls of this answer as (name, argument schema); empty: the model answers in words.

    ``auto`` calls a tool unless the last turn is a tool's result; with several tools and parallel calls allowed,
    about a third of the answers make two calls. ``x-sim-tools: N`` asks for exactly N.
    """
    body = ticket.body
    found = [_function(tool) for tool in body.get("tools") or () if tool.get("type") == "function"]
    choice = body.get("tool_choice") or "auto"
    if not found or choice == "none":
        return ()
    if isinstance(choice, dict):
        name = (choice.get("function") or choice).get("name")
        found = [tool for tool in found if tool[0] == name]
        if not found:
            raise invalid(f"Tool choice {name!r} is not one of the tools.", param="tool_choice")
    elif choice == "auto" and prompt.after_tool:
        return ()
    return pick_tools(found, ticket.number("tools"), body.get("parallel_tool_calls") is not False, digest)


def _function(tool: dict[str, Any]) -> tuple[str, Any]:
    function = tool.get("function") or tool
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise invalid("Missing required parameter: 'tools[].function.name'.", param="tools")
    return name, function.get("parameters") or {"type": "object", "properties": {}}


def effort_of(ticket: Ticket) -> str:
    """Reasoning effort; ``medium`` unless asked otherwise, ``none`` for models that do not reason."""
    if not ticket.card.reasoning:
        return "none"
    body = ticket.body
    effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort") or "medium"
    effort = ticket.directives.get("effort", effort)
    if effort not in EFFORT:
        raise invalid(
            f"Invalid value: {effort!r}. Supported values are {', '.join(EFFORT)}.", param="reasoning_effort"
        )
    return str(effort)


def ask_of(ticket: Ticket, prompt: Prompt, prompt_tokens: int, cap: int, seed: int, choice: int = 0) -> Ask:
    """The ask of the ``choice``-th answer."""
    nonce = ticket.directives.get("nonce", "")
    worse = ticket.fault_is("worse")
    extra = ("worse",) if worse else ()
    digest = answer_seed(prompt.digest(), ticket.card, seed, ticket.body.get("seed"), nonce, choice, *extra)
    tools = tools_of(ticket, prompt, digest)
    return Ask(
        digest=digest,
        ask=prompt.ask,
        prompt_tokens=prompt_tokens,
        cap=cap,
        stops=stops_of(ticket.body),
        tools=tools,
        schema=None if tools or worse else schema_of(ticket.body),
        effort=effort_of(ticket),
        say="" if worse else ticket.directives.get("say", ""),
        exact_tokens=ticket.number("tokens"),
    )
