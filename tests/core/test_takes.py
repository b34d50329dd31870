"""What an endpoint does not take is found out once, by what it refuses and takes without."""

from __future__ import annotations

import math

from tests.core.test_replay import MISSING
from wspool.core.commands import ConnectionId, LaneId
from wspool.core.encoding import Encoded
from wspool.core.items import Output, encode_items
from wspool.core.sending.chain import Chain
from wspool.core.sending.takes import Takes
from wspool.core.server_error import ServerError

HERE = (ConnectionId(1), LaneId(0))
REFUSES = ServerError(status=400, message="Unsupported parameter: previous_response_id")


def test_an_endpoint_that_refuses_the_field_is_remembered_at_once() -> None:
    """It is said once, and only if the same request without it went well."""
    takes = Takes()
    known = [takes.parents]

    assert takes.cured(REFUSES, held=False)
    assert [True, False] == [*known, takes.parents]
    assert not takes.cured(REFUSES, held=True)


def test_an_endpoint_that_never_took_a_parent_is_remembered_whatever_it_says() -> None:
    """Twice it refused the latest response of the very lane, so it takes none."""
    takes = Takes()

    assert not takes.cured(MISSING, held=True)
    assert not takes.cured(MISSING, held=False), "that one may have been forgotten"
    assert takes.cured(ServerError(status=400, message="unbekannt"), held=True)
    assert not takes.parents


def test_an_endpoint_that_took_a_parent_takes_the_next() -> None:
    """It forgets, as all do; but what it has taken once it has not refused for what it is."""
    takes = Takes()
    takes.parent_taken()

    assert [False] * 9 == [takes.cured(MISSING, held=True) for _ in range(9)]
    assert takes.parents
    assert takes.cured(REFUSES, held=True)


def test_a_call_id_that_is_too_long_says_nothing_about_parents() -> None:
    """However often it was refused with one; it is answered in full from then on, in both places anew."""
    takes, chain, long = Takes(), Chain(), "c" * 70
    call = {"type": "function_call", "call_id": long, "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": long, "output": "x"}
    answer = encode_items([output])
    chain.extend(encode_items("one"), Output.of([call]), "resp_1", HERE)
    for _ in range(2):
        plan = chain.plan(answer, HERE, "resp_1", None, {}, takes=takes)
        assert ("resp_1", answer) == (plan.previous_response_id, plan.input), "some take what they have made"
    refused = ServerError(code="string_above_max_length", param="input[0].call_id", status=400)
    assert [False] * 3 == [takes.cured(refused, held=True) for _ in range(3)]
    assert takes.parents

    plan = chain.plan(answer, HERE, "resp_1", None, {}, takes=takes)
    assert (None, 3) == (plan.previous_response_id, len(plan.input))
    short = encode_items([{**output, "call_id": "c1"}, {"role": "user", "content": "x" * 99}])
    assert "resp_1" == chain.plan(short, HERE, "resp_1", None, {}, takes=takes).previous_response_id


def test_where_no_parent_is_taken_there_is_none() -> None:
    """Neither on the lane that holds it nor a warm-up; the root stays, for nothing else says the same."""
    takes = Takes()
    takes.cured(REFUSES, held=True)
    for chain in (Chain(), Chain.adopt("resp_0")):
        chain.extend(encode_items("one"), Output.of([]), "resp_1", HERE, asked=True)
        plan = chain.plan(encode_items("two"), HERE, "resp_1", None, {}, takes=takes)
        assert chain.root == plan.previous_response_id
        assert (2, chain.root is not None) == (len(plan.input), plan.last_resort)
        assert chain.parent is None


def test_a_model_that_gives_no_encrypted_reasoning_is_remembered() -> None:
    """By its name as it is sent; that is said once. Not more of them than a pool has use for."""
    takes, one, other = Takes(), Encoded(b'"one"'), Encoded(b'"other"')
    assert [True, False] == [takes.went_plain(one) for _ in range(2)]
    assert [False, True, True] == [takes.asks_reasoning(model) for model in (one, other, None)]
    assert takes.went_plain(None)
    assert not takes.asks_reasoning(None)
    for number in range(1000):
        takes.went_plain(Encoded(b"%d" % number))
    assert 100 == len(takes.plain)


def test_the_smallest_size_that_was_too_large_is_remembered_for_five_minutes() -> None:
    """From the last time on; then none is known, and another size may be too large."""
    takes = Takes()
    known = [takes.too_large]
    for now, size in ((0.0, 500_000), (100.0, 700_000), (200.0, 300_000)):
        takes.found_too_large(size, now)
        known.append(takes.too_large)
    for now in (499.0, 500.0):
        takes.forget_size(now)
        known.append(takes.too_large)
    takes.found_too_large(300_000, 600.0)
    takes.found_too_large(800_000, 900.0)

    assert [math.inf, 500_000, 500_000, 300_000, 300_000, math.inf] == known
    assert 800_000 == takes.too_large


def test_what_is_smaller_than_any_limit_was_refused_for_something_else() -> None:
    takes = Takes()
    takes.found_too_large(65_535, 0.0)
    assert math.inf == takes.too_large
    takes.found_too_large(65_536, 0.0)
    assert 65_536 == takes.too_large


def test_only_one_status_blames_the_size() -> None:
    assert ServerError(status=413).blames_size
    assert not ServerError(status=413, code="rate_limit_exceeded").blames_size
    assert not any(ServerError(status=status).blames_size for status in (None, 400, 429))
