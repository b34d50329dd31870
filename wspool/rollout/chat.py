"""Requests of the Chat Completions API, said in the words of the Responses API.

Most public Batch files are made of them. A request is translated if the Responses API can say the same, to
the letter and with the same defaults; what it cannot say is named, and nothing is left out in silence.

Sources: `CompletionCreateParams` and `ResponseCreateParams` of openai-python 3.57.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, cast

__all__ = ["is_chatty", "messages_to_items", "tool_definition", "translate"]

#: Said with the same word in both.
_SAME: Final = frozenset(
    {
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
    }
)
#: What says nothing, because it is what happens without it, or how the answer is carried.
_NEUTRAL: Final[Mapping[str, Sequence[object]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "n": (1,),
    "stop": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "stream": (False, True),
    "functions": ([],),
    "tools": ([],),
}
_CARRYING: Final = frozenset({"stream_options"})
#: Of `max_output_tokens`. Source: what api.openai.com and Azure answer, `integer_below_min_value`.
_LEAST_TOKENS: Final = 16

Body = dict[str, Any]


def translate(body: Mapping[str, Any], leave_out: Collection[str] = ()) -> Body:
    """Return the request *body* as the Responses API has it.

    Args:
      body: as the Chat Completions API has it.
      leave_out: fields that the caller does without.

    Raises:
      ValueError: something in it cannot be said; the text names it.
    """
    # What is stored is told otherwise: here only if asked for, there unless asked not to.
    said: Body = {"store": False}
    unsaid: Body = {}
    for name, value in body.items():
        if name in leave_out or value is None or name in _CARRYING or value in _NEUTRAL.get(name, ()):
            continue
        if name == "messages":
            said["input"] = messages_to_items(value, leave_out)
        elif name in _SAME:
            said[name] = value
        elif name in _TRANSLATED:
            _put(said, _TRANSLATED[name](value))
        else:
            unsaid[name] = value
    if unsaid:
        without = " ".join(f"--leave-out {name}" for name in unsaid)
        more = f", and -n {unsaid['n']} with it takes so many answers" if "n" in unsaid else ""
        names = ", ".join(map(repr, unsaid))
        raise ValueError(f"the Responses API cannot say {names}; {without} does without{more}")
    if "input" not in said:
        raise ValueError("there are no messages")
    return said


def _put(said: Body, more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        before = said.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            said[name] = {**before, **value}
        elif isinstance(before, list) and isinstance(value, list):
            said[name] = [*before, *value]
        else:
            said[name] = value


def _most_tokens(name: str, value: Any) -> Body:
    if isinstance(value, int) and value < _LEAST_TOKENS:
        raise ValueError(
            f"{name} is {value}, and the Responses API takes no less than {_LEAST_TOKENS}; "
            f"--leave-out {name} does without, --set max_output_tokens={_LEAST_TOKENS} with it sets another"
        )
    return {"max_output_tokens": value}


def _format(value: Any) -> Body:
    kind = _object(value, "response_format").get("type")
    if kind == "json_schema":
        schema = _object(value.get("json_schema"), "response_format.json_schema")
        return {"text": {"format": {"strict": False, **_given(schema), "type": kind}}}
    return {"text": {"format": value}}


def tool_definition(tool: object) -> Body:
    """Return the definition of a tool as the Responses API has it; one that is so already stays.

    Raises:
      ValueError: it is none.
    """
    found = _object(tool, "a tool")
    kind = found.get("type")
    inside = found.get(str(kind)) if kind in ("function", "custom") else None
    if not isinstance(inside, dict):
        return found
    said: Body = {"type": kind, **_given(cast("Body", inside))}
    if kind == "function":
        said.setdefault("parameters", {"type": "object", "properties": {}})
        said.setdefault("strict", False)  # there it is the default
    elif isinstance(given := said.get("format"), dict) and "grammar" in given:
        said["format"] = {"type": "grammar", **cast("Body", given["grammar"])}
    return said


def _tools(value: Any) -> Body:
    return {"tools": [tool_definition(each) for each in _list(value, "tools")]}


def _functions(value: Any) -> Body:
    made = [tool_definition({"type": "function", "function": each}) for each in _list(value, "functions")]
    return {"tools": made, "parallel_tool_calls": False}  # of that kind one was called at a time


def _choice(value: Any) -> Body:
    if isinstance(value, str):
        return {"tool_choice": value}
    found = _object(value, "tool_choice")
    kind = str(found.get("type"))
    inside = found.get(kind)
    if not isinstance(inside, dict):
        return {"tool_choice": found}
    said: Body = {"type": kind, **cast("Body", inside)}
    if kind == "allowed_tools":
        said["tools"] = [
            {"type": each.get("type"), **_object(each.get(str(each.get("type"))), "an allowed tool")}
            for each in _list(said.get("tools"), "allowed_tools.tools")
        ]
    return {"tool_choice": said}


def _function_choice(value: Any) -> Body:
    return {"tool_choice": value if isinstance(value, str) else {"type": "function", **value}}


_TRANSLATED: Final[Mapping[str, Callable[[Any], Body]]] = {
    "max_tokens": lambda value: _most_tokens("max_tokens", value),
    "max_completion_tokens": lambda value: _most_tokens("max_completion_tokens", value),
    "reasoning_effort": lambda value: {"reasoning": {"effort": value}},
    "verbosity": lambda value: {"text": {"verbosity": value}},
    "logprobs": lambda _: {"include": ["message.output_text.logprobs"]},
    "response_format": _format,
    "tools": _tools,
    "functions": _functions,
    "tool_choice": _choice,
    "function_call": _function_choice,
}


def is_chatty(items: object) -> bool:
    """Return whether *items* are messages that only the Chat Completions API has so."""
    if not isinstance(items, list):
        return False
    for item in cast("list[object]", items):
        if not isinstance(item, dict) or "type" in item:
            continue
        message = cast("Body", item)
        if message.get("role") in ("tool", "function") or message.get("tool_calls"):
            return True
        content = message.get("content")
        if isinstance(content, list) and any(
            isinstance(part, dict) and cast("Body", part).get("type") in _PARTS
            for part in cast("list[object]", content)
        ):
            return True
    return False


def messages_to_items(messages: object, leave_out: Collection[str] = ()) -> list[Body]:
    """Return the *messages* of a chat as items of the Responses API.

    Raises:
      ValueError: they are none, or cannot be said; the text says where.
    """
    items: list[Body] = []
    custom: set[str] = set()
    legacy = 0
    for number, each in enumerate(_list(messages, "messages")):
        where = f"messages[{number}]"
        message = _object(each, where)
        role = message.get("role")
        known = _KNOWN.get(str(role))
        if known is None:
            raise ValueError(f"{where} has the role {role!r:.40}, which nobody knows")
        for name, value in message.items():
            if name not in known and name not in leave_out and value not in (None, [], ""):
                raise ValueError(
                    f"the Responses API cannot say {name!r} of {where}; --leave-out {name} does without"
                )
        if role in ("tool", "function"):
            call = _text(message, "tool_call_id", where) if role == "tool" else f"call_{legacy}"
            kind = "custom_tool_call_output" if call in custom else "function_call_output"
            items.append({"type": kind, "call_id": call, "output": _content(message, where, "user") or ""})
            continue
        content = _content(message, where, str(role))
        if content is not None:
            items.append({"role": role, "content": content})
        for call in _list(message.get("tool_calls") or [], f"{where}.tool_calls"):
            items.append(_call(_object(call, f"{where}.tool_calls"), where))
            if items[-1]["type"] == "custom_tool_call":
                custom.add(str(items[-1]["call_id"]))
        if message.get("function_call"):
            legacy += 1
            made = {"id": f"call_{legacy}", "type": "function", "function": message["function_call"]}
            items.append(_call(made, where))
        elif content is None and not message.get("tool_calls"):
            raise ValueError(f"{where} has no content")
    if not items:
        raise ValueError("there are no messages")
    return items


#: What may be said of a message, by role.
_KNOWN: Final[Mapping[str, Collection[str]]] = {
    "system": ("role", "content"),
    "developer": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "refusal", "tool_calls", "function_call", "annotations"),
    "tool": ("role", "content", "tool_call_id", "name"),
    "function": ("role", "content", "name"),
}


def _call(call: Body, where: str) -> Body:
    kind = str(call.get("type", "function"))
    if kind not in ("function", "custom"):
        raise ValueError(f"{where} has a call of the type {kind!r:.40}, which nobody knows")
    inside = _object(call.get(kind), f"{where}.tool_calls")
    here = f"a tool call of {where}"
    said = {"call_id": _text(call, "id", here), "name": _text(inside, "name", here)}
    if kind == "custom":
        return {"type": "custom_tool_call", **said, "input": _text({"input": "", **inside}, "input", here)}
    given: object = inside.get("arguments", "{}")
    if isinstance(given, dict):
        given = json.dumps(given)  # as data sets have them, and some servers
    return {"type": "function_call", **said, "arguments": _text({"arguments": given}, "arguments", here)}


def _content(message: Body, where: str, role: str) -> Any:
    """The content, None if there is none: a text, or parts."""
    content = message.get("content")
    if refusal := message.get("refusal"):
        return [{"type": "refusal", "refusal": refusal}]
    if content is None or isinstance(content, str):
        return content if content or role == "user" or not message.get("tool_calls") else None
    if not isinstance(content, list):
        raise ValueError(f"the content of {where} must be a text or a list, not {type(content).__name__}")
    parts = cast("list[object]", content)
    return [_part(_object(part, f"{where}.content"), where, role) for part in parts]


def _part(part: Body, where: str, role: str) -> Body:
    kind = str(part.get("type"))
    here = f"content of {where}"
    if role == "assistant" and kind == "text":
        return {"type": "output_text", "text": _text(part, "text", here)}
    if role == "assistant" and kind == "refusal":
        return {"type": "refusal", "refusal": _text(part, "refusal", here)}
    if kind not in _PARTS:
        raise ValueError(f"{where} has content of the type {kind!r:.40}, which cannot be said")
    return _PARTS[kind](part, here)


def _image(part: Body, where: str) -> Body:
    image = part.get("image_url")
    found = {"url": image} if isinstance(image, str) else _object(image, f"image_url in {where}")
    url = _text(found, "url", f"image_url in {where}")
    return {"type": "input_image", "image_url": url, "detail": found.get("detail") or "auto"}


_PARTS: Final[Mapping[str, Callable[[Body, str], Body]]] = {
    "text": lambda part, where: {"type": "input_text", "text": _text(part, "text", where)},
    "image_url": _image,
    "input_audio": lambda part, _: part,
    "file": lambda part, where: {
        "type": "input_file",
        **_given(_object(part.get("file"), f"file in {where}")),
    },
}


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value: object = fields.get(name)
    if not isinstance(value, str):
        lacks = f"there is no {name} in {where}"
        raise ValueError(
            lacks if value is None else f"{name} in {where} must be a text, not {type(value).__name__}"
        )
    return value


def _given(fields: Body) -> Body:
    return {name: value for name, value in fields.items() if value is not None}


def _object(value: object, what: str) -> Body:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, not {type(value).__name__}")
    return cast("Body", value)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, not {type(value).__name__}")
    return list(value)  # pyright: ignore[reportUnknownArgumentType]
