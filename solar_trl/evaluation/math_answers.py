"""Mathematical answers in LaTeX, compared as expressions by `math-verify`."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any


def math_equal(answer: str, reference: str) -> bool:
    """
    Whether two LaTeX or plain expressions are mathematically equal: `\\frac{1}{2}` and `0.5`, `(1, 2)` and `(1,2)`.

    Needs `math-verify`, whose limit of five seconds per expression works in the main thread only: elsewhere there is
    none.

    Raises:
        ImportError: If `math-verify` is not installed.

    Examples:
    ```python
    >>> from solar_trl.evaluation import math_equal

    >>> math_equal("\\\\frac{1}{2}", "0.5"), math_equal("x + 1", "x - 1")
    (True, False)
    ```
    """
    library = _math_verify()
    limit = 5 if threading.current_thread() is threading.main_thread() else None
    parsed = [library.parse(f"\\boxed{{{text}}}", parsing_timeout=limit) for text in (reference, answer)]
    return bool(library.verify(*parsed, timeout_seconds=limit))


def _math_verify() -> Any:
    try:
        return import_module("math_verify")
    except ImportError as error:
        raise ImportError(
            "Comparing mathematical expressions needs `math-verify`: `pip install 'solar-trl[eval]'`. Benchmarks "
            'whose answers are numbers do not need it: `kind="number"`.'
        ) from error
