"""
The command `solar-trl`.

    solar-trl evaluate --help

`python -m solar_trl.scripts.cli` is the same, so that `accelerate launch -m solar_trl.scripts.cli sft ...` trains on
several devices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module


_COMMANDS = {
    "evaluate": "Let models answer a benchmark in many languages; tables, report and results to compare.",
    "compare": "Compare saved results on the same items: differences by language, with significance.",
    "analyze": "Compare the hidden states of parallel texts, layer by layer, before and after training.",
    "sft": "Fine-tune with cross-lingual alignment.",
}
_ERRORS = (ValueError, TypeError, ImportError, OSError)  # what bad input and missing parts raise


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a subcommand.

    Args:
        arguments (`Sequence[str]`, *optional*):
            Command line without the program's name; `sys.argv` by default.

    Returns:
        `int`: 0, or 1 if the input was bad, with a message on the standard error stream.
    """
    listed = "\n".join(f"  {name:10}{text}" for name, text in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="solar-trl",
        description="Cross-lingual alignment: train, evaluate, compare and analyze language models in many languages.",
        epilog=f"commands:\n{listed}\n\n`solar-trl COMMAND --help` tells of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"solar-trl {_version()}")
    parser.add_argument("command", choices=list(_COMMANDS), metavar="COMMAND", help=", ".join(_COMMANDS))
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = parser.parse_args(given[:1]).command, given[1:]
    if command == "sft":
        return _train(rest)
    try:
        import_module(f".{command}", __package__).run(rest)
    except _ERRORS as error:
        if "--debug" in rest:
            raise
        print(f"solar-trl {command}: {error}", file=sys.stderr)
        return 1
    return 0


def _train(arguments: list[str]) -> int:
    """TRL's parser reads `sys.argv`. Errors of training keep their traceback."""
    from . import sft

    before, sys.argv = sys.argv, ["solar-trl sft", *arguments]
    try:
        sft.run()
    finally:
        sys.argv = before
    return 0


def _version() -> str:
    from solar_trl import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())
