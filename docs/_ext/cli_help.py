"""`cli-help`: what a command prints with `--help`."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive


class CliHelp(Directive):
    """The help of `solar-trl`, or of the subcommand that the argument names."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        from solar_trl.scripts.cli import main

        before = os.environ.get("COLUMNS")
        os.environ["COLUMNS"] = "100"  # argparse wraps at it
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                main([*self.arguments, "--help"])
        finally:
            os.environ.pop("COLUMNS")
            if before is not None:
                os.environ["COLUMNS"] = before
        if not printed.getvalue().strip():
            raise self.error(f"`solar-trl {' '.join(self.arguments)} --help` printed nothing.")
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("cli-help", CliHelp)
    return {"parallel_read_safe": True}
