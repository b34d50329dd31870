"""The official conformance suite of Open Responses, as it is, against every profile of the server.

`WSPOOL_OPENRESPONSES` is a clone of it (a fork with the WebSocket tests: `Stars1233/openresponses`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.installed import installed
from wspool.testing.local import local_server

_ERRORS = {
    "websocket-failed-continuation-evicts-cache",
    "websocket-previous-response-not-found",
    "websocket-reconnect-store-false-recovery",
}

#: What fails of it by profile, and must: these providers do so. The reasons are in docs/testing.md.
FAILS = {
    "openai": set[str](),
    "azure": set[str](),
    "xai": set[str](),
    "vllm": set[str](),
    "vercel": {"websocket-failed-continuation-evicts-cache", "websocket-reconnect-store-false-recovery"},
    "litellm": _ERRORS,
    "localai": _ERRORS | {"websocket-continuation"},
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The suite, with what it needs beside it."""
    given = os.environ.get("WSPOOL_OPENRESPONSES")
    if not given:
        pytest.skip("set WSPOOL_OPENRESPONSES to a clone of the conformance suite of Open Responses")
    folder = tmp_path / "suite"
    shutil.copytree(given, folder, ignore=shutil.ignore_patterns("node_modules", ".git"))
    (folder / "node_modules").symlink_to(installed("bun").folder / "node_modules")
    return folder


@pytest.mark.parametrize("profile", FAILS)
def test_conformance(suite: Path, profile: str) -> None:
    """All of it, but for what the provider itself does otherwise."""
    bun = str(suite / "node_modules" / ".bin" / "bun")
    with local_server(profile=profile) as server:
        options = ("--base-url", server.base_url, "--api-key", "sk-x", "--model", "gpt-5.2", "--json")
        done = subprocess.run(
            [bun, "run", "bin/compliance-test.ts", *options],
            cwd=suite,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    results = {result["id"]: result for result in json.loads(done.stdout)["results"]}
    assert 17 == len(results)
    failed = {name for name, result in results.items() if result["status"] != "passed"}
    wrong = {name: str(results[name].get("errors"))[:500] for name in failed - FAILS[profile]}
    assert FAILS[profile] == failed, wrong
