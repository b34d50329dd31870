"""LiteLLM's proxy in front, as its config says: a tool loop in chat completions, and one in messages."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import httpx

KEY = "sk-u7Qz41vXn8Lp0rTd"
WHERE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASKED = {"role": "user", "content": "Is it nice in Paris?"}


@contextlib.contextmanager
def litellm():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "sk-test",
    }
    command = ["litellm", "--config", os.environ["CONFIG"], "--host", "127.0.0.1", "--port", str(port)]
    with open("litellm.log", "w") as log:
        program = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            client.headers.update({"Authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"})
            for _ in range(240):
                if program.poll() is not None:
                    sys.exit(pathlib.Path("litellm.log").read_text()[-2000:])
                try:
                    client.get("/health/liveliness").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            yield client
    finally:
        program.terminate()
        program.wait(30)


def post(client, path, **body):
    answer = client.post(path, json={"model": "gpt-5.2", **body})
    if answer.status_code != 200:
        sys.exit(answer.text)
    return answer.json()


def chat(client):
    tools = [{"type": "function", "function": {"name": "weather", "description": "w", "parameters": WHERE}}]
    messages = [ASKED]
    while True:
        said = post(client, "/v1/chat/completions", messages=messages, tools=tools)["choices"][0]["message"]
        if not said.get("tool_calls"):
            return said["content"]
        messages.append(said)
        for call in said["tool_calls"]:
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "sunny"})


def messages(client):
    tools = [{"name": "weather", "description": "w", "input_schema": WHERE}]
    messages = [ASKED]
    while True:
        said = post(client, "/v1/messages", messages=messages, tools=tools, max_tokens=1000)["content"]
        uses = [part["id"] for part in said if part["type"] == "tool_use"]
        if not uses:
            return "".join(part["text"] for part in said if part["type"] == "text")
        results = [{"type": "tool_result", "tool_use_id": use, "content": "sunny"} for use in uses]
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": results}]


with litellm() as client:
    sys.stdout.write(json.dumps([chat(client), messages(client)]) + "\n")
