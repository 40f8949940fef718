"""Checks and unit rows that the measures share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


# Cosines this close are ties: identical rows of float32 states may differ by this much in a float64 product
TIE = 1e-12


def check_states(name: str, states: np.ndarray) -> np.ndarray:
    """The states in float64, refused where a cosine would not be defined."""
    states = np.asarray(states, dtype=np.float64)
    if states.ndim != 2 or len(states) < 2:
        raise ValueError(f"`{name}` has shape {states.shape}, expected (n, d) with n >= 2.")
    if not np.isfinite(states).all():
        raise ValueError(f"`{name}` holds values that are not finite.")
    zero = np.flatnonzero(~states.any(axis=1))
    if len(zero):
        raise ValueError(f"Row {zero[0]} of `{name}` is zero: its cosine is not defined.")
    return states


def check_pair(pivot: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of states, row i parallel to row i, in float64."""
    pivot, other = check_states("pivot", pivot), check_states("other", other)
    if pivot.shape != other.shape:
        raise ValueError(
            f"`pivot` and `other` must have the same shape, row i parallel to row i, got {pivot.shape} and "
            f"{other.shape}."
        )
    return pivot, other


def check_labels(name: str, labels: Sequence, n: int) -> np.ndarray:
    """One label for each row, as an array of objects (so that ids of several types stay what they are)."""
    if isinstance(labels, str):
        raise TypeError(f"`{name}` must be a sequence with one entry for each row, got a single string.")
    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(values) != n:
        raise ValueError(f"`{name}` has shape ({len(values)},), expected ({n},), one for each row.")
    array = np.empty(n, dtype=object)
    array[:] = values
    return array


def unit_rows(states: np.ndarray) -> np.ndarray:
    """Rows of length 1, of rows that are not zero."""
    # Scale first: the square of a tiny row would underflow
    states = states / np.abs(states).max(axis=1, keepdims=True)
    return states / np.linalg.norm(states, axis=1, keepdims=True)


def unit_pair(pivot: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[`check_pair`], with unit rows."""
    pivot, other = check_pair(pivot, other)
    return unit_rows(pivot), unit_rows(other)


def require_scikit_learn(function: str) -> None:
    """Say which extra to install, if scikit-learn is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{function} needs scikit-learn: `pip install "solar-trl[analysis]"`.') from error
