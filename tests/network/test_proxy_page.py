"""The live page in a real browser: figures, bars, keyboard, dark, light, a phone, and a proxy that ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.helpers import policy
from tests.network.browser import MISSING, Browser, browsing
from wspool.proxy import Token, Where, open_proxy
from wspool.server import ModelTurn, TurnError, message, open_server

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

TOKEN = Token("<b>editor</b>", "tok-editor-123456")
ENTER, DOWN, LEFT, TAB = "\ue007", "\ue015", "\ue012", "\ue004"


@pytest.fixture(scope="module")
def driver() -> Generator[str]:
    with browsing() as url:
        yield url


class Talker:
    """Answers at once, and every fifth time it fails; slowly where it is asked to."""

    def __init__(self) -> None:
        self.asked = 0

    def respond(self, request: Any) -> ModelTurn:
        self.asked += 1
        if "slowly" in str(request.context[-1:]):
            return ModelTurn(output=[message("so " * 40)], delay=1.0)
        if self.asked % 5 == 0:
            error = TurnError(code="server_error", message="no <img src=x onerror=alert(1)>")
            return ModelTurn(status="failed", error=error)
        return ModelTurn(output=[message("yes")])


@asynccontextmanager
async def proxied(tokens: bool = True) -> AsyncGenerator[tuple[str, Any]]:
    """A proxy on loopback before the reference server; its page, and what takes a few turns."""
    async with (
        open_server(Talker(), delay_per_token=0.05) as server,
        open_proxy(
            server.url,
            where=Where(host="127.0.0.1", port=0),
            api_key="sk-own" if tokens else None,
            tokens=[TOKEN] if tokens else None,
            policy=policy(max_size=2),
        ) as proxy,
    ):

        def talk(count: int, text: str = "hi") -> None:
            shown = {"authorization": f"Bearer {TOKEN.text}", "user-agent": "codex_cli_rs/0.171"}
            with httpx.Client(headers=shown, timeout=30, trust_env=False) as client:
                items: list[Any] = []
                for number in range(count):
                    items.append({"role": "user", "content": f"{text} {number}"})
                    body = {"model": "<i>m</i>", "input": items, "store": False}
                    answer = client.post(f"{proxy.base_url}/responses", json=body)
                    items += answer.json().get("output") or []

        async def talk_elsewhere(count: int, text: str = "hi") -> None:
            await trio.to_thread.run_sync(talk, count, text)

        yield proxy.base_url.removesuffix("v1"), talk_elsewhere


def visit(driver: str, page: str, folder: Path, *, dark: bool = False, width: int = 1280) -> dict[str, Any]:
    """Log in, and look at everything once."""
    seen: dict[str, Any] = {}
    with Browser(driver, width=width, height=900, dark=dark) as browser:
        browser.open(page)
        browser.type("#token", "tok-wrong")
        browser.press(ENTER)
        browser.wait("document.body.dataset.view === 'wrong'")
        seen["wrong"] = browser.text("#wrong")
        browser.type("#token", TOKEN.text)
        browser.press(ENTER)
        browser.wait("document.querySelectorAll('#turns tbody tr').length >= 12")
        seen["cookie"] = browser.cookies()
        seen["url"] = browser.run("return location.href")
        for name in ("rate", "delta", "saved", "tokens", "first", "errors", "names", "turns", "lanes-note"):
            seen[name] = browser.text(f"#{name}")
        seen["markup"] = browser.run("return document.querySelectorAll('#live b, #live i, #live img').length")
        seen["bold"] = browser.run("return document.querySelectorAll('#lanes b, #line b').length")
        seen["script"] = browser.run("return document.cookie + JSON.stringify(localStorage)")
        seen["drawn"] = browser.run(
            "const c = document.querySelector('#lanes canvas'), p = c.getContext('2d');"
            "const d = p.getImageData(0, 0, c.width, c.height).data;"
            "const at = x => d[(Math.floor(c.height / 2) * c.width + x) * 4];"
            "return new Set(Array.from({length: c.width}, (_, x) => at(x))).size"
        )
        seen["wide"] = browser.run("return document.documentElement.scrollWidth - innerWidth")
        seen["back"] = browser.run("return getComputedStyle(document.body).backgroundColor")
        browser.run("document.querySelector('#lanes tr[tabindex=\"0\"]').focus()")
        browser.press(LEFT)
        seen["bar"] = browser.text("#detail")
        browser.press(DOWN)
        seen["row"] = browser.run("return document.activeElement.rowIndex")
        browser.run("document.getElementById('theme').click()")
        seen["theme"] = browser.run("return document.documentElement.dataset.theme")
        browser.picture(folder / f"page-{'dark' if dark else 'light'}-{width}.png", whole=True)
        seen["complaints"] = [said for said in browser.complaints() if "401" not in said]
        tree = browser.tell("Accessibility.getFullAXTree")["nodes"]
        seen["roles"] = {
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree
            if not node["ignored"] and "role" in node
        }
    return seen


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 390)])
async def test_the_page_shows_what_happens(driver: str, tmp_path: Path, dark: bool, width: int) -> None:
    """In light on a desk and in the dark on a phone; hostile names are text, and nothing complains."""
    with trio.fail_after(90):
        async with proxied() as (page, talk):
            await talk(12)
            seen = await trio.to_thread.run_sync(
                partial(visit, driver, page, tmp_path, dark=dark, width=width)
            )

    assert "none of the tokens" in seen["wrong"]
    (cookie,) = seen["cookie"]
    assert (True, "Strict") == (cookie["httpOnly"], cookie["sameSite"])
    assert page == seen["url"]
    assert TOKEN.text not in seen["script"] + seen["url"]
    assert [] == seen["complaints"]
    assert "%" in seen["delta"]
    assert "kB" in seen["saved"] or " B" in seen["saved"]
    assert "server_error" in seen["errors"]
    assert "<img src=x onerror=alert(1)>" in seen["errors"]
    assert TOKEN.name in seen["names"]
    assert "<i>m</i>" in seen["turns"]
    assert seen["bold"] == seen["markup"], "what came from outside has become markup"
    assert seen["drawn"] > 2, "no bar was drawn"
    assert seen["wide"] <= 0, "it is wider than its window"
    assert ("rgb(19, 22, 25)" if dark else "rgb(246, 246, 243)") == seen["back"]
    assert " after " in seen["bar"]
    assert seen["row"] >= 1
    assert "light" == seen["theme"]
    names = {role: {name for one, name in seen["roles"] if one == role} for role, _ in seen["roles"]}
    assert {"Connections and lanes", "Errors", "What moved, and why", "By token"} <= names["heading"]
    assert any("Up and down choose a lane" in name for name in names["table"] | names.get("Caption", set()))
    assert {"Hold still"} <= names["button"]


async def test_the_page_follows_and_survives_the_proxy(driver: str) -> None:
    """Nothing yet; then turns, without a touch; a pause; and a word when nobody answers any more."""

    browser = Browser(driver)

    async def see(script: str) -> None:
        await trio.to_thread.run_sync(lambda: browser.wait(script))

    async def run(script: str) -> Any:
        return await trio.to_thread.run_sync(lambda: browser.run(script))

    with browser, trio.fail_after(90):
        async with proxied(tokens=False) as (page, talk):
            await trio.to_thread.run_sync(browser.open, page)
            await see("!document.getElementById('lanes-empty').hidden")
            hint = await trio.to_thread.run_sync(browser.text, "#hint")
            assert f"OPENAI_BASE_URL={page}v1" == hint
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, 1, "slowly")
                await see("document.querySelector('#lanes .now.busy')")
                busy = await trio.to_thread.run_sync(browser.text, "#lanes .now.busy")
            assert "codex_cli_rs" in busy
            await see("document.querySelectorAll('#turns tbody tr').length === 1")
            await run("document.getElementById('hold').click()")
            await talk(1)
            await trio.sleep(1.5)
            assert 1 == await run("return document.querySelectorAll('#turns tbody tr').length")
            await run("document.getElementById('hold').click()")
            await see("document.querySelectorAll('#turns tbody tr').length === 2")
        await see("!document.getElementById('lost').hidden")
