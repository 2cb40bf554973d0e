"""How each feature's requests look: the providers' official shapes, written by hand."""

import base64
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from random import Random
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from farthing.sim.prose import paragraphs

Json = dict[str, Any]

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"

_ROUTING_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "queue": {"type": "string", "enum": ["billing", "delivery", "returns", "other"]},
        "urgent": {"type": "boolean"},
        "reason": {"type": "string"},
    },
    "required": ["queue", "urgent", "reason"],
    "additionalProperties": False,
}
_RANK_SCHEMA: Final = {
    "type": "object",
    "properties": {"order": {"type": "array", "items": {"type": "integer"}}},
    "required": ["order"],
    "additionalProperties": False,
}
_LOOKUP: Final = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}, "detail": {"type": "string"}},
    "required": ["order_id"],
}


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request's path and body."""

    dialect: Literal["openai", "anthropic"]
    path: str
    body: Json

    @property
    def stream(self) -> bool:
        """The answer comes in events."""
        return self.body.get("stream") is True


@lru_cache(maxsize=64)
def shared_text(name: str, tokens: int) -> str:
    """A text that many calls share: system prompts and documents, about ``tokens`` long."""
    return f"You are the {name} of the demo company.\n\n{paragraphs(Random(name), tokens)}"


@lru_cache(maxsize=8)
def picture(width: int, height: int) -> str:
    """A grey PNG of that size as base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\xc8" * width) * height, 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")).decode()


def _said(random: Random, low: int, high: int) -> str:
    return paragraphs(random, random.randint(low, high))


def assistant(random: Random, model: str, user: str) -> Ask:
    """Support chat: a long system prompt that the provider caches by itself, two to five turns, mostly streamed."""
    messages: list[Json] = [{"role": "system", "content": shared_text("support assistant", 1_150)}]
    for _ in range(random.randint(0, 2)):
        messages.append({"role": "user", "content": _said(random, 15, 60)})
        messages.append({"role": "assistant", "content": _said(random, 30, 90)})
    messages.append({"role": "user", "content": _said(random, 15, 70)})
    body: Json = {"model": model, "messages": messages, "user": user, "max_tokens": 700}
    if random.random() < 0.8:
        body["stream"] = True
        if random.random() < 0.4:
            body["stream_options"] = {"include_usage": True}
    return Ask(dialect="openai", path=CHAT, body=body)


def _marked(text: str, ttl: str = "5m") -> Json:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}


def summary(random: Random, model: str, user: str) -> Ask:
    """Ticket summaries: Anthropic's five-minute cache on the instructions."""
    body: Json = {
        "model": model,
        "max_tokens": 500,
        "system": [_marked(shared_text("ticket summariser", 1_300))],
        "messages": [{"role": "user", "content": "Summarise briefly:\n" + _said(random, 150, 600)}],
        "metadata": {"user_id": user},
    }
    if random.random() < 0.5:
        body["stream"] = True
    return Ask(dialect="anthropic", path=MESSAGES, body=body)


