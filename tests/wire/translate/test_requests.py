"""Requests survive the way to another dialect and back, but for what is declared lost."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.core.errors import Untranslatable
from farthing.testing.conversations import comparable, conversations, same_json
from farthing.wire.canonical import Image, Refusal, Text, Thinking, ToolCall, ToolResult
from farthing.wire.translate.fields import Losses
from farthing.wire.translate.messages_write import call_id
from farthing.wire.translate.requests import READERS, WRITERS

CALLERS = ("chat", "responses", "messages")
ROUND_TRIP = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sent(conversation, form):
    """(the conversation as the dialect can say it, what it could not say)."""
    losses = Losses()
    written = WRITERS[form](conversation, losses)
    body = msgspec.json.decode(msgspec.json.encode(written))
    unsaid = Losses()
    read = READERS[form](body, unsaid)
    assert unsaid.names == (), "a reader must know all that its writer says"
    return read, set(losses.names)


@pytest.mark.parametrize("there", CALLERS)
@pytest.mark.parametrize("here", CALLERS)
@ROUND_TRIP
@given(data=st.data())
def test_a_request_comes_back_as_it_was_but_for_declared_losses(here, there, data):
    stops = 0 if "responses" in (here, there) else 4
    pictured = "chat" not in (here, there)
    original, _ = sent(data.draw(conversations(stops=stops, pictured_results=pictured)), here)
    abroad, lost = sent(original, there)
    back, lost_again = sent(abroad, here)
    losses = lost | lost_again
    assert comparable(back, losses) == comparable(original, losses)


@pytest.mark.parametrize("form", CALLERS)
@ROUND_TRIP
@given(data=st.data())
def test_a_dialect_says_its_own_requests_without_loss(form, data):
    stops = 0 if form == "responses" else 4
    original, _ = sent(data.draw(conversations(stops=stops)), form)
    again, lost = sent(original, form)
    assert lost <= {"max_tokens", "effort", "temperature", "top_k", "thinking_budget", "response_format.strict"}
    assert comparable(again, lost) == comparable(original, lost)


def test_stop_sequences_cannot_be_said_to_the_responses_api():
    conversation = READERS["chat"]({"model": "m", "messages": [], "stop": "x"}, Losses())
    with pytest.raises(Untranslatable, match="'stop'"):
        WRITERS["responses"](conversation, Losses())


# -- providers that no caller speaks: a reader of their bodies that shares nothing with the writer


def spoken(conversation, losses):
    """The turns as (side, what), neighbours of one side joined, without what was declared lost."""
    names = {
        part.id: part.name for turn in conversation.messages for part in turn.parts if isinstance(part, ToolCall)
    }
    found = []
    for turn in conversation.messages:
        side = "assistant" if turn.role == "assistant" else "user"
        said = [word for part in turn.parts for word in words(part, names, losses)]
        if said and found and found[-1][0] == side:
            found[-1][1].extend(said)
        elif said:
            found.append((side, said))
    return found


def words(part, names, losses):
    if isinstance(part, Text | Refusal):
        return [("text", part.text)]
    if isinstance(part, Image):
        return [("image", part.media_type, part.data)]
    if isinstance(part, ToolCall):
        return [("call", part.name, same_json(part.arguments))]
    if isinstance(part, ToolResult):
        inside = [word for one in part.parts for word in words(one, names, losses)]
        return [("result", names[part.call_id], part.is_error), *inside]
    assert isinstance(part, Thinking)
    if part.signer == "anthropic" and "messages.thinking" not in losses:
        return [("thinking", part.text, part.signature)]
    return []


def converse_words(block, names):
    ((kind, value),) = block.items()
    if kind == "text":
        return [("text", value)]
    if kind == "image":
        return [("image", f"image/{value['format']}", value["source"]["bytes"])]
    if kind == "toolUse":
        names[value["toolUseId"]] = value["name"]
        return [("call", value["name"], same_json(msgspec.json.encode(value["input"]).decode()))]
    if kind == "toolResult":
        nothing = value["content"] == [{"text": " "}]  # a result must say something
        inside = [word for one in value["content"] for word in converse_words(one, names) if not nothing]
        return [("result", names[value["toolUseId"]], value.get("status") == "error"), *inside]
    if kind == "reasoningContent":
        shown = value.get("reasoningText") or {"text": "", "signature": value.get("redactedContent")}
        return [("thinking", shown["text"], shown["signature"])]
    assert kind == "cachePoint"
    return []


@ROUND_TRIP
@given(data=st.data())
def test_converse_is_told_every_turn_in_its_order(data):
    conversation = data.draw(conversations(urls=False, pictured_results=True))
    losses = Losses()
    forbids = conversation.tool_choice is not None and conversation.tool_choice.mode == "none"
    if forbids and any(turn.role == "tool" for turn in conversation.messages):
        with pytest.raises(Untranslatable, match="'tool_choice'"):
            WRITERS["converse"](conversation, losses)
        return
    body = msgspec.json.decode(msgspec.json.encode(WRITERS["converse"](conversation, losses)))
    names = {}
    found = []
    for message in body["messages"]:
        said = [word for block in message["content"] for word in converse_words(block, names)]
        found.append((message["role"], said))
    assert [role for role, _ in found] == [("user", "assistant")[place % 2] for place in range(len(found))]
    lost = set(losses.names)
    expected = spoken(conversation, lost)
    if "messages.thinking" in lost:  # only some thoughts are unsigned
        found = [(side, [word for word in said if word[0] != "thinking"]) for side, said in found]
    assert found == expected
    marks = msgspec.json.encode(body).count(b'"cachePoint"')
    parts = [part for turn in conversation.messages for part in turn.parts]
    inside = [one for part in parts if isinstance(part, ToolResult) for one in part.parts]
    tools = [] if "toolConfig" not in body else conversation.tools
    assert marks == sum(bool(getattr(one, "cache", "")) for one in (*conversation.system, *tools, *parts, *inside))
    config = body.get("inferenceConfig") or {}
    assert config.get("stopSequences", []) == list(conversation.stop)
    if "max_tokens" not in lost:
        assert config.get("maxTokens") == conversation.max_tokens
    assert len(conversation.tools) == sum(
        "toolSpec" in one for one in body.get("toolConfig", {}).get("tools", [])
    ) or (conversation.tool_choice.mode == "none")


@ROUND_TRIP
@given(data=st.data())
def test_gemini_is_told_every_turn_in_its_order(data):
    conversation = data.draw(conversations(urls=False))
    losses = Losses()
    body = msgspec.json.decode(msgspec.json.encode(WRITERS["gemini"](conversation, losses)))
    found = []
    for content in body["contents"]:
        said = []
        for part in content["parts"]:
            if "functionCall" in part:
                call = part["functionCall"]
                said.append(("call", call["name"], same_json(msgspec.json.encode(call["args"]).decode())))
            elif "functionResponse" in part:
                ((kind, text),) = part["functionResponse"]["response"].items()
                said.append(("result", part["functionResponse"]["name"], kind == "error"))
                said += [("text", one) for one in [text] if one]
            elif "inlineData" in part:
                said.append(("image", part["inlineData"]["mimeType"], part["inlineData"]["data"]))
            else:
                said.append(("text", part["text"]))
        found.append(({"model": "assistant"}.get(content["role"], "user"), said))
    assert found == joined_results(spoken(conversation, {"messages.thinking"}), conversation)
    config = body.get("generationConfig") or {}
    for name, key in (("seed", "seed"), ("top_k", "topK"), ("max_tokens", "maxOutputTokens"), ("top_p", "topP")):
        assert config.get(key) == getattr(conversation, name)


def joined_results(turns, conversation):
    """A result's texts as one, as Gemini takes them."""
    results = [part for turn in conversation.messages for part in turn.parts if isinstance(part, ToolResult)]
    wanted = iter("\n".join(one.text for one in part.parts) for part in results)
    sizes = iter(len(part.parts) for part in results)
    found = []
    for side, said in turns:
        kept, skip = [], 0
        for word in said:
            if skip:
                skip -= 1
                continue
            kept.append(word)
            if word[0] == "result":
                skip = next(sizes)
                text = next(wanted)
                kept += [("text", text)] if text else []
        found.append((side, kept))
    return found


def test_ids_that_anthropic_and_amazon_refuse_are_told_the_same_way_in_call_and_result():
    body = {
        "model": "m",
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [{"id": "functions.x:0", "function": {"name": "x", "arguments": ""}}],
            },
            {"role": "tool", "tool_call_id": "functions.x:0", "content": "r"},
        ],
    }
    written = WRITERS["messages"](READERS["chat"](body, Losses()), Losses())
    call, result = written["messages"][0]["content"][0], written["messages"][1]["content"][0]
    assert call["id"] == result["tool_use_id"] == call_id("functions.x:0")
    assert call["id"].replace("_", "").isalnum()
