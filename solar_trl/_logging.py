"""The library's logger: shown by default, on the main process, and out of the way of an application's own set-up."""

from __future__ import annotations

import logging
import os

from accelerate import PartialState


class _MainProcessOnly(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        # Before the first `PartialState`, the launcher's environment tells
        if not PartialState._shared_state:
            return os.environ.get("RANK", "0") == "0"
        return PartialState().is_main_process


def get_logger() -> logging.Logger:
    """The logger `solar_trl`. Where the application has set up no logging, it writes to stderr from `INFO` on."""
    logger = logging.getLogger("solar_trl")
    if not any(isinstance(item, _MainProcessOnly) for item in logger.filters):
        logger.addFilter(_MainProcessOnly())
        if not logging.getLogger().handlers and not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("[solar-trl] %(message)s"))
            logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    return logger
