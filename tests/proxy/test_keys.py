"""Keys and tokens: who may use the proxy, with whose credential, and that none of it is written down."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.proxy.asking import KEY, scene
from wspool.core.usage import Usage
from wspool.proxy import Record, Settings, Token, TokenFile, open_proxy
from wspool.proxy.access.account import Account
from wspool.proxy.access.tokens import parse_tokens
from wspool.proxy.headers import asked
from wspool.server import EchoModel, ModelTurn, message

OWN = "sk-own-canary-0987654321"
BODY = {"model": "m", "input": "one two three"}
ALICE = Token("alice", "wsp-alice-canary-1234567890")
BOB = Token("bob", "wsp-bob-canary-1234567890")


def shows(token: Token | str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token if isinstance(token, str) else token.text}"),)


def keys(it: Any) -> set[str | None]:
    """The credentials that the provider was shown in upgrades."""
    return {headers.get("authorization") for _, headers in it.server.handshakes}


async def test_each_client_asks_with_its_own_key(autojump_clock) -> None:
    """One pool each; the key of one never opens a connection for another."""
    async with scene(EchoModel()) as it:
        for name in ("a", "b", "a"):
            assert 200 == (await (await it.client()).turn(headers=shows(name))).status
        assert 2 == len(it.proxy.pools.open)
        assert {"Bearer a", "Bearer b"} == keys(it)


async def test_a_key_of_its_own_goes_instead(autojump_clock) -> None:
    """And none of the clients' tokens, on either way."""
    async with scene(EchoModel(), api_key=OWN, tokens=[ALICE], server={"api_key": OWN}) as it:
        client = await it.client()
        assert 200 == (await client.turn(headers=shows(ALICE))).status
        assert 200 == (await client.ask("GET", "/v1/models", headers=shows(ALICE))).status
        assert 200 == (await client.turn(headers=(("api-key", ALICE.text),))).status
        records = await it.records()
        assert {f"Bearer {OWN}"} == keys(it)

    assert ["alice"] * 3 == [record.token for record in records]


def test_no_credential_of_a_client_goes_beside_it() -> None:
    """In whatever spelling: the provider is asked as the proxy, or as the client, never as both. Nor is it
    the client who says which of the accounts pays that the proxy's key may use.
    """
    accounts = ["openai-organization", "openai-project", "chatgpt-account-id"]
    spellings = ["authorization", "api-key", "x-api-key", "x-goog-api-key", "openai-auth", *accounts]
    spellings.append("x-wspool-token")
    given = [(name.encode(), ALICE.text.encode()) for name in spellings]

    assert [] == asked(given, credentials=False)
    assert given[:-1] == asked(given, credentials=True)


@pytest.mark.parametrize("shown", [(), shows("wsp-mallory-1234567890"), shows(OWN), (("cookie", "a=b"),)])
async def test_without_a_token_nothing_is_asked(autojump_clock, shown: Any) -> None:
    """On every path but health, before anything is looked at."""
    async with scene(EchoModel(), api_key=OWN, tokens=[ALICE]) as it:
        client = await it.client()
        for target in ("/v1/responses", "/v1/models", "/nowhere", "/"):
            got = await client.ask("POST", target, {}, headers=shown)
            assert (401, "invalid_api_key") == (got.status, got.json["error"]["code"])
        upgrade = (("upgrade", "websocket"), ("connection", "upgrade"), *shown)
        assert 401 == (await client.ask("GET", "/v1/responses", headers=upgrade)).status
        assert 0 == it.server.statistics().connections_total + len(it.ledger)


async def test_a_token_beside_a_key_has_a_header_of_its_own(autojump_clock) -> None:
    """A proxy for others without a key: the client's goes to the provider, the token does not."""
    async with scene(EchoModel(), tokens=[ALICE]) as it:
        client = await it.client()
        assert 401 == (await client.turn(headers=shows(ALICE))).status
        assert 200 == (await client.turn(headers=(KEY, ("x-wspool-token", ALICE.text)))).status
        (_, headers) = it.server.handshakes[0]
        assert ALICE.text not in str(headers)


async def test_a_key_of_its_own_needs_tokens() -> None:
    """Any process of this machine could use it."""
    with pytest.raises(ValueError, match="needs tokens"):
        async with open_proxy(api_key=OWN):
            pass


