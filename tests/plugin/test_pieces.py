"""JSON in pieces: letter for letter what `json.dumps` says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.testing import pieces

TEXT = st.text('a"\\\n\x00é\u2028\ud83d\U0001f600', max_size=9)
JSON = st.recursive(
    TEXT | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from([{}, {"sort_keys": True}, {"ensure_ascii": False}]))
def test_it_is_what_json_says(value: Any, how: dict[str, Any]) -> None:
    """Whatever is in it, however small the pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_AT_ONCE", 3)
        assert json.dumps(value, **how) == pieces.dumps(value, **how)


def test_a_number_that_is_none_is_told() -> None:
    """Also beside a long text."""
    with pytest.raises(ValueError, match="JSON"):
        pieces.dumps(["x" * 2**19, float("nan")], allow_nan=False)
