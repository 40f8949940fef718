"""Parallel data: pairing, the pivot table, the collator and the sampler."""

from .collator import ALIGNMENT_KEY, DataCollatorForPivotAlignment
from .pairing import PairingColumns, find_pivots
from .pivots import PAIRING_COLUMNS, PIVOT_COLUMN, PivotTable, attach_pairs, without_pairing
from .report import LanguageReport, PairingReport
from .resolve import NothingToAlign, ResolvedPairs, resolve_pairs
from .sampler import ParallelGroupSampler
from .session import PairingSession


__all__ = [
    "ALIGNMENT_KEY",
    "PAIRING_COLUMNS",
    "PIVOT_COLUMN",
    "DataCollatorForPivotAlignment",
    "LanguageReport",
    "NothingToAlign",
    "PairingColumns",
    "PairingReport",
    "PairingSession",
    "ParallelGroupSampler",
    "PivotTable",
    "ResolvedPairs",
    "attach_pairs",
    "find_pivots",
    "resolve_pairs",
    "without_pairing",
]
