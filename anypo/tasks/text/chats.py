"""Conversations in the user's own data: every field of a message is kept, or refused by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from anypo.data.content import Message, parted
from anypo.errors import UserError, unknown

TEXTS = ("name", "tool_call_id", "reasoning_content")
"""Fields that are kept as texts, beside role, content and tool_calls."""

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""Who may speak. A template would pass over a message of anybody else, or make a role of it that the model never saw."""


def chat(value: Any, column: str, where: str, system: str = "", tools: Any = None) -> tuple[Message, ...]:
    """The messages of a list of mappings (`UserError` names the message and the field). `system`: said first, unless the list has
    a system message of its own; `tools`: what may be called, a list of schemas or its JSON text, which the first message carries."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: column '{column}' must be a text or a list of messages")
    read = [message(one, f"{where}: message {number} of '{column}'") for number, one in enumerate(value, start=1)]
    if system and read[0]["role"] != "system":
        read.insert(0, {"role": "system", "content": system})
    asked = parted(read)[0]
    if not asked or not (asked[-1]["content"].strip() or asked[-1].get("tool_calls")):
        raise UserError(f"{where}: the prompt is empty")
    return with_tools(tuple(read), tools, where)


def message(value: Any, where: str) -> dict[str, Any]:
    """One message with a role, a text, and what else it has."""
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise UserError(f"{where}: every message needs the texts 'role' and 'content'")
    if value["role"] not in ROLES:
        raise unknown("role", value["role"], ROLES, f"It is that of {where}.")
    given = {str(key): item for key, item in value.items() if item is not None and item != []}
    calls = given.pop("tool_calls", None)
    out: dict[str, Any] = {"role": given.pop("role"), "content": _content(given.pop("content", None), calls, where)}
    for field, item in given.items():
        if field not in TEXTS:
            raise UserError(f"{where} has a field '{field}', which is not known; take it out, or rename it")
        if not isinstance(item, str):
            raise UserError(f"{where}: the field '{field}' holds a {type(item).__name__}, not a text")
        out[field] = item
    if calls is not None:
        out["tool_calls"] = _calls(calls, where)
    return out


def with_tools(messages: tuple[Message, ...], tools: Any, where: str) -> tuple[Message, ...]:
    """The messages, of which the first carries the `tools` that may be called (None: no such thing)."""
    if tools is None or tools in ("", []):
        return messages
    read = _json(tools)
    if not isinstance(read, list) or not all(isinstance(tool, Mapping) for tool in read):
        raise UserError(f"{where}: the field 'tools' must be a list of tool schemas (JSON objects)")
    return ({**messages[0], "tools": [_bare(tool) for tool in read]}, *messages[1:])


def said(value: Any, column: str, where: str) -> str:
    """The text of an answer: a text, or the assistant's one message in a list."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: '{column}' must be a text or a list of messages with the texts 'role' and 'content'")
    if len(value) != 1:
        raise UserError(f"{where}: '{column}' has {len(value)} messages; give the assistant's one answer")
    read = message(value[0], f"{where}: message 1 of '{column}'")
    if extra := sorted(read.keys() - {"role", "content"}):
        raise UserError(f"{where}: the message of '{column}' has a field '{extra[0]}', but an answer is a text alone")
    return str(read["content"])


def _content(value: Any, calls: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None and calls:
        return ""
    if value is None:
        raise UserError(f"{where}: the field 'content' is null or missing, and no tool is called")
    if not isinstance(value, list):
        raise UserError(f"{where}: the field 'content' holds a {type(value).__name__}, not a text")
    return "".join(_part(part, where) for part in value)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise UserError(
            f"{where}: the field 'content' has a part of type '{kind}'; only parts of type 'text' can be read"
        )
    return str(part["text"])


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Tool calls as chat templates read them: arguments are objects, though servers write them as JSON texts."""
    read = _json(value)
    if not isinstance(read, list) or not all(isinstance(call, Mapping) for call in read):
        raise UserError(f"{where}: the field 'tool_calls' must be a list of calls")
    out = []
    for call in read:
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(f"{where}: the field 'tool_calls' has a call without a function's name")
        arguments = _json(function.get("arguments", {}))
        inner = {**_bare(function), "arguments": _bare(arguments) if isinstance(arguments, Mapping) else arguments}
        out.append(_bare(call) | ({"function": inner} if "function" in call else inner))
    return out


def _json(value: Any) -> Any:
    """A JSON text as data; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _bare(value: Any) -> Any:
    """Without the nulls that a columnar file writes for the fields that other rows have."""
    if isinstance(value, Mapping):
        return {key: _bare(item) for key, item in value.items() if item is not None}
    return [_bare(item) for item in value] if isinstance(value, list) else value
