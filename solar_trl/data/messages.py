"""What is said of columns and ids, wherever it is found out."""

from __future__ import annotations

from collections.abc import Iterable


def no_column(what: str, name: str, option: str, names: Iterable[str]) -> str:
    """A column that an option names is not there."""
    return f"The {what} has no column {name!r} ({option}); its columns are {', '.join(map(repr, names))}."


def no_config_column(what: str, name: str, option: str, names: Iterable[str]) -> str:
    """A column that the configuration of the trainer names is not there."""
    return (
        f"{no_column(what, name, option, names)} Add the column, or name the right one in the config. To train "
        "without alignment, set `alignment_objective='none'`."
    )


def ids_differ(name: str, found: Iterable[str], where: str = "") -> str:
    """Ids of a column are of several types; `found` says what is where."""
    return (
        f"The ids in column {name!r}{where} differ in type: {', '.join(found)}. They would never match; cast one of "
        f"them, e.g. `dataset.cast_column({name!r}, datasets.Value('string'))`."
    )