async def test_f162_a_file_of_tokens_is_read_again(autojump_clock, tmp_path: Path) -> None:
    """F162: a token is taken out of the file -> its connections are cut off within seconds, in mid-turn;
    nobody else notices. A broken file changes nothing.
    """
    path = tmp_path / "tokens"

    def write(text: str) -> None:
        path.write_text(text)
        path.chmod(0o600)
        os.utime(path, ns=(trio.current_time().__int__() * 10**9, trio.current_time().__int__() * 10**9))

    write(f"alice {ALICE.text}\nbob {BOB.text} limit=2 weight=0.5 budget=9\n")
    tokens = TokenFile(path)
    assert {"alice": ALICE, "bob": Token("bob", BOB.text, 2, 0.5, 9)} == tokens.tokens
    async with scene(
        EchoModel(),
        api_key=OWN,
        tokens=tokens,
        server={"delay_per_token": 10},
        settings=Settings(on_hangup="abandon"),
    ) as it:
        alice, bob = await it.client(), await it.client()
        await alice.send("POST", "/v1/responses", BODY, headers=shows(ALICE))
        await bob.send("POST", "/v1/responses", BODY, headers=shows(BOB))
        await trio.sleep(3)
        write("alice\n")
        await trio.sleep(3)
        write(f"bob {BOB.text}\n")
        with pytest.raises(AssertionError, match="nothing came"):
            await alice.receive()
        assert 200 == (await bob.receive()).status
        assert 401 == (await (await it.client()).turn(headers=shows(ALICE))).status


async def test_f163_a_budget_stops_before_the_next_turn(autojump_clock) -> None:
    """F163: a token has used its tokens of the day -> 429 `insufficient_quota` before its next turn, with
    the seconds until midnight UTC. By whatever name of a session it comes.
    """
    usage = {
        "input_tokens": 60,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 110,
    }
    spent = ModelTurn(output=[message("yes")], usage=usage)

    class Model:
        def respond(self, request: Any) -> ModelTurn:
            return spent

    small = Token("small", "wsp-small-canary-1234567890", budget=200)
    async with scene(Model(), api_key=OWN, tokens=[small, ALICE]) as it:
        client = await it.client()
        named = [f"/s/roll-{number}/v1" for number in range(4)]
        got = [await client.turn(target=f"{at}/responses", headers=shows(small)) for at in named[:3]]
        assert [200, 200, 429] == [answer.status for answer in got]
        assert "insufficient_quota" == got[2].json["error"]["code"]
        assert 0 < float(got[2].headers["retry-after"]) <= 86400
        compact = await client.turn(target=f"{named[3]}/responses/compact", headers=shows(small))
        assert (429, 200) == (compact.status, (await client.turn(headers=shows(ALICE))).status)
        assert [
            ("roll-0", "completed"),
            ("roll-1", "completed"),
            ("roll-2", "rejected"),
            ("roll-3", "rejected"),
            (None, "completed"),
        ] == [(record.session, record.outcome) for record in await it.records()]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("alice", "a name and a token"),
        ("al/ice wsp-1234567890123456", "the name"),
        ("alice short", "16 characters"),
        ("alice wsp-1234567890123456 limit=0", "more than 0"),
        ("alice wsp-1234567890123456 colour=red", "more than 0"),
        ("alice wsp-1234567890123456 keepalive=loud", "keepalive=auto|comment|off".replace("|", r"\|")),
        ("a wsp-1234567890123456\na wsp-1234567890123457", "there already"),
        ("a wsp-1234567890123456\nb wsp-1234567890123456", "there already"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(text: str, what: str) -> None:
    """By its line, and without the token."""
    with pytest.raises(ValueError, match=what) as caught:
        parse_tokens("# tokens\n\n" + text)
    assert "line " in str(caught.value)
    assert "wsp-" not in str(caught.value)


def test_a_day_ends_at_midnight() -> None:
    """UTC; then everything is there again."""
    now = 86400.0 * 3 - 10
    account = Account(lambda: now)
    spent = Record(number=1, door="json", token="a", outcome="completed", usage=Usage(6, 0, 4, 0))
    account.note(spent)
    account.note(spent)
    account.note(Record(number=2, door="json", token="a", usage=Usage(6, 0, 4, 0)))  # it has not ended
    assert (20, 0, 10.0) == (account.used("a"), account.used("b"), account.left_today())
    now += 11
    assert 0 == account.used("a")


def spent(tokens: int, name: str = "a") -> Record:
    return Record(number=1, door="json", token=name, outcome="completed", usage=Usage(tokens, 0, 0, 0))


async def test_f186_a_budget_outlives_the_proxy(autojump_clock, tmp_path: Path) -> None:
    """F186: the proxy ends, or is killed, and another one begins -> what tokens have used today still counts,
    up to two seconds before the kill.
    """
    path = tmp_path / "state"
    small = Token("small", "wsp-small-canary-1234567890", budget=1)
    async with scene(EchoModel(), api_key=OWN, tokens=[small], state=path) as it:
        client = await it.client()
        assert 200 == (await client.turn(headers=shows(small))).status
        await trio.sleep(3)
        assert '"small"' in path.read_text()  # were it killed now
        assert ["state"] == os.listdir(tmp_path)
    async with scene(EchoModel(), api_key=OWN, tokens=[small], state=path) as it:
        assert 429 == (await (await it.client()).turn(headers=shows(small))).status
    if os.name == "posix":
        assert 0o600 == path.stat().st_mode & 0o777
    assert small.text not in path.read_text()


def test_two_proxies_count_together(tmp_path: Path) -> None:
    """One takes over while the other still has turns to end; each adds what the other cannot know."""
    path = tmp_path / "state"
    old = Account(path=path)
    old.note(spent(5))
    old.save()
    new = Account(path=path)
    old.note(spent(10))
    new.note(spent(100))
    new.save()
    old.save()

    assert (115, 115) == (old.used("a"), Account(path=path).used("a"))
    new.save()  # nothing new of its own
    assert 115 == Account(path=path).used("a")


def test_what_was_used_yesterday_is_not_used_today(tmp_path: Path) -> None:
    """Also where a file says so, and where nobody has looked at midnight."""
    path, now = tmp_path / "state", 86400.0 * 3
    account = Account(lambda: now, path)
    account.note(spent(5))
    account.save()
    account.note(spent(7))  # and is not written down before midnight
    now += 86400
    account.note(spent(1, "b"))
    account.save()

    assert (0, 1) == (account.used("a"), account.used("b"))
    assert (0, 1) == (Account(lambda: now, path).used("a"), Account(lambda: now, path).used("b"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"day": 1, "used": {"a": "b"}}', '{"day": "a", "used": {}}']
)
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, text: str) -> None:
    """It may be anything: it is said, and left as it was."""
    path = tmp_path / "state"
    path.write_text(text)

    with pytest.raises(ValueError, match="move it away"):
        Account(path=path)
    assert text == path.read_text()


