"""The live page and what it is fed with: who may see it, what is in it, and that it holds nothing back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from tests.helpers import policy
from tests.proxy.asking import KEY, Answer, Client, Scene, scene
from wspool.core.commands import CloseReason
from wspool.core.statistics import CloseRecord, DialRecord, PoolRecord, PoolStatistics, TurnRecord
from wspool.proxy.access.gate import Token
from wspool.proxy.page.scene import SPAN, Look, Scene as Seen
from wspool.server import EchoModel, ModelTurn, message
from wspool.testing.local import refusal

EDITOR = Token("editor", "tok-editor-123456")
CI = Token("ci", "tok-ci-1234567890")
BEARER = ("authorization", f"Bearer {EDITOR.text}")
FORM = ("content-type", "application/x-www-form-urlencoded")


async def see(it: Scene, headers: Iterable[tuple[str, str]] = (), *, ticks: int = 1) -> list[Any]:
    """Look at the feed of the page; what it says."""
    client = await it.client()
    await client.send("GET", "/live", headers=headers)
    data = b""
    while data.count(b"\n\n") < ticks + data.startswith(b"HTTP"):
        more = bytes(await client.stream.receive_some(65536))
        client.http.receive_data(more)
        while type(event := client.http.next_event()).__name__ in ("Response", "Data"):
            if type(event).__name__ == "Response":
                assert 200 == event.status_code, event  # type: ignore[union-attr]
            else:
                data += bytes(event.data)  # type: ignore[union-attr]
    await client.stream.aclose()
    return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]


async def log_in(it: Scene, text: str, **headers: str) -> tuple[Client, Answer]:
    """Show a token with the form of the page."""
    client = await it.client()
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return client, await client.ask("POST", "/login", f"token={text}".encode(), headers=[FORM, *more])


def pool_statistics() -> PoolStatistics:
    """Of a pool that does nothing."""
    needed = {field.name: 0 for field in attrs.fields(PoolStatistics) if field.default is attrs.NOTHING}
    # All others that are needed are numbers, and nobody looks which is a truth.
    return PoolStatistics(**{**needed, "closed": {}})  # type: ignore[arg-type]


async def test_the_page_is_one_file_that_asks_nobody_else(autojump_clock) -> None:
    """Its policy names its script and its style; nothing in it points elsewhere."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        page = await client.ask("GET", "/", headers=())

    assert (200, "text/html; charset=utf-8") == (page.status, page.headers["content-type"])
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "nosniff" == page.headers["x-content-type-options"]
    html = page.body.decode()
    assert not re.findall(r"(?:src|href)=\"(?!/|#|data:)", html)
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://(?!www\.w3)", html
    )
    assert not re.findall(r"\son\w+=|\sstyle=", html)


async def test_the_feed_has_what_happened_once(autojump_clock) -> None:
    """Sums, rows for lanes, bars, times, tokens by name; the next update has only what is new."""
    one = policy(max_size=1)
    async with scene(EchoModel(), api_key="sk-own", tokens=[EDITOR, CI], policy=one) as it:
        client = await it.client()
        items: list[Any] = [{"role": "user", "content": "one"}]
        first = await client.turn(items, headers=(BEARER,))
        items += [*first.json["output"], {"role": "user", "content": "two"}]
        await client.turn(items, headers=(BEARER,), stream=True)
        all, tick = await see(it, (BEARER,), ticks=2)

    assert (2, 0, 1, 1) == tuple(all["sums"][name] for name in ("turns", "errors", "delta", "full"))
    assert all["sums"]["bytes_saved"] > 0
    assert ["editor"] == [one["name"] for one in all["tokens"]]
    (lane,) = all["lanes"]
    assert ("idle", 1) == (lane["state"], lane["lanes"])
    assert [(lane["key"], "full", "editor"), (lane["key"], "delta", "editor")] == [
        (bar["k"], bar["d"], bar["w"]) for bar in all["bars"]
    ]
    assert ["json", "sse"] == [turn["door"] for turn in all["turns"]]
    assert {"input", "output"} == set(all["turns"][0]["usage"])
    assert ([], [], 2) == (tick["bars"], tick["turns"], tick["sums"]["turns"])
    assert 60 == len(all["beats"])
    assert 2 == sum(turns for turns, _ in all["beats"])
    assert 0.5 == all["recent"]["delta"]


async def test_who_runs_and_who_waits_is_seen(autojump_clock) -> None:
    """By name, with since when."""
    async with scene(EchoModel(), policy=policy(max_size=1), server={"delay_per_token": 10}) as it:
        one, other = await it.client(), await it.client()
        await one.send("POST", "/v1/responses", {"model": "m", "input": "a", "stream": True})
        await trio.sleep(5)
        agent = ("user-agent", "codex_cli_rs/0.171")
        await other.send("POST", "/v1/responses", {"model": "m", "input": "b"}, headers=(KEY, agent))
        await trio.sleep(5)
        (all,) = await see(it)
        await one.stream.aclose()
        await other.stream.aclose()

    (lane,) = all["lanes"]
    assert ("running", "m") == (lane["state"], lane["model"])
    assert 8 <= all["now"] - lane["since"] <= 12
    assert ["codex_cli_rs"] == [waiting["who"] for waiting in all["waiting"]]


