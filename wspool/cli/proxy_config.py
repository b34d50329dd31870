"""What programs have to be told so that they ask a proxy: `wspool proxy --print-config NAME`."""

from typing import Final

__all__ = ["PROGRAMS", "config_for"]

_NO_PROXY: Final = 'export NO_PROXY="127.0.0.1,localhost,::1${NO_PROXY:+,$NO_PROXY}"'

_ENVIRONMENT: Final = f"""# In a shell. A proxy of the company must not get what is meant for this machine.
export OPENAI_BASE_URL="<URL>"
{_NO_PROXY}
"""

_CODEX: Final = f"""# In ~/.codex/config.toml
model_provider = "wspool"

[model_providers.wspool]
name = "wspool"
base_url = "<URL>"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
supports_websockets = <SOCKETS>

# In a shell:
# {_NO_PROXY}
"""

_OPENCODE: Final = f"""// In opencode.json, of the project or in ~/.config/opencode. In a shell:
// {_NO_PROXY}
{{
  "$schema": "https://opencode.ai/config.json",
  "provider": {{ "openai": {{ "options": {{ "baseURL": "<URL>" }} }} }}
}}
"""

_AI_SDK: Final = f"""// In a shell: {_NO_PROXY}
import {{ createOpenAI }} from "@ai-sdk/openai";
const openai = createOpenAI({{ baseURL: "<URL>" }});
"""

_CLINE: Final = f"""{_NO_PROXY}
cline auth -p openai-native -k "$OPENAI_API_KEY" -m MODEL -b <URL>
"""

_LITELLM: Final = f"""# In LiteLLM's config.yaml, for programs that speak chat completions or messages.
# In a shell: {_NO_PROXY}
model_list:
  - model_name: "*"
    litellm_params:
      model: openai/responses/*
      api_base: "<URL>"
      api_key: os.environ/OPENAI_API_KEY
"""

#: The programs by name.
PROGRAMS: Final = {
    "ai-sdk": _AI_SDK,
    "cline": _CLINE,
    "codex": _CODEX,
    "env": _ENVIRONMENT,
    "litellm": _LITELLM,
    "opencode": _OPENCODE,
}


def config_for(program: str, base_url: str, *, websocket: bool) -> str:
    """Return what *program* has to be told.

    Args:
        base_url: of the proxy.
        websocket: whether it takes WebSocket clients.

    Raises:
        KeyError: nothing is known of it.
    """
    return PROGRAMS[program].replace("<URL>", base_url).replace("<SOCKETS>", "true" if websocket else "false")