def routing(random: Random, model: str, user: str) -> Ask:
    """Structured output, or a tool call and its result."""
    messages: list[Json] = [
        {"role": "system", "content": shared_text("ticket router", 400)},
        {"role": "user", "content": _said(random, 60, 250)},
    ]
    body: Json = {"model": model, "messages": messages, "user": user, "max_completion_tokens": 400}
    if random.random() < 0.5:
        schema = {"name": "route", "strict": True, "schema": _ROUTING_SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return Ask(dialect="openai", path=CHAT, body=body)
    names = ("find_order", "find_customer")
    body["tools"] = [{"type": "function", "function": {"name": name, "parameters": _LOOKUP}} for name in names]
    if random.random() < 0.5:
        call = {
            "id": "call_demo",
            "type": "function",
            "function": {"name": names[0], "arguments": '{"order_id":"7"}'},
        }
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": "call_demo", "content": _said(random, 40, 120)})
    return Ask(dialect="openai", path=CHAT, body=body)


def answer(random: Random, model: str, user: str) -> Ask:
    """Search answers: found passages in the prompt, streamed."""
    found = "\n\n".join(shared_text(f"passage {random.randint(1, 40)}", 220) for _ in range(random.randint(3, 8)))
    messages = [
        {"role": "system", "content": "Answer from the passages only.\n\n" + found},
        {"role": "user", "content": _said(random, 10, 30)},
    ]
    body: Json = {"model": model, "messages": messages, "user": user, "stream": random.random() < 0.85}
    return Ask(dialect="openai", path=CHAT, body=body)


def rerank(random: Random, model: str, user: str) -> Ask:
    """Ranking with a small model: many short structured answers."""
    schema = {"name": "rank", "strict": True, "schema": _RANK_SCHEMA}
    messages = [{"role": "user", "content": "Rank these:\n" + _said(random, 200, 500)}]
    body: Json = {
        "model": model,
        "messages": messages,
        "user": user,
        "max_tokens": 200,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    return Ask(dialect="openai", path=CHAT, body=body)


def embedding(random: Random, model: str, user: str) -> Ask:
    """One query."""
    return Ask(
        dialect="openai",
        path=EMBEDDINGS,
        body={"model": model, "input": _said(random, 8, 30), "dimensions": 256, "encoding_format": "base64"},
    )


def index(random: Random, model: str, user: str) -> Ask:
    """The night's batch: many passages in one call."""
    texts = [_said(random, 40, 90) for _ in range(random.randint(4, 10))]
    body: Json = {"model": model, "input": texts, "dimensions": 256, "encoding_format": "base64"}
    return Ask(dialect="openai", path=EMBEDDINGS, body=body)


def copy(random: Random, model: str, user: str) -> Ask:
    """Several variants at once; some on the fast, dearer tier."""
    messages = [
        {"role": "system", "content": shared_text("copywriter", 300)},
        {"role": "user", "content": "Write an advert, concise: " + _said(random, 20, 60)},
    ]
    body: Json = {
        "model": model,
        "messages": messages,
        "user": user,
        "max_tokens": 250,
        "n": random.choice((1, 2, 3)),
    }
    if random.random() < 0.25:
        body["service_tier"] = "priority"
    return Ask(dialect="openai", path=CHAT, body=body)


def draft(random: Random, model: str, user: str) -> Ask:
    """E-mails: cached instructions, streamed."""
    body: Json = {
        "model": model,
        "max_tokens": 350,
        "system": [_marked(shared_text("newsletter editor", 1_200))],
        "messages": [{"role": "user", "content": "Draft an e-mail: " + _said(random, 20, 80)}],
        "metadata": {"user_id": user},
        "stream": True,
    }
    return Ask(dialect="anthropic", path=MESSAGES, body=body)


def banner(random: Random, model: str, user: str) -> Ask:
    """A picture and a question."""
    size = random.choice(((512, 512), (1024, 512), (1200, 628)))
    url = f"data:image/png;base64,{picture(*size)}"
    content = [
        {"type": "text", "text": "Is the text on this banner readable? Answer briefly."},
        {"type": "image_url", "image_url": {"url": url, "detail": random.choice(("low", "high"))}},
    ]
    body: Json = {"model": model, "messages": [{"role": "user", "content": content}], "user": user, "max_tokens": 200}
    return Ask(dialect="openai", path=CHAT, body=body)


def paper(random: Random, model: str, user: str) -> Ask:
    """Questions to one of a few long papers: one-hour cache on the paper, five minutes on the notes."""
    number = random.choice((1, 1, 1, 2, 2, 3))
    body: Json = {
        "model": model,
        "max_tokens": 900,
        "system": [
            _marked(shared_text(f"reader of paper {number}", 2_400), "1h"),
            _marked(shared_text(f"keeper of notes {number}", 500)),
        ],
        "messages": [{"role": "user", "content": _said(random, 15, 50)}],
        "metadata": {"user_id": user},
    }
    if random.random() < 0.2:
        body["inference_geo"] = "us"
    if random.random() < 0.4:
        body["stream"] = True
    return Ask(dialect="anthropic", path=MESSAGES, body=body)


def length(random: Random, model: str, user: str) -> Ask:
    """A free count of tokens."""
    return Ask(
        dialect="anthropic",
        path=COUNT_TOKENS,
        body={"model": model, "messages": [{"role": "user", "content": _said(random, 100, 900)}]},
    )


def experiment(random: Random, model: str, user: str) -> Ask:
    """Hidden reasoning, on the slow and cheap tier at times."""
    effort = random.choice(("low", "medium", "high"))
    body: Json = {
        "model": random.choice((model, model, "gpt-5")),
        "messages": [{"role": "user", "content": "Think step by step. " + _said(random, 60, 300)}],
        "user": user,
        "reasoning_effort": effort,
        "max_completion_tokens": 4_000,
    }
    if random.random() < 0.5:
        body["service_tier"] = "flex"
    return Ask(dialect="openai", path=CHAT, body=body)


def review(random: Random, model: str, user: str) -> Ask:
    """The Responses API: instructions, tools, streaming, reasoning."""
    name = "open_file"
    parameters = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    body: Json = {
        "model": random.choice((model, model, "gpt-5.4-mini", "gpt-5.6-luna")),
        "instructions": shared_text("code reviewer", 1_100),
        "input": [{"role": "user", "content": [{"type": "input_text", "text": _said(random, 150, 700)}]}],
        "max_output_tokens": 1_500,
        "reasoning": {"effort": random.choice(("minimal", "low", "medium"))},
        "user": user,
        "metadata": {"repository": random.choice(("gateway", "website", "mobile"))},
        "stream": random.random() < 0.6,
    }
    if random.random() < 0.3:
        body["tools"] = [{"type": "function", "name": name, "parameters": parameters}]
    return Ask(dialect="openai", path=RESPONSES, body=body)


def commit(random: Random, model: str, user: str) -> Ask:
    """The legacy completions endpoint."""
    body: Json = {
        "model": model,
        "prompt": "Commit message: " + _said(random, 40, 200),
        "max_tokens": 60,
        "user": user,
    }
    if random.random() < 0.3:
        body["stream"] = True
    return Ask(dialect="openai", path=COMPLETIONS, body=body)


def incident(random: Random, model: str, user: str) -> Ask:
    """A large model that thinks before it answers."""
    body: Json = {
        "model": model,
        "max_tokens": 2_000,
        "thinking": {"type": "enabled", "budget_tokens": 1_024},
        "messages": [{"role": "user", "content": "What happened here?\n" + _said(random, 200, 700)}],
        "metadata": {"user_id": user},
    }
    return Ask(dialect="anthropic", path=MESSAGES, body=body)


def agent(random: Random, model: str, user: str) -> Ask:
    """Always the same call: the answer is cut at its cap, so the agent cannot parse it and asks again."""
    messages = [
        {"role": "system", "content": shared_text("triage agent", 1_500)},
        {"role": "user", "content": "Triage everything that is open and explain each step in detail."},
    ]
    return Ask(
        dialect="openai",
        path=CHAT,
        body={"model": model, "messages": messages, "user": user, "max_tokens": 300},
    )


def oversized(random: Random, model: str, user: str) -> Ask:
    """A whole book in one prompt: past the limit on a single request."""
    body: Json = {
        "model": model,
        "max_tokens": 900,
        "messages": [{"role": "user", "content": "Explain this book:\n" + paragraphs(random, 11_000)}],
        "metadata": {"user_id": user},
    }
    return Ask(dialect="anthropic", path=MESSAGES, body=body)


Recipe = Callable[[Random, str, str], Ask]
RECIPES: Final = MappingProxyType[str, Recipe](
    {
        recipe.__name__: recipe
        for recipe in (
            assistant, summary, routing, answer, rerank, embedding, index, copy, draft, banner, paper, length,
            experiment, review, commit, incident, agent, oversized,
        )
    }
)  # fmt: skip
