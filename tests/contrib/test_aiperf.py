"""aiperf, by the transport of wspool: its own command finds it, and loads a server over WebSocket."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import wspool.contrib
from wspool.testing import local_server

FOLDER = Path(wspool.contrib.__path__[0])


def test_what_the_entry_point_names_is_there() -> None:
    """aiperf looks for a file beside the package, and in it for a class: neither is an object of ours."""
    [entry] = [found for found in metadata.entry_points(group="aiperf.plugins") if found.name == "wspool"]
    package, _, file = entry.value.partition(":")
    assert package == "wspool.contrib"

    [named] = [line for line in (FOLDER / file).read_text().splitlines() if line.strip().startswith("class:")]
    module, _, name = named.split(": ")[1].partition(":")
    tree = ast.parse((FOLDER / f"{module.removeprefix('wspool.contrib.')}.py").read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


@pytest.mark.network
@pytest.mark.clients
def test_a_load_test_of_conversations_goes_over_websocket(tmp_path: Path) -> None:
    """No request fails, none goes by HTTP, and each turn but the first goes on from the one before."""
    command = shutil.which("aiperf", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("not installed: aiperf")
    tokenizer = _tokenizer(tmp_path / "tokenizer")
    data = tmp_path / "conversations.jsonl"
    with data.open("w") as file:
        for number in range(20):
            turns = [{"text": f"conversation {number}, turn {turn}"} for turn in range(3)]
            file.write(json.dumps({"session_id": str(number), "turns": turns}) + "\n")

    with local_server() as server:
        arguments = {
            "--transport": "wspool",
            "--endpoint-type": "responses",
            "--url": server.base_url.removesuffix("/v1"),
            "--model": "gpt-5.2",
            "--input-file": str(data),
            "--custom-dataset-type": "multi_turn",
            "--concurrency": "10",
            "--conversation-num": "20",
            "--tokenizer": str(tokenizer),
            "--ui": "none",
            "--artifact-dir": str(tmp_path / "artifacts"),
        }
        words = [word for pair in arguments.items() for word in pair]
        done = subprocess.run(
            [command, "profile", "--streaming", *words],
            capture_output=True,
            text=True,
            timeout=180,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        [records] = tmp_path.rglob("profile_export.jsonl")
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        assert [bool(line.get("error")) for line in lines] == [False] * 60
        server.expect(requests=60, continued=40, transport="websocket")


def _tokenizer(folder: Path) -> Path:
    """Write a tokenizer that knows one word: aiperf would fetch one by the model's name, and only counts."""
    tokenizers = pytest.importorskip("tokenizers", reason="not installed: tokenizers")
    transformers = pytest.importorskip("transformers", reason="not installed: transformers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)
    return folder
