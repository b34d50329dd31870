"""The OpenAI SDK: a tool loop that brings its history, one that streams, one by `connect()`. Any version."""

import json
import os
import sys

import openai

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
client = openai.OpenAI(api_key="sk-test", base_url=os.environ["BASE_URL"])


def created(items, parent):
    return client.responses.create(model="gpt-5.2", input=items, tools=[TOOL], store=False)


def streamed(items, parent):
    with client.responses.stream(model="gpt-5.2", input=items, tools=[TOOL]) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()
    assert "".join(deltas) == response.output_text
    return response


def by_socket(connection):
    def ask(items, parent):
        new = items if parent is None else [items[-1]]
        connection.response.create(model="gpt-5.2", input=new, tools=[TOOL], previous_response_id=parent)
        for event in connection:
            if event.type == "response.completed":
                return event.response
        raise EOFError

    return ask


def loop(ask):
    items, parent = [{"role": "user", "content": "Is it nice in Paris?"}], None
    while True:
        response = ask(items, parent)
        parent = response.id
        items += [item.to_dict() for item in response.output]
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return response.output_text
        items += [
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls
        ]


if os.environ.get("TRANSPORT") == "websocket":
    with client.responses.connect() as connection:
        answers = [loop(by_socket(connection))]
else:
    answers = [loop(created), loop(streamed)]
sys.stdout.write(json.dumps(answers))
