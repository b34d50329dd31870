"""Typed models on demand, where the package openai is installed."""

from __future__ import annotations

from typing import assert_type

from openai.types.responses import Response, ResponseStreamEvent

import wspool


async def main(conversation: wspool.Conversation) -> None:
    async with conversation.turn("x") as turn:
        async for event in turn:
            typed: ResponseStreamEvent = event.to_openai()
            if typed.type == "response.output_text.delta":
                assert_type(typed.delta, str)
        response: Response = turn.response.to_openai()
        assert_type(response.output_text, str)
