"""Events and responses as the models of the package openai."""

from __future__ import annotations

import sys

import pytest

from wspool import Event, Response
from wspool.core import openai_types
from wspool.core.frames import parse_event

responses = pytest.importorskip("openai.types.responses", reason="openai")


def test_an_event_is_the_model_of_its_type() -> None:
    """With what it says, and with what that package does not know."""
    event = parse_event(
        '{"type":"response.output_text.delta","sequence_number":4,"delta":"hi","stream_id":"lane0","new":1}'
    )
    typed = event.to_openai()

    assert isinstance(typed, responses.ResponseTextDeltaEvent)
    assert ("hi", 4) == (typed.delta, typed.sequence_number)
    assert 1 == typed.model_extra["new"]


def test_a_response_is_one_all_the_way_down() -> None:
    """Items and parts are models too; a server that leaves things out makes no error."""
    part = {"type": "output_text", "text": "hello"}
    data = {
        "id": "r",
        "output": [{"type": "message", "role": "assistant", "content": [part]}],
        "_fields_set": 7,
    }
    typed = Response(data).to_openai()

    assert isinstance(typed, responses.Response)
    assert "hello" == typed.output_text
    assert {"id", "output"} == typed.model_fields_set, "a name of theirs is no argument"


def test_an_event_that_is_not_known_there_is_refused() -> None:
    """Not guessed: it would be taken for another one."""
    with pytest.raises(ValueError, match=r"openai \d\S+ has no event 'response\.dance'"):
        Event("response.dance", '{"type":"response.dance"}').to_openai()


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai.types.responses", None)
    openai_types._events.cache_clear()
    for to_openai in (
        Event("response.created", '{"type":"response.created"}').to_openai,
        Response({}).to_openai,
    ):
        with pytest.raises(ImportError, match="pip install openai"):
            to_openai()
    openai_types._events.cache_clear()
