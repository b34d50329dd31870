"""Where `doctor` and `probe` go: the endpoint, the key and the proxy that the user means.

As in the provider's own SDKs: `--url`, else OPENAI_BASE_URL, else OpenAI. The key is in a variable, that of
the host's own provider unless another is named: OPENAI_API_KEY goes to OpenAI's hosts, and to
OPENAI_BASE_URL, with which it is set.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import attrs
import typer

import wspool
from wspool.cli.usage import usage_error
from wspool.core.providers import key_variable, provider_at
from wspool.pool.upgrade import upgrade_headers
from wspool.wire.dial import check_library, environment_proxy, host_header, parse_proxy, parse_url
from wspool.wire.wire import Endpoint

__all__ = [
    "ApiKeyEnv",
    "Header",
    "Model",
    "Provider",
    "ProxyUrl",
    "Target",
    "Url",
    "find_target",
    "named_provider",
    "no_key",
]

#: Of the provider's SDKs. An http(s) URL without "/responses".
BASE_URL_VARIABLE: Final = "OPENAI_BASE_URL"

#: Whose key is set together with that.
_OPENAI: Final = "api.openai.com"

#: Model of an endpoint on this machine, where any name will do.
_LOCAL_MODEL: Final = "local"

Url = Annotated[
    str | None,
    typer.Option(
        help=f"WebSocket URL of the endpoint; that of {BASE_URL_VARIABLE}, or OpenAI's, if not given."
    ),
]
Model = Annotated[str | None, typer.Option(help="Model for the turns; needed unless on this machine.")]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        help="Environment variable that holds the API key; by default that of the host's own provider, such "
        "as OPENAI_API_KEY for OpenAI's."
    ),
]
ProxyUrl = Annotated[
    str | None,
    typer.Option(help='Proxy, http://host:port or socks5://...; "environment" for that of HTTPS_PROXY.'),
]


Provider = Annotated[
    str | None,
    typer.Option(
        help="What the endpoint can do: openai, azure, xai, vercel or litellm; found out if not given."
    ),
]
Header = Annotated[
    list[str],
    typer.Option(
        metavar="NAME:VALUE",
        help="A further header of the upgrade request; $VARIABLE as VALUE stands for what that holds, so "
        "that a secret stays in the environment. May be repeated.",
    ),
]


@attrs.frozen(kw_only=True)
class Target:
    """An endpoint, as the user means it.

    Attributes:
        url: its URL.
        source: where that comes from.
        endpoint: the same, parsed.
        local: True if it is on this machine.
        model: the model for turns, None if none was named.
        key: the key, None if there is none. Not checked yet.
        key_name: the variable that it is looked for in, None if there is none for this host.
        proxy_url: the proxy's URL, None for none.
        headers: further ones of the upgrade request.
        unused_proxy: True if the environment names a proxy that is not used.
        provider: what the endpoint can do, as the user says; None to find out.
    """

    url: str = attrs.field(repr=False)
    source: str
    endpoint: Endpoint
    local: bool
    model: str | None
    key: str | None = attrs.field(repr=False)
    key_name: str | None
    proxy_url: str | None = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    unused_proxy: bool
    provider: wspool.Provider | None = None

    def __str__(self) -> str:
        # Without the query, which may hold a secret.
        scheme = "ws" if self.endpoint.ssl_context is None else "wss"
        return f"{scheme}://{host_header(self.endpoint)}{self.endpoint.resource.partition('?')[0]}"


def find_target(
    url: str | None,
    model: str | None,
    api_key_env: str | None,
    proxy: str | None,
    policy: wspool.PoolPolicy,
    environment: Mapping[str, str] = os.environ,
    headers: Sequence[str] = (),
) -> Target:
    """Return what the options and the environment name; a mistake in them ends the command."""
    try:
        target = _find(url, model, api_key_env, proxy, policy, environment)
        if not headers:
            return target
        found = tuple(_header(each, environment) for each in headers)
        upgrade_headers(target.key, found, target.endpoint, provider_at(target.endpoint.host))
        return attrs.evolve(target, headers=found)
    except (ValueError, ImportError) as problem:
        # What a program may do instead, a command may not.
        usage_error(str(problem).replace(", or pass allow_insecure=True", ""))


def _find(
    url: str | None,
    model: str | None,
    api_key_env: str | None,
    proxy: str | None,
    policy: wspool.PoolPolicy,
    environment: Mapping[str, str],
) -> Target:
    source = "--url"
    if url is None and (base := environment.get(BASE_URL_VARIABLE)):
        url, source = _from_base(base), BASE_URL_VARIABLE
    elif url is None:
        url, source = wspool.DEFAULT_URL, "the default"
    given = parse_proxy(proxy) if proxy is not None and proxy != "environment" else None
    endpoint = parse_url(
        url,
        connect_timeout=policy.connect_timeout,
        close_timeout=policy.close_timeout,
        max_message_size=policy.max_message_size,
        proxy=given,
    )
    named = environment_proxy(endpoint.host, endpoint.port, secure=endpoint.ssl_context is not None)
    if proxy == "environment":
        proxy, named = named, None
        endpoint = attrs.evolve(endpoint, proxy=parse_proxy(proxy) if proxy is not None else None)
    check_library(endpoint.proxy)
    if source == BASE_URL_VARIABLE and api_key_env is None:
        api_key_env = key_variable(_OPENAI)
    key_name, key = _find_key(endpoint.host, api_key_env, environment)
    local = endpoint.host in ("localhost", "::1") or endpoint.host.startswith("127.")
    return Target(
        url=url,
        source=source,
        endpoint=endpoint,
        local=local,
        model=model or (_LOCAL_MODEL if local else None),
        key=key,
        key_name=key_name,
        proxy_url=proxy,
        headers=(),
        unused_proxy=named is not None and proxy is None,
    )


def _header(given: str, environment: Mapping[str, str]) -> tuple[str, str]:
    name, colon, value = (part.strip() for part in given.partition(":"))
    if not colon or not name or not value:
        raise ValueError(f"--header {name!r} must be NAME:VALUE")  # a value may be a secret
    if value.startswith("$"):
        variable = value[1:].removeprefix("{").removesuffix("}")
        if variable not in environment:
            raise ValueError(f"--header {name!r}: there is no environment variable {variable}")
        value = environment[variable]
    return name, value


def _find_key(
    host: str, api_key_env: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[str | None, str | None]:
    """Return the variable that a key for *host* is looked for in, and the key; None for none."""
    name = api_key_env or key_variable(host)
    return name, (environment.get(name) or None) if name is not None else None


def named_provider(name: str | None) -> wspool.Provider | None:
    """Return the provider with this name, None for no name; a mistake ends the command."""
    if name is None:
        return None
    if name not in wspool.PROVIDERS:
        usage_error(f"--provider {name!r}: there are {', '.join(sorted(wspool.PROVIDERS))}")
    return wspool.PROVIDERS[name]


def no_key(name: str | None) -> str:
    """Return what to say where there is no key in the variable *name*."""
    if name is None:
        return "there is no API key for this host; name the variable that holds it with --api-key-env"
    return (
        f"there is no API key in the environment variable {name}; set it, or name another one "
        "with --api-key-env"
    )


def _from_base(base: str) -> str:
    for scheme, instead in (("https://", "wss://"), ("http://", "ws://")):
        if base.lower().startswith(scheme):
            base = instead + base[len(scheme) :]
    base = base.rstrip("/")
    return base if base.endswith("/responses") else f"{base}/responses"
