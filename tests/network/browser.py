"""Chromium, driven by ChromeDriver over the WebDriver protocol: as much of it as tests of the page need.

Source: W3C, WebDriver.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import httpx

__all__ = ["MISSING", "Browser", "browsing"]

#: Why there is no browser here, if there is none.
MISSING: Final = (
    ""
    if shutil.which("chromium") and shutil.which("chromedriver")
    else "chromium and chromedriver are not installed"
)

#: A browser that asks nobody but the page. `--no-sandbox`: as root there is none.
_FLAGS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
]

_ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, driver: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        options: dict[str, Any] = {"args": flags}
        self._http = httpx.Client(base_url=driver, timeout=60, trust_env=False)
        wanted = {
            "alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}},
        }
        answer = self._http.post("/session", json={"capabilities": wanted})
        answer.raise_for_status()
        self._base = f"/session/{answer.json()['value']['sessionId']}"
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.tell("Emulation.setEmulatedMedia", features=scheme)
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.delete(self._base)
        self._http.close()
        self._profile.cleanup()

    def _ask(self, method: str, path: str, **fields: Any) -> Any:
        answer = self._http.request(method, self._base + path, json=fields if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def tell(self, command: str, **fields: Any) -> Any:
        """Have the browser do something that only it knows (Chrome DevTools Protocol)."""
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=fields)

    def open(self, url: str) -> None:
        """Go to a page."""
        self._ask("POST", "/url", url=url)

    def run(self, script: str, *args: Any) -> Any:
        """Run a piece of JavaScript in the page; return what it returns."""
        return self._ask("POST", "/execute/sync", script=script, args=list(args))

    def wait(self, script: str, *, seconds: float = 20) -> Any:
        """Wait until a JavaScript expression is true, on this page or the next; return its value."""
        look = f"const f = ({script}); if (f) done(f); else setTimeout(look, 20)"
        waits = f"const done = arguments[0]; const look = () => {{ {look} }}; look()"
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._ask("POST", "/timeouts", script=round(left * 1000))
            answer = self._http.post(f"{self._base}/execute/async", json={"script": waits, "args": []})
            if answer.status_code == 200:
                return answer.json()["value"]  # else the page has gone on to the next, or time is over
        raise AssertionError(f"{script} did not come true: {self.complaints()}")

    def text(self, selector: str) -> str:
        """What is to be read in an element."""
        return cast("str", self.run("return document.querySelector(arguments[0]).innerText", selector))

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        found = self._ask("POST", "/element", using="css selector", value=selector)
        self._ask("POST", f"/element/{found[_ELEMENT]}/value", text=text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        acts = [{"type": what, "value": key} for key in keys for what in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": acts}])

    def cookies(self) -> Sequence[dict[str, Any]]:
        """The cookies of the page."""
        return cast("Sequence[dict[str, Any]]", self._ask("GET", "/cookie"))

    def complaints(self) -> list[str]:
        """What the browser has said on its console since it was asked last."""
        said = self._ask("POST", "/se/log", type="browser")
        return [str(entry["message"]) for entry in said]

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the page."""
        data = self.tell("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browsing() -> Generator[str]:
    """Run ChromeDriver while the body runs; its URL."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert driver.stdout is not None
        for line in driver.stdout:
            if "successfully on port" in line:
                port = line.rstrip(". \n").rpartition(" ")[2]
                yield f"http://127.0.0.1:{port}"
                return
        raise RuntimeError("chromedriver did not start")
    finally:
        driver.terminate()
        driver.wait(10)
        if driver.stdout is not None:
            driver.stdout.close()
