"""What the subcommands share: reading options from the command line and YAML, and showing what they are."""

# ruff: noqa: RUF009 (`option` and `required` are `dataclasses.field`)

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import TrlParser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults that say something, and keeps the line breaks of the description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def option(help: str, default: Any = None, **metadata: Any) -> Any:
    """A field of a dataclass of options."""
    return field(default=default, metadata={"help": help, **metadata})


def required(help: str, **metadata: Any) -> Any:
    """A field without which nothing goes."""
    return field(metadata={"help": help, **metadata})


def parse_options(
    prog: str,
    description: str,
    groups: Sequence[type],
    arguments: Sequence[str],
    positional: tuple[str, str] | None = None,
) -> tuple[Any, ...]:
    """
    Read options into dataclasses, with defaults from a YAML file if `--config` names one.

    Args:
        prog, description (`str`):
            For the help text.
        groups (`Sequence[type]`):
            Dataclasses; each is a group of the help text, named by its `_argument_group_name`.
        arguments (`Sequence[str]`):
            The command line behind the subcommand.
        positional (`tuple[str, str]`, *optional*):
            Name and help text of a list of arguments without a name.

    Returns:
        An instance of each dataclass, and the positional arguments if there are any.
    """
    parser = TrlParser(
        list(groups),
        prog=prog,
        usage=f"{prog} [options]{'' if positional is None else f' {positional[0]} ...'}",
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with any of these options; the command line wins.")
    if positional is not None:
        parser.add_argument(positional[0], nargs="*", help=positional[1])
    given = [part for argument in arguments for part in _config_apart(argument)]
    if given[-1:] == ["--config"]:
        parser.error("--config needs the name of a file.")
    *values, rest = parser.parse_args_and_config(given)  # the last holds what is in no dataclass
    return tuple(values) if positional is None else (*values, split_list(getattr(rest, positional[0])))


def _config_apart(argument: str) -> list[str]:
    """TRL knows `--config FILE` only."""
    return argument.split("=", 1) if argument.startswith("--config=") else [argument]


def split_list(values: Iterable[str] | str | None) -> list[str] | None:
    """A list, as `sw te`, `sw,te` or a YAML list give it."""
    if values is None:
        return None
    values = [values] if isinstance(values, str) else values
    return [part.strip() for value in values for part in str(value).split(",") if part.strip()]


def json_object(value: str | dict | None, name: str) -> dict[str, Any] | None:
    """A mapping, from YAML or as JSON on the command line."""
    if value is None or isinstance(value, dict):
        return value
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"`--{name}` is no JSON ({error}): {value!r}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"`--{name}` must be a JSON object such as '{{\"enable_thinking\": false}}', got {value!r}.")
    return found


@dataclass
class ModelOptions:
    """Which models, and how to load them."""

    _argument_group_name = "models"

    model: list[str] = required(
        "Models: folders or names on the Hub, one after the other in one call. A folder with a LoRA adapter alone "
        "will do; its base model is then read from the adapter's configuration."
    )
    adapter: list[str] | None = option(
        "PEFT adapters, one for each model, `none` for a model without. With one model and several adapters, the "
        "model is used for all of them: `--model base --adapter none sft solar`."
    )
    name: list[str] | None = option(
        "What to call the models in tables and file names. By default the last part of the adapter's or model's name."
    )
    tokenizer: str | None = option(
        "Tokenizer of all models. By default the adapter's own, if it has one, or the model's."
    )
    dtype: str = option("Type of the weights: `auto` (as saved), `bfloat16`, `float16` or `float32`.", "auto")
    device_map: str = option("Where the weights go: `auto` (GPUs if there are any), `cpu`, `cuda:0`, ...", "auto")
    attn_implementation: str | None = option("Attention of transformers, e.g. `sdpa` or `flash_attention_2`.")
    trust_remote_code: bool = option("Whether to run code that a model brings along.", False)


@dataclass
class OutputOptions:
    """Where results go, and how sure they are."""

    _argument_group_name = "output"

    output_dir: str = option("Folder for report.html, report.json and the results.", "solar_trl_report")
    title: str | None = option("Heading of the report.")
    debug: bool = option("Show the whole traceback of an error.", False)


def file_name(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(char if char.isalnum() or char in "._-" else "-" for char in name).strip(".-") or "model"


def existing_file(path: str) -> Path:
    """A path, if there is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path!r}.")
    return Path(path)
