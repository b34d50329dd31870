"""The pytest plugin, as a user has it: nothing to import, any kind of test, failures that say what to do."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import httpx  # noqa: F401 # pytester forgets what a run imports, and each run would import them again
import openai  # noqa: F401 # likewise
import pytest

from wspool.testing import local_server

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.network

#: As the plugin comes to a user, whether or not this very tree is installed; and nothing of our own settings.
OPTIONS = ("-p", "pytest_wspool", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest")


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess(*OPTIONS, *options)


def test_it_costs_nothing_until_it_is_asked() -> None:
    """Importing it loads nothing of ours, nor trio."""
    code = "import pytest, sys; old = set(sys.modules); import pytest_wspool; print(*set(sys.modules) - old)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert ["pytest_wspool"] == loaded


def test_it_is_registered_under_its_name() -> None:
    """So that `-p pytest_wspool` and `-p no:pytest_wspool` mean it, installed or not."""
    found = {point.name: point.value for point in entry_points(group="pytest11")}
    assert found.get("pytest_wspool", "pytest_wspool") == "pytest_wspool"
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\npytest_wspool = "pytest_wspool"' in text


TESTS = """
import asyncio
import httpx
import openai
import pytest
import trio
import wspool


def test_plain(wspool_server):
    wspool_server.script("Hello", "there")
    with openai.OpenAI(api_key="sk-test", base_url=wspool_server.base_url) as client:
        first = client.responses.create(model="m", input="hi")
        second = client.responses.create(model="m", input="hi", previous_response_id=first.id)
    assert [first.output_text, second.output_text] == ["Hello", "there"]
    wspool_server.expect(requests=2, continued=1, transport="http")


async def test_trio(wspool_server):
    wspool_server.fault("metadata")
    async with wspool.open_pool(wspool_server.url) as pool, pool.conversation(model="m") as conversation:
        assert (await conversation.respond("hi")).output_text == "hi"
    wspool_server.expect(requests=1, transport="websocket")


def test_asyncio(wspool_server):
    async def main():
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=wspool_server.base_url) as client:
            return await client.responses.create(model="m", input="hi")

    assert asyncio.run(main()).output_text == "hi"


@pytest.mark.wspool_server(profile="azure", api_key="k")
class TestOptions:
    @pytest.mark.wspool_server(api_key="key")
    def test_the_nearer_mark_goes_first(self, wspool_server):
        for key, status in (("k", 401), ("key", 200)):
            headers = {"api-key": key}
            answer = httpx.post(wspool_server.http_url, json={"model": "m", "input": "hi"}, headers=headers)
            assert answer.status_code == status


def test_every_test_has_its_own(wspool_server):
    wspool_server.expect(requests=0)
"""


def test_any_kind_of_test(pytester: pytest.Pytester) -> None:
    """Plain, trio's, asyncio's; with options by mark."""
    pytester.makeini("[pytest]\ntrio_mode = true\n")
    pytester.makepyfile(TESTS)
    run(pytester).assert_outcomes(passed=5)


def test_a_ledger_that_differs_is_shown(pytester: pytest.Pytester) -> None:
    """In the failure, as it is."""
    pytester.makepyfile(
        """
        import httpx


        def test_one(wspool_server):
            httpx.post(wspool_server.http_url, json={"model": "m", "input": "hi"})
            wspool_server.expect(requests=2)


        def test_two(wspool_server):
            wspool_server.script("one")
            for _ in range(2):
                items = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "one"}]
                httpx.post(wspool_server.http_url, json={"model": "m", "input": items})
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*the script ends after turn 1;*turn 2*", "*requests: expected 2, got 1", "*transport  connection*"]
    )


CASSETTE_TEST = """
import httpx
import pytest


def ask(server, text):
    return httpx.post(server.http_url, json={"model": "m", "input": text})


@pytest.mark.parametrize("text", ["a b/c", "d"])
def test_one(wspool_cassette, text):
    answer = ask(wspool_cassette, text)
    assert answer.json()["output"][0]["content"][0]["text"] == text
"""