async def test_errors_are_counted_by_kind_with_their_last_text(autojump_clock) -> None:
    """Those of the provider, in whatever way they came; and no name of a client is markup."""
    kinds = [
        refusal(400, code="invalid_prompt", message="not <b>so</b>"),
        ModelTurn(output=[message("half")], status="failed"),
    ]

    class Failing:
        def respond(self, request: Any) -> Any:
            return kinds.pop(0)

    async with scene(Failing()) as it:
        client = await it.client()
        await client.turn("a", headers=(KEY, ("user-agent", "<script>alert(1)</script>")))
        await client.turn("b")
        (all,) = await see(it)

    assert 2 == all["sums"]["errors"]
    assert {"invalid_prompt": 1, "server_error": 1} == {one["kind"]: one["count"] for one in all["errors"]}
    assert all["errors"][-1]["text"]


async def test_what_the_endpoint_makes_everybody_wait_for_is_told(autojump_clock) -> None:
    """Of several pools the longest wait, and if nobody can tell whose trouble it is."""
    seen, clear = Seen("host", "version"), attrs.evolve(pool_statistics(), held=2.0, held_for="a rate limit")
    unclear = attrs.evolve(clear, held=7.0, held_for="Internal error", unclear=310.0, suspects=3)
    states: list[dict[str, str]] = []
    for number, now in enumerate((pool_statistics(), clear, unclear, attrs.evolve(unclear, held=0.0))):
        ask = partial(attrs.evolve, now)
        record = PoolRecord(pool=number, provider="", host="host", port=1, statistics=ask)
        seen = Seen("host", "version") if number == 3 else seen
        seen.pool_opened(record)
        states.append(seen.seen([], {}, Look())[0]["state"])

    at_fault = "unclear for 5 min if the endpoint is at fault or one of 3 requests"
    assert [
        {"word": "open", "text": "open"},
        {"word": "held", "text": "waits for 2 s: a rate limit"},
        {"word": "held", "text": f"waits for 7 s: Internal error; {at_fault}"},
        {"word": "held", "text": at_fault},
    ] == states


async def test_a_long_past_is_told_in_pieces(autojump_clock) -> None:
    """Each bar once, the latest at once, so that nobody waits for a page; ended connections, too."""
    seen = Seen("host", "version")
    for connection in (1, 2):
        seen.dial_ended(DialRecord(phases={}, duration=0.1, failure=None, connection=connection, pool=1))
    for number in range(1200):
        await trio.sleep(0.1)
        seen.turn_ended(turn_record(number, connection=1 + number % 2))
    closed = CloseRecord(pool=1, connection=2, reason=CloseReason.LOST, age=60, closed=0, close_code=1011)
    seen.connection_closed(closed)
    all, look = seen.seen([], {}, Look())
    pieces = [all["bars"], *seen.past(look)]
    tick, _ = seen.seen([], {}, look)

    assert all["now"] == pytest.approx(all["bars"][-1]["b"], abs=0.01)
    assert max(map(len, pieces)) <= 500
    models = [bar["m"] for piece in pieces for bar in piece]
    assert sorted(f"m{number}" for number in range(1200)) == sorted(models)
    assert "m1199" == pieces[0][-1]["m"]
    assert [] == tick["bars"]
    assert [(1, "idle"), (2, "ended")] == [(lane["connection"], lane["state"]) for lane in all["lanes"]]
    assert ["Connection 2 ended after 60 s: it was lost (close code 1011)."] == [
        one["text"] for one in all["news"]
    ]


def turn_record(number: int, *, connection: int) -> TurnRecord:
    """A turn that has just ended, of the model `m` and its number."""
    now = trio.current_time()
    return TurnRecord(
        conversation=None,
        connection=connection,
        lane=0,
        pool=1,
        model=f"m{number}",
        response_id=f"resp_{number}",
        full=False,
        status="completed",
        delivery="terminal",
        waited=0.0,
        duration=2.0,
        requests=1,
        bytes_sent=1,
        bytes_saved=1,
        events=1,
        started=now - 2,
        ended=now,
    )


