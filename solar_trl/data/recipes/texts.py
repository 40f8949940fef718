"""Inputs and targets of a row, in every format that TRL takes and that says which is which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from ..reading import _ASSISTANT, _CONVERSATIONS, _USER


Edit = Callable[[str], str]


def template_fields(template: str) -> set[str]:
    """
    Names of the fields of a template.

    Raises:
        ValueError: If it is none.
    """
    try:
        return {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"`template` is {template!r}, which is no template: {error}.") from error


@dataclass(frozen=True)
class RowTexts:
    """
    Where the input and the target of a row stand.

    Methods that change a row do so in place: they are called with rows that share nothing with the user's.

    Args:
        prompt (`str`): Column with the prompt, or with the whole conversation.
        completion (`str`, *optional*): Column with the completion; `None` for whole conversations.
    """

    prompt: str
    completion: str | None

    @classmethod
    def find(cls, names: Sequence[str], recipe: str) -> RowTexts:
        """
        Find the columns among `names`.

        Raises:
            ValueError: If the rows are tokenized, plain text, or something else; `recipe` is named in the message.
        """
        if "prompt" in names and "completion" in names:
            return cls("prompt", "completion")
        for name in _CONVERSATIONS:
            if name in names and "prompt" not in names:
                return cls(name, None)
        shown = ", ".join(map(repr, names))
        if "input_ids" in names:
            reason = "they are tokenized already: apply it to the texts"
        elif "text" in names:
            reason = (
                "plain 'text' does not say what is input and what is target: split it into 'prompt' and 'completion'"
            )
        else:
            reason = "rename the columns to 'prompt' and 'completion', or to 'messages'"
        raise ValueError(f"`{recipe}` cannot read these rows (columns {shown}): {reason}.")

    def edit_inputs(self, row: dict[str, Any], edit: Edit) -> None:
        """Change the prompt if it is a string, else every user turn."""
        row[self.prompt] = self._edited(row[self.prompt], self.prompt, _USER, edit)

    def edit_targets(self, row: dict[str, Any], edit: Edit) -> None:
        """Change the completion if it is a string, else every assistant turn, those in the prompt too."""
        if not isinstance(row[self.prompt], str):
            row[self.prompt] = self._edited(row[self.prompt], self.prompt, _ASSISTANT, edit)
        if self.completion is not None:
            row[self.completion] = self._edited(row[self.completion], self.completion, _ASSISTANT, edit)

    def edit_last_input(self, row: dict[str, Any], edit: Edit) -> None:
        """Change the prompt if it is a string, else the last user turn."""
        value = row[self.prompt]
        if isinstance(value, str):
            row[self.prompt] = edit(value)
            return
        message = value[self._last_user(row)]
        key = _content_key(message)
        # Of several parts of text the last one: what `edit` appends comes at the end
        parts = [message[key]] if isinstance(message[key], str) else _text_parts(message[key], self.prompt)
        if not parts:
            raise ValueError(f"The last user turn in column {self.prompt!r} has no text: {value!r:.80}.")
        if isinstance(message[key], str):
            message[key] = edit(message[key])
        else:
            parts[-1]["text"] = edit(parts[-1]["text"])

    def last_input(self, row: dict[str, Any]) -> str:
        """Text of the prompt, or of the last user turn; parts are joined by line breaks."""
        value = row[self.prompt]
        return value if isinstance(value, str) else _text(value[self._last_user(row)], self.prompt)

    def response(self, row: dict[str, Any]) -> str:
        """Text of the completion, or of the last assistant turn."""
        column = self.completion or self.prompt
        value = row[column]
        if isinstance(value, str):
            return value
        turns = [message for message in _messages(value, column) if _role(message) in _ASSISTANT]
        if not turns:
            raise ValueError(f"Column {column!r} has no assistant turn: {value!r:.80}.")
        return _text(turns[-1], column)

    def take_response(self, row: dict[str, Any], other: dict[str, Any]) -> None:
        """Give a row the completion of another, or all that comes after the other's last user turn."""
        if self.completion is not None:
            row[self.completion] = other[self.completion]
            return
        answer = other[self.prompt][self._last_user(other) + 1 :]
        if not answer:
            raise ValueError(
                f"Column {self.prompt!r} has no answer to the last user turn: {other[self.prompt]!r:.80}."
            )
        row[self.prompt] = row[self.prompt][: self._last_user(row) + 1] + answer

    def rewrite(self, row: dict[str, Any], prompt: str, response: str) -> None:
        """Make a row a single exchange, written like the row's own (names of roles and keys, strings or parts)."""
        value = row[self.prompt]
        if isinstance(value, str):
            asked: Any = prompt
        else:
            asked = [_like(value[self._last_user(row)], prompt)]
        answered = row[self.completion or self.prompt]
        if not isinstance(answered, str):
            turns = [m for m in _messages(answered, self.completion or self.prompt) if _role(m) in _ASSISTANT]
            if not turns:
                raise ValueError(f"Column {self.completion or self.prompt!r} has no assistant turn: {answered!r:.80}.")
            answered = [_like(turns[-1], response)]
        else:
            answered = response
        if self.completion is None:
            row[self.prompt] = asked + answered
        else:
            row[self.prompt], row[self.completion] = asked, answered

    def _edited(self, value: Any, column: str, roles: set[str], edit: Edit) -> Any:
        if isinstance(value, str):
            return edit(value)
        for message in _messages(value, column):
            key = _content_key(message)
            if _role(message) not in roles or message.get(key) is None:
                continue
            if isinstance(message[key], str):
                message[key] = edit(message[key])
            else:
                for part in _text_parts(message[key], column):
                    part["text"] = edit(part["text"])
        return value

    def _last_user(self, row: dict[str, Any]) -> int:
        messages = _messages(row[self.prompt], self.prompt)
        for i in range(len(messages) - 1, -1, -1):
            if _role(messages[i]) in _USER:
                return i
        raise ValueError(f"Column {self.prompt!r} has no user turn: {row[self.prompt]!r:.80}.")


def _messages(value: Any, column: str) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        return value
    raise TypeError(f"Column {column!r} holds {value!r:.80}: neither text nor a list of messages.")


def _role(message: dict[str, Any]) -> Any:
    return message.get("role", message.get("from"))


def _content_key(message: dict[str, Any]) -> str:
    return "value" if "value" in message and "content" not in message else "content"


def _text_parts(content: Any, column: str) -> list[dict[str, Any]]:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return [part for part in content if isinstance(part.get("text"), str)]
    raise TypeError(
        f"The content of a message in column {column!r} is {content!r:.80}: neither text nor a list of parts."
    )


def _text(message: dict[str, Any], column: str) -> str:
    content = message.get(_content_key(message))
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in _text_parts(content, column))


def _like(message: dict[str, Any], text: str) -> dict[str, Any]:
    """A message with another text; what else it holds (calls of tools, names) is left out."""
    key = _content_key(message)
    content: Any = text
    if isinstance(message.get(key), list):
        parts = _text_parts(message[key], key)
        content = (
            [{**dict.fromkeys(parts[0]), "type": "text", "text": text}] if parts else [{"type": "text", "text": text}]
        )
    role = "from" if "from" in message and "role" not in message else "role"
    return {**dict.fromkeys(message), role: message[role], key: content}