def test_a_full_disk_costs_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and made good once there is room."""
    place = tmp_path / "place"
    place.mkdir()
    account = Account(path=place / "state")
    place.rename(tmp_path / "gone")
    for _ in range(3):
        account.note(spent(5))
        account.save()
    assert 1 == len(caplog.records)
    assert 15 == account.used("a")
    (tmp_path / "gone").rename(place)
    account.save()

    assert 15 == Account(path=place / "state").used("a")


@pytest.fixture
def everything() -> Generator[io.StringIO]:
    """All that any logger says, at every level."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.setLevel(before)
    root.removeHandler(handler)


async def test_no_key_is_written_down(autojump_clock, everything: io.StringIO) -> None:
    """Not in a log at DEBUG, not in a record, not in an answer: the provider's, the token's, a wrong one."""
    wrong = "wsp-mallory-canary-000000"
    answers: list[Any] = []
    async with scene(EchoModel(), api_key=OWN, tokens=[ALICE], server={"api_key": "another"}) as it:
        client = await it.client()
        for token in (ALICE.text, wrong):
            answers.append(await client.turn(headers=shows(token)))
            answers.append(await client.turn(headers=shows(token), stream=True))
            answers.append(await client.ask("GET", f"/v1/models?key={token}", headers=shows(token)))
            answers.append(await client.ask("POST", "/v1/responses", b"{", headers=shows(token)))
        records = json.dumps([record.as_json() for record in await it.records()])
        shown = repr(it.proxy) + repr(it.proxy.front) + repr(it.proxy.pools) + repr(ALICE)

    said = everything.getvalue() + records + shown + repr(answers)
    assert {401} == {answer.status for answer in answers if answer.status != 400}
    assert "rejected" in said
    for canary in (OWN, ALICE.text, wrong):
        assert canary not in said
