"""Rows that the model can read, or an error that names the first one that it cannot."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset


BATCH = 10_000  # rows at a time
TOKEN_COLUMNS = ("input_ids", "labels")
Result = TypeVar("Result")


def check_tokens(dataset: Dataset, name: str, vocab_size: int | None = None) -> None:
    """
    Refuse tokenized rows that are no lists of tokens, or whose labels are not as many as their tokens.

    Args:
        dataset ([`~datasets.Dataset`]):
            Rows. Nothing is looked at where there is no `input_ids`.
        name (`str`):
            What to call it in messages.
        vocab_size (`int`, *optional*):
            Tokens that the model has. Others would end the process on a GPU without saying where they stand.

    Raises:
        TypeError: If a column holds something else than lists of integers.
        ValueError: Naming column, row and value.
    """
    if "input_ids" not in dataset.column_names or dataset.format["type"] == "custom":
        return
    columns = [column for column in TOKEN_COLUMNS if column in dataset.column_names]
    tables = dataset.select_columns(columns).with_format("arrow")
    for number, table in enumerate(tables.iter(batch_size=BATCH)):
        lengths = []
        for column in columns:
            lists = table.column(column).combine_chunks()
            lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
            _check_lists(lists, column, name, number * BATCH, vocab_size)
            lengths.append(pc.list_value_length(lists))
        if vocab_size is not None and (place := pc.index(lengths[0], 0).as_py()) >= 0:
            raise ValueError(
                f"Row {number * BATCH + place} of the {name} has no token in 'input_ids'. Remove it, or set "
                "`max_length`, with which such rows are left out."
            )
        differ = pc.not_equal(lengths[0], lengths[-1])
        if (place := pc.index(differ, True).as_py()) >= 0:
            raise ValueError(
                f"Row {number * BATCH + place} of the {name} has {lengths[0][place]} tokens in 'input_ids' but "
                f"{lengths[1][place]} in 'labels'. Give each token its label, -100 where it is not to be learned."
            )


def _check_lists(lists: pa.Array, column: str, name: str, start: int, vocab_size: int | None) -> None:
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)):
        raise TypeError(f"The column {column!r} of the {name} holds {kind}; tokens must be lists of integers.")
    if lists.null_count:
        row = start + pc.index(lists.is_null(), True).as_py()
        raise ValueError(f"Row {row} of the {name} has no {column!r}: it is null. Fill it in, or remove the row.")
    values = lists.flatten()
    bad = values.is_null()
    if vocab_size is not None and not pa.types.is_null(values.type):
        outside = pc.or_(pc.less(values, 0), pc.greater_equal(values, vocab_size))
        if column == "labels":
            outside = pc.and_(outside, pc.not_equal(values, -100))
        bad = pc.or_(bad, pc.fill_null(outside, False))
    if (place := pc.index(bad, True).as_py()) >= 0:
        row = start + pc.list_parent_indices(lists)[place].as_py()
        known = "an integer" if vocab_size is None else f"0 to {vocab_size - 1}, which are those of the model"
        raise ValueError(
            f"Row {row} of the {name} has the token {values[place]} in {column!r}, expected {known}. Tokenize it with "
            "the tokenizer of the model."
        )


def name_bad_row(prepare: Callable[[Dataset], Result], dataset: Dataset, name: str) -> Result:
    """
    Prepare a dataset; if that fails, say at which row.

    Args:
        prepare (callable):
            What is done to the dataset, row by row.
        dataset ([`~datasets.Dataset`]):
            Its rows.
        name (`str`):
            What to call it in messages.

    Raises:
        ValueError: Naming the first row that fails, what it holds, and how it fails. TRL's own word on the settings
            comes up as it is.
    """
    try:
        return prepare(dataset)
    except Exception as failure:  # of a tokenizer, a chat template, Arrow, or a function of the user's
        ends = (dataset.select([row]) for row in (0, len(dataset) - 1)) if len(dataset) > 1 else ()
        if _is_about_settings(failure) and ends and all(_fails(prepare, end) for end in ends):
            raise  # TRL's own word on the settings, not a row's fault
        error = failure
        low, high = 0, len(dataset)  # halving costs another pass at the most
        while high - low > 1:
            middle = (low + high) // 2
            try:
                prepare(dataset.select(range(low, middle)))
            except Exception as earlier:
                error, high = earlier, middle
            else:
                low = middle
        row = {} if not len(dataset) else dataset.with_format(None)[low]
        held = ", ".join(f"{column}={reprlib.repr(value)}" for column, value in row.items())
        raise ValueError(
            f"Row {low} of the {name} could not be prepared ({held}). {type(error).__name__}: {error}"
        ) from error


def _is_about_settings(error: Exception) -> bool:
    """Whether TRL raised it deliberately, not what it called."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised_in = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, ValueError) and raised_in.startswith("trl.")


def _fails(prepare: Callable[[Dataset], Result], dataset: Dataset) -> bool:
    try:
        prepare(dataset)
    except Exception:
        return True
    return False
