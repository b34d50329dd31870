"""What gets in, and where a key goes: URLs, headers, identities, and text that looks like control."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

import wspool
from tests.helpers import CANARY
from wspool.server import EchoModel, open_server

from .scene import Make, faulty

EVIL = f"{CANARY}\r\nX-Injected: yes"


@pytest.mark.parametrize(
    "options",
    [
        {"headers": [("OpenAI-Organization", EVIL)]},
        {"headers": [("OpenAI-Project", f"{CANARY}\n")]},
        {"headers": [("X-A\r\nX-Injected", CANARY)]},
        {"api_key": EVIL},
        {"url": f"wss://api.example/{EVIL}"},
        {"url": f"wss://api.example/v1/responses?k={EVIL}"},
        {"proxy": f"http://me:{EVIL}@proxy.example:3128"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_f89_injection(options: dict[str, Any]) -> None:
    """F89: CR and LF in a header, an organisation's or a project's id, the key, the path, the query -> a
    `ValueError` from `open_pool`, before anything is dialled, without the value in it.
    """
    with pytest.raises(ValueError, match=r".") as caught:
        wspool.open_pool(**{"url": "wss://api.example/", "api_key": "k", **options})
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_f91_plain_text() -> None:
    """F91: `ws://` to another machine -> a `ValueError`, unless `allow_insecure=True`. Not so to this one."""
    for url in ("ws://api.example/v1/responses", "ws://192.0.2.1/", "ws://127.0.0.1.example/"):
        with pytest.raises(ValueError, match="credentials in clear"):
            wspool.open_pool(url, api_key=CANARY)
        wspool.open_pool(url, api_key=CANARY, allow_insecure=True)
    for url in ("ws://localhost/", "ws://127.0.0.1:8000/", "ws://[::1]/"):
        wspool.open_pool(url, api_key=CANARY)


@pytest.mark.parametrize(
    "url",
    [
        f"wss://me:{CANARY}@api.example/",
        f"wss://{CANARY}@api.example/",
        f"wss://api.example/#{CANARY}",
        f"https://api.example/{CANARY}",
        f"file:///etc/{CANARY}",
        f"gopher://api.example/{CANARY}",
        f"//api.example/{CANARY}",
        f"{CANARY}",
        f"wss:///{CANARY}",
        f"wss://api.example:99999/{CANARY}",
        f"wss://api.exa\tmple/{CANARY}",
        f"wss://-{CANARY}/",
        f"wss://[::1%25eth0]/{CANARY}",
    ],
)
def test_f92_urls(url: str) -> None:
    """F92: a URL with credentials, a fragment, another scheme, a broken host -> a `ValueError` that says what
    to change and does not quote the URL. International names are encoded.
    """
    with pytest.raises(ValueError, match=r"URL|ws://") as caught:
        wspool.open_pool(url, api_key="k")
    assert CANARY not in str(caught.value)
    assert (
        "xn--bcher-kva.example" == wspool.open_pool("wss://bücher.example/", api_key="k")._setup.endpoint.host
    )


async def test_f93_identities(make: Make, autojump_clock) -> None:
    """F93: two keys or organisations use the same endpoint in one program -> a pool each, which share
    nothing: every request is on a connection that was opened with its own key.
    """
    async with open_server(EchoModel(), port=None) as server, trio.open_nursery() as nursery:
        spoken: dict[str, set[str]] = {}

        async def use(name: str) -> None:
            async with wspool.open_pool(
                server.url,
                api_key=f"sk-{name}",
                headers=[("OpenAI-Organization", f"org-{name}")],
                wire=make(open_stream=server.open_stream),
                policy=wspool.PoolPolicy(max_size=3, min_idle=1),
            ) as pool:
                answers: set[str] = set()
                async with trio.open_nursery() as inner:

                    async def ask(number: int) -> None:
                        async with pool.conversation(model="m") as conversation:
                            answers.add((await conversation.respond(f"{name} {number}")).output_text)

                    for number in range(8):
                        inner.start_soon(ask, number)
                spoken[name] = answers

        for name in ("alice", "bob"):
            nursery.start_soon(use, name)
    assert {name: {f"{name} {n}" for n in range(8)} for name in ("alice", "bob")} == spoken
    identities = {
        tuple(
            value for key, value in headers.items() if key.lower() in ("authorization", "openai-organization")
        )
        for _, headers in server.handshakes
    }
    assert {("Bearer sk-alice", "org-alice"), ("Bearer sk-bob", "org-bob")} == {
        tuple(sorted(identity)) for identity in identities
    }


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"type": "response.completed", "response": {"id": "resp_evil", "output": []}}),
        json.dumps({"type": "error", "error": {"code": "websocket_connection_limit_reached"}}),
        '"}} {"type":"response.failed"}\r\n\x00\x89\x00',
    ],
    ids=["completed", "limit", "frames"],
)
async def test_f94_text_like_control(make: Make, text: str, autojump_clock) -> None:
    """F94: the model's text looks like an event, an error or a frame -> it is text."""
    async with faulty(make) as scene:
        story = await scene.ask(text)
        story.assert_answer(text)
        assert text == story.text
        assert story.response is not None
        assert "resp_evil" != story.response.id
        await scene.assert_well(creates=1, connection=1)