def test_record_and_replay(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the failure says how to make one; then it is made; then no endpoint is needed."""
    monkeypatch.delenv("WSPOOL_RECORD", raising=False)
    pytester.makepyfile(test_it=CASSETTE_TEST)
    missing = run(pytester)
    missing.assert_outcomes(errors=2)
    missing.stdout.fnmatch_lines(["*there is no cassette *--wspool-record=wss://*"])

    with local_server() as server:
        recorded = run(pytester, f"--wspool-record={server.url}")
        recorded.assert_outcomes(passed=2)
        recorded.stdout.fnmatch_lines(["wspool: cassettes are recorded, once"])
        server.expect(requests=2)
        run(pytester, f"--wspool-record={server.url}").assert_outcomes(passed=2)
        server.expect(requests=2)
        run(pytester, f"--wspool-record={server.url}", "--wspool-record-mode=rewrite").assert_outcomes(
            passed=2
        )
        server.expect(requests=4)
    files = sorted((pytester.path / "cassettes" / "test_it").iterdir())
    assert ["test_one[a-b-c].json", "test_one[d].json"] == [file.name for file in files]
    replayed = run(pytester)
    replayed.assert_outcomes(passed=2)
    assert "cassettes are recorded" not in replayed.stdout.str()

    changed = CASSETTE_TEST.replace("ask(wspool_cassette, text)", "ask(wspool_cassette, text + '!')")
    pytester.makepyfile(test_it=changed)
    differs = run(pytester)
    differs.assert_outcomes(failed=2, errors=2)
    differs.stdout.fnmatch_lines(['*nearest is 1 of 1, input?0?.content: expected "d", got "d!"'])


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("[]", (), "test_one.json is no cassette: "),
        (None, ("--wspool-record=http://127.0.0.1:1/v1",), "the URL must start with wss://"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    pytester: pytest.Pytester, text: str | None, options: tuple[str, ...], said: str
) -> None:
    """And no traceback through this library, in which it would be looked for."""
    pytester.makepyfile(test_it="def test_one(wspool_cassette): ...")
    if text is not None:
        (pytester.mkdir("cassettes") / "test_it").mkdir()
        (pytester.path / "cassettes" / "test_it" / "test_one.json").write_text(text)
    result = run(pytester, *options)
    result.assert_outcomes(errors=1)
    assert said in result.stdout.str()
    assert "tape_server" not in result.stdout.str()


def test_a_mark_and_a_directory(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file for several tests, and where the fixture says."""
    pytester.makeconftest(
        """
        import pytest


        @pytest.fixture(scope="module")
        def wspool_cassette_dir(request):
            return request.path.parent / "tapes"
        """
    )
    pytester.makepyfile(
        """
        import httpx
        import pytest

        pytestmark = pytest.mark.wspool_cassette("all.json")


        @pytest.mark.parametrize("number", [1, 2])
        def test_it(wspool_cassette, number):
            assert httpx.post(wspool_cassette.http_url, json={"model": "m", "input": "x"}).status_code == 200
        """
    )
    with local_server(api_key="sk-the-key-of-the-server") as server:
        refused = run(pytester, f"--wspool-record={server.url}", "--wspool-record-key-env=NO_KEY")
        refused.stdout.fnmatch_lines(["*there is no NO_KEY in the environment"])
        monkeypatch.setenv("SOME_KEY", "sk-the-key-of-the-server")
        run(pytester, f"--wspool-record={server.url}", "--wspool-record-key-env=SOME_KEY").assert_outcomes(
            passed=2
        )
        server.expect(requests=1)
    assert (pytester.path / "tapes" / "all.json").exists()
    run(pytester).assert_outcomes(passed=2)


def test_what_a_failed_test_recorded_is_not_kept(pytester: pytest.Pytester) -> None:
    """Half a run would be replayed for ever."""
    pytester.makepyfile(
        """
        import httpx


        def test_it(wspool_cassette):
            httpx.post(wspool_cassette.http_url, json={"model": "m", "input": "x"})
            raise AssertionError("half way")
        """
    )
    with local_server() as server:
        run(pytester, f"--wspool-record={server.url}").assert_outcomes(failed=1)
    assert not (pytester.path / "cassettes").exists()
