"""What a body shows of an agent's loop: the tool calls it answers, and how long no human has spoken."""

import json

import pytest

from farthing.wire.turns import turns_of

HUMAN = {"role": "user", "content": "Hi"}
MODEL = {"role": "assistant", "content": "…", "tool_calls": [{"id": "1"}]}
TOOL = {"role": "tool", "tool_call_id": "1", "content": "42"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}] * 2}
BLOCKS = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "42"}
THOUGHT = {"type": "reasoning", "summary": []}


@pytest.mark.parametrize(
    ("body", "tool_calls", "without_human"),
    [
        ({"messages": [HUMAN]}, 0, 1),
        ({"messages": [{"role": "system", "content": "x"}]}, 0, 1),
        ({"messages": [HUMAN, MODEL, TOOL, TOOL]}, 2, 2),
        ({"messages": [HUMAN, MODEL, TOOL, MODEL, TOOL]}, 1, 3),
        ({"messages": [HUMAN, MODEL, TOOL, MODEL, HUMAN]}, 0, 1),
        ({"messages": [HUMAN, MODEL, HUMAN, MODEL, TOOL]}, 1, 2),
        ({"messages": [BLOCKS, USE, RESULT]}, 2, 2),
        ({"messages": [BLOCKS, USE, RESULT, USE, RESULT, USE, RESULT]}, 2, 4),
        ({"messages": [BLOCKS, USE, BLOCKS]}, 0, 1),
        ({"input": "Hi"}, 0, 1),
        ({"input": [HUMAN, THOUGHT, CALL, OUTPUT]}, 1, 2),
        ({"input": [HUMAN, THOUGHT, CALL, CALL, OUTPUT, OUTPUT, THOUGHT, CALL, OUTPUT]}, 1, 3),
        ({"input": [OUTPUT, OUTPUT], "previous_response_id": "r"}, 2, 1),
        ({"prompt": "Hi"}, 0, 0),
        ({"messages": 7}, 0, 0),
        ({"messages": ["x"]}, 0, 0),
    ],
)
def test_turns_are_counted_back_to_the_last_human(body, tool_calls, without_human):
    turns = turns_of(json.dumps(body).encode())
    assert (turns.tool_calls, turns.without_human) == (tool_calls, without_human)


def test_what_is_no_json_shows_nothing():
    assert turns_of(b"\xff{").without_human == 0
