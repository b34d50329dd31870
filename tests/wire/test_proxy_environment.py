"""Which proxy the environment names, and which hosts NO_PROXY means: a table, and an oracle for names."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wspool.wire.proxy_environment import environment_proxy

PROXY = "http://a:1"


def is_exempt(entries: str, host: str, port: int = 443) -> bool:
    """Whether NO_PROXY=*entries* means *host*."""
    found = environment_proxy(host, port, environment={"HTTPS_PROXY": PROXY, "NO_PROXY": entries})
    assert found in (None, PROXY)
    return found is None


@pytest.mark.parametrize(
    ("variables", "secure", "plain"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "a"}, "a", None),
        ({"https_proxy": "a", "HTTPS_PROXY": "b"}, "a", None),
        ({"https_proxy": "", "HTTPS_PROXY": "b"}, "b", None),
        ({"HTTPS_PROXY": ""}, None, None),
        ({"HTTP_PROXY": "c"}, None, "c"),
        ({"http_proxy": "c", "HTTP_PROXY": "d"}, None, "c"),
        ({"HTTP_PROXY": "c", "REQUEST_METHOD": "GET"}, None, None),
        ({"http_proxy": "c", "REQUEST_METHOD": "GET"}, None, "c"),
        ({"ALL_PROXY": "e"}, "e", "e"),
        ({"all_proxy": "e", "HTTPS_PROXY": "a", "HTTP_PROXY": "c"}, "a", "c"),
        ({"wss_proxy": "f", "ws_proxy": "g", "HTTPS_PROXY": "a", "HTTP_PROXY": "c"}, "f", "g"),
        ({"HTTPS_PROXY": "a", "ALL_PROXY": "e", "NO_PROXY": "*"}, None, None),
        ({"HTTPS_PROXY": "a", "no_proxy": "other", "NO_PROXY": "*"}, "a", None),
        ({"HTTPS_PROXY": "a", "no_proxy": "", "NO_PROXY": "*"}, None, None),
    ],
)
def test_the_variables(variables: dict[str, str], secure: str | None, plain: str | None) -> None:
    """In small letters first, an empty one is not there, and httpoxy finds nothing."""
    assert secure == environment_proxy("api.example", 443, environment=variables)
    assert plain == environment_proxy("api.example", 80, secure=False, environment=variables)
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
        assert environment_proxy(host, 443, environment=variables) is None
        assert environment_proxy(host, 80, secure=False, environment=variables) is None


#: Of each host what exempts it, and what does not: what curl says, with the ports, stars and lists of others.
TABLE = {
    "api.example": (
        ["api.example", "API.Example", ".api.example", "example", ".example", "example.", ".example."],
        ["*", "x,*", "*.example", "x, y api.example z", ",,api.example", "\tapi.example\n", "x\tapi.example"],
        ["api.example:443", ".example:443", "*:443", "api.example:80,api.example:443"],
        None,
        ["", ",", "i.example", "pi.example", "xample", "api", "api.", ".", "..", "*.", "a*.example"],
        ["*i.example", "v1.api.example", "http://api.example", "api.example/", "api.example:80"],
        ["api.example:\u0664\u0664\u0663"],
    ),
    "api.example.": (["api.example", "api.example.", "example"], None, ["api"]),
    "corp": (["*.corp", ".corp", "corp"], None, ["othercorp", "orp"]),
    "othercorp": (["othercorp"], None, ["corp", ".corp", "*.corp"]),
    "10.1.2.3.example": (["example"], None, ["10.1.2.0/24", "10.1.2.3"]),
    "10.1.2.3": (
        ["10.1.2.3", "10.0.0.0/8", "10.1.2.3/32", "10.1.2.3:443", "*", "10.1.2.99/24", "[10.1.2.3]"],
        ["x 10.1.2.3/31", "10.1.2.3/0", "10.1.2.3/"],
        None,
        ["10.1.2.4", "10.0.0.0/16", "2.3", ".2.3", "10.", "1.2.3", "10.0.0.0/33", "10.0.0.0/x"],
        ["10.0.0.0/-1", "0.0.0.0/0", "10.1.2.3:80", "10.01.2.3", "10.1.2.0", "::/0", "10.1.2.3/8/8"],
        ["10.0.0.0/\u0668"],
    ),
    "2001:db8::1": (
        ["2001:db8::1", "[2001:DB8:0::1]", "2001:db8::/32", "[2001:db8::1]:443", "2001:db8::1/128"],
        None,
        ["2001:db8::2", "[2001:db8::1]:80", "2001:db8:1::/48", "2001:db8::1:443", "2001:db8::/129"],
        ["10.0.0.0/8", "["],
    ),
}


@pytest.mark.parametrize("host", TABLE)
def test_which_hosts_are_exempt(host: str) -> None:
    """Dots, stars, ports, networks, letters, and what stands between the entries."""
    expected = True
    for row in TABLE[host]:
        if row is None:
            expected = False
            continue
        for entries in row:
            assert expected == is_exempt(entries, host), entries
    assert not expected


labels = st.sampled_from(["a", "b", "ab", "corp", "x1"])


@given(
    st.lists(labels, min_size=1, max_size=4), st.lists(labels, min_size=1, max_size=4), st.sampled_from("., ")
)
def test_a_name_means_itself_and_what_is_below_it(host: list[str], entry: list[str], end: str) -> None:
    """Label by label: never a part of one."""
    below = host[-len(entry) :] == entry

    for form in ("{}", ".{}", "*.{}", "{}.", "{}:443", "x,{}", "X {}"):
        assert below == is_exempt(form.format(".".join(entry)) + ("" if end == "." else end), ".".join(host))


@given(st.text(max_size=40), st.sampled_from(["api.example", "10.1.2.3", "2001:db8::1", "a..b", ""]))
def test_no_text_in_it_ends_in_an_exception(entries: str, host: str) -> None:
    """Whatever stands in the variable, there is an answer."""
    assert is_exempt(entries, host) in (True, False)
