"""A part of a turn: what a response says of itself is taken out before its caller can change it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from wspool.core.events.part import Part

MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
USAGE = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 1}


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": status, "output": [MESSAGE], **deepcopy(fields)}


@pytest.mark.parametrize(
    ("said", "remarks"),
    [
        (response(), {"finish_reason": "stop"}),
        (response(output=[MESSAGE, CALL]), {"finish_reason": "tool_calls"}),
        (
            response("incomplete", incomplete_details={"reason": "max_output_tokens"}),
            {"finish_reason": "max_output_tokens"},
        ),
        (response("incomplete", incomplete_details=None), {}),
        (response("incomplete", incomplete_details={"reason": 7}), {}),
        (response("failed", output=[CALL]), {}),
        (
            response("failed", model="m", service_tier="flex", usage=USAGE),
            {"response_model": "m", "service_tier": "flex", "usage": USAGE},
        ),
        (response("failed", model=7, service_tier=None, usage=None), {}),
        (
            response("failed", input_transformations=[{"type": "t"}]),
            {"input_transformations": ({"type": "t"},), "prompt_cache_diagnostics": None},
        ),
        (
            response("failed", prompt_cache_diagnostics={"hit": {"tokens": 1}}),
            {"input_transformations": (), "prompt_cache_diagnostics": {"hit": {"tokens": 1}}},
        ),
    ],
)
def test_what_a_response_says_of_itself_is_kept(said: dict[str, Any], remarks: dict[str, Any]) -> None:
    """As it was said, whatever becomes of the response; and nothing where nobody keeps it."""
    part = Part.of([], said, keep=True)
    for value in said.values():
        if isinstance(value, dict):
            for inner in value.values():
                if isinstance(inner, dict):
                    inner["changed"] = True
            value["changed"] = True
    said.clear()

    assert remarks == part.remarks
    assert {} == Part.of([], response(usage=USAGE), keep=False).remarks