async def test_what_is_old_is_forgotten(autojump_clock) -> None:
    """Bars and figures of the last minutes; sums stay."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        await client.turn("a")
        await trio.sleep(SPAN + 10)
        (all,) = await see(it)

    assert ([], 1) == (all["bars"], all["sums"]["turns"])
    assert (0, None) == (all["recent"]["turns"], all["recent"]["delta"])


async def test_a_token_is_shown_once_and_a_cookie_stands_for_it(autojump_clock) -> None:
    """HttpOnly, for this site only; it ends with its token; the token is nowhere."""
    async with scene(EchoModel(), api_key="sk-own", tokens=[EDITOR, CI]) as it:
        client = await it.client()
        page = await client.ask("GET", "/", headers=())
        assert b'data-view="login"' in page.body
        for target in ("/live", "/usage.json", "/usage.csv", "/metrics"):
            assert 401 == (await client.ask("GET", target, headers=())).status
        began = trio.current_time()
        _, wrong = await log_in(it, "tok-editor-12345")
        assert (401, True) == (wrong.status, b'data-view="wrong"' in wrong.body)
        assert trio.current_time() - began >= 1
        assert "set-cookie" not in wrong.headers
        _, right = await log_in(it, EDITOR.text)
        assert (303, "/") == (right.status, right.headers["location"])
        flags = right.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
        assert EDITOR.text not in right.headers["set-cookie"]
        cookie = ("cookie", flags[0])
        assert b'data-view="live"' in (await client.ask("GET", "/", headers=(cookie,))).body
        assert await see(it, (cookie,))
        # A cookie is for the page: no program gets a turn with it.
        assert 401 == (await client.turn("a", headers=(cookie,))).status
        it.proxy.front._gate.tokens = {"ci": CI}
        assert 401 == (await client.ask("GET", "/usage.json", headers=(cookie,))).status


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}, {"origin": "null"}]
)
async def test_a_form_of_another_site_shows_no_token(autojump_clock, headers: Any) -> None:
    """Nor does a page of one see anything, where there are no tokens."""
    async with scene(EchoModel(), api_key="sk-own", tokens=[EDITOR]) as it:
        _, answer = await log_in(it, EDITOR.text, **headers)

    assert 403 == answer.status
    assert "set-cookie" not in answer.headers


async def test_sums_are_files_too(autojump_clock) -> None:
    """For programs, with the token in a header; no cell is a formula."""
    odd = Token("=cmd|' /C calc'!A0", "tok-odd-1234567890")
    async with scene(EchoModel(), api_key="sk-own", tokens=[EDITOR, odd]) as it:
        client = await it.client()
        await client.turn("a", headers=(BEARER,))
        await client.turn("b", headers=(("authorization", f"Bearer {odd.text}"),))
        told = (await client.ask("GET", "/usage.json", headers=(BEARER,))).json
        table = (await client.ask("GET", "/usage.csv", headers=(BEARER,))).body.decode()

    assert (2, 1) == (told["all"]["turns"], told["by_token"]["editor"]["turns"])
    rows = list(csv.DictReader(io.StringIO(table)))
    assert ["editor", "'" + odd.name] == [row["token"] for row in rows]
    assert all(int(row["input"]) > 0 for row in rows)


async def test_metrics_have_labels_that_no_client_makes(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doors, outcomes, kinds: closed sets; the pools' own are there as well, with so many models at most."""
    pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    monkeypatch.setattr("wspool.prometheus.MOST", 3)
    async with scene(EchoModel()) as it:
        client = await it.client()
        for number in range(5):
            headers = (KEY, ("user-agent", f"agent-{number}/1"), ("session-id", f"session-{number}"))
            await client.turn("a", headers=headers)
        for number in range(6):
            await client.turn("a", model=f"model-{number}")
        await client.turn("a", model='m"} 1\nforged{a="')
        answer = await client.ask("GET", "/metrics", headers=())

    text = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'wspool_proxy_requests_total{door="json",outcome="completed"} 12.0' in text
    assert 'wspool_proxy_turns_total{sent="full"} 12.0' in text
    assert 'wspool_proxy_phase_seconds_count{phase="line"} 12.0' in text
    assert "wspool_dials_total" in text
    assert len(set(re.findall(r'model="([^"]*)"', text))) <= 5, "with those of none, and the others"
    assert 'wspool_turns_total{model="other",status="completed"}' in text
    assert "forged" not in text
    assert "agent-" not in text
    assert "session-" not in text


async def test_no_key_and_no_text_is_shown(autojump_clock) -> None:
    """Neither the client's key nor the proxy's, no token, and nothing of what is said."""
    async with scene(EchoModel(), api_key="sk-own-canary-1", tokens=[EDITOR]) as it:
        client = await it.client()
        await client.turn("the secret word", headers=(BEARER,))
        await client.ask("POST", "/v1/responses", b"the secret word", headers=(BEARER,))
        said = json.dumps(await see(it, (BEARER,)))
        for target in ("/usage.json", "/usage.csv", "/metrics"):
            said += (await client.ask("GET", target, headers=(BEARER,))).body.decode()

    for secret in ("sk-own-canary-1", EDITOR.text, "secret word"):
        assert secret not in said
