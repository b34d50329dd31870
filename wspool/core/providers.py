"""Which provider a host is, what names its key, and which header carries it.

Rules of this module:

* A key that nobody passed goes to its provider's own hosts and nowhere else: a variable of the environment is
  meant for whoever it is named after, not for whatever URL a program was given.
* A provider is known by its name or its host. One that is known by neither is `UNKNOWN`.
"""

from __future__ import annotations

import re
from typing import Final

from wspool.core.policy import AZURE, OPENAI, PROVIDERS, UNKNOWN, VERCEL, XAI, Provider

__all__ = ["header_of", "key_variable", "provider_at", "provider_named"]

#: The hosts of each provider; the names below them, which are regions and resources, are its own as well.
#: Sources: the data residency guide of OpenAI, the regions page of xAI, the regional hosting page of Vercel's
#: AI Gateway, the endpoints of Azure OpenAI and Foundry resources (azure.us is the one for governments).
_HOSTS: Final = {
    "api.openai.com": OPENAI,
    "api.x.ai": XAI,
    "ai-gateway.vercel.sh": VERCEL,
    "openai.azure.com": AZURE,
    "services.ai.azure.com": AZURE,
    "cognitiveservices.azure.com": AZURE,
    "openai.azure.us": AZURE,
}

#: Where each provider's own SDK looks for a key. Sources: openai, xai-sdk, and ai for Vercel's gateway.
_VARIABLES: Final = {
    OPENAI.name: "OPENAI_API_KEY",
    AZURE.name: "AZURE_OPENAI_API_KEY",
    XAI.name: "XAI_API_KEY",
    VERCEL.name: "AI_GATEWAY_API_KEY",
}

#: A JSON Web Token (RFC 7519 section 3), which Entra ID gives; keys of Azure have no dots.
_TOKEN: Final = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)


def provider_named(name: str) -> Provider:
    """Return the provider called *name*, in capitals or not.

    Raises:
        ValueError: there is none; the text names those that there are.
    """
    found = PROVIDERS.get(name.lower())
    if found is None:
        names = ", ".join(repr(each) for each in PROVIDERS)
        raise ValueError(f"provider={name!r} is none of {names}; or pass a Provider")
    return found


def provider_at(host: str) -> Provider:
    """Return the provider that *host*, in lower case, belongs to; `UNKNOWN` if that is nobody's."""
    name = host.removesuffix(".")
    while name:
        if (found := _HOSTS.get(name)) is not None:
            return found
        name = name.partition(".")[2]
    return UNKNOWN


def key_variable(host: str) -> str | None:
    """Return the variable of the environment whose key is meant for *host*; None if there is none."""
    return _VARIABLES.get(provider_at(host).name)


def header_of(key: str, provider: Provider) -> tuple[str, str]:
    """Return the header that carries *key* to *provider*.

    A token of Entra ID is no key, and goes to Azure as it goes anywhere else: as a Bearer.
    """
    name = provider.key_header
    if name.lower() == "authorization" or (name.lower() == "api-key" and _TOKEN.fullmatch(key)):
        return "Authorization", f"Bearer {key}"
    return name, key
