"""Find the prompt and the response in rows of any dataset type, and read them as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from .pairing import PairingColumns, as_list
from .tables import require_columns


# In the order in which they are looked for
_RESPONSE_COLUMNS = ["completion", "messages", "conversations", "response", "responses", "answer", "output", "target"]
_RESPONSE_COLUMNS += ["solution", "translation", "text"]
_PROMPT_COLUMNS = ["prompt", "question", "instruction", "problem", "query", "input"]
_CONVERSATIONS = ("messages", "conversations")  # columns that hold prompt and response
_ASSISTANT = {"assistant", "gpt", "model", "bot", "chatbot"}
_USER = {"user", "human"}

BATCH_SIZE = 2_000  # rows in memory at once


@dataclass
class TextColumns:
    """
    Where the texts of a row stand.

    Args:
        response (`list[str]`): Columns that make up the response.
        prompt (`list[str]`): Columns that make up the prompt; may be empty.
    """

    response: list[str]
    prompt: list[str]


def find_text_columns(
    dataset: Dataset,
    columns: PairingColumns,
    text_columns: str | Sequence[str] | None,
    prompt_columns: str | Sequence[str] | None,
    what: str,
) -> TextColumns:
    """
    Where the texts of a dataset stand.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows that are not tokenized.
        columns ([`PairingColumns`]):
            Columns that hold no text.
        text_columns, prompt_columns (`str` or `list[str]`, *optional*):
            Columns of the response and of the prompt, looked for by their usual names if `None`.
        what (`str`):
            What to call the dataset in messages.

    Returns:
        [`TextColumns`]

    Raises:
        ValueError: If a column is missing, or no response is found.
    """
    require_columns(dataset, dict.fromkeys(as_list(text_columns or []), "`text_columns`"), what)
    require_columns(dataset, dict.fromkeys(as_list(prompt_columns or []), "`prompt_columns`"), what)
    free = [name for name in dataset.column_names if name not in columns.names]
    if text_columns is not None:
        response = as_list(text_columns)
    else:
        response = [name for name in _RESPONSE_COLUMNS if name in free][:1]
    if not response:
        if "input_ids" in free:
            raise ValueError(f"The {what} is tokenized already; make the report from the texts, before training.")
        raise ValueError(
            f"No response was found in the {what}: its columns are {', '.join(map(repr, dataset.column_names))}. Name "
            "the column, or columns, that hold the response's text in `text_columns`."
        )
    if prompt_columns is not None:
        prompt = as_list(prompt_columns)
    elif response[0] in _CONVERSATIONS:
        prompt = response
    else:
        prompt = [name for name in _PROMPT_COLUMNS if name in free and name not in response][:1]
    return TextColumns(response, prompt)


def read_texts(dataset: Dataset, found: TextColumns) -> Iterator[tuple[list[str], list[str] | None]]:
    """Responses and prompts (`None` if there are no columns), a batch at a time."""
    names = list(dict.fromkeys([*found.response, *found.prompt]))
    last = found.response[0] in _CONVERSATIONS
    for batch in dataset.select_columns(names).with_format(None).iter(batch_size=BATCH_SIZE):
        responses = _join(batch, found.response, _ASSISTANT, last)
        yield responses, _join(batch, found.prompt, _USER, False) if found.prompt else None


def _join(batch: dict[str, list], columns: list[str], roles: set[str], last: bool) -> list[str]:
    texts = [[_as_text(value, name, roles, last) for value in batch[name]] for name in columns]
    return ["\n".join(parts) for parts in zip(*texts, strict=True)]


def _as_text(value: Any, name: str, roles: set[str], last: bool) -> str:
    """A cell as text: a string, or the turns of `roles` (only the last one if asked) of a conversation."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise TypeError(
            f"Column {name!r} holds {value!r:.80}: neither text nor a list of messages. Name the columns that hold "
            "the response's text in `text_columns`, and the prompt's in `prompt_columns`."
        )
    turns = [
        _content(message.get("content", message.get("value")), name)
        for message in value
        if message.get("role", message.get("from")) in roles
    ]
    return "\n".join(turns[-1:] if last else turns)


def _content(value: Any, name: str) -> str:
    """The text of a message: a string, or a list of parts of which some are text."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return "\n".join(part.get("text") or "" for part in value)
    raise TypeError(f"The content of a message in column {name!r} is {value!r:.80}: neither text nor a list of parts.")
