"""Parallel data: from published layouts to pairs, the collator and the sampler."""

from .collator import ALIGNMENT_KEY, DataCollatorForPivotAlignment, PairingDemand, without_pairs
from .example_iterables import in_one_shard
from .formats import to_long_format
from .ids import assign_parallel_id, split_id
from .join import concatenate_parallel
from .languages import normalize_language, normalize_languages
from .numbers import extract_numbers, final_number
from .pairing import PairingColumns, find_pivots
from .pivots import (
    ADDED_COLUMNS,
    DRAW_COLUMN,
    OWN_COLUMN,
    PAIRING_COLUMNS,
    PIVOT_COLUMN,
    TOKENIZED_PIVOT_COLUMN,
    PivotTable,
    attach_pairs,
    without_pairing,
)
from .quality import filter_parallel, parallel_report
from .quality_report import ParallelReport
from .report import LanguageReport, PairingReport
from .resolve import NothingToAlign, ResolvedPairs, resolve_pairs
from .sampler import ParallelGroupSampler
from .session import PairingSession, lacking_column
from .streaming import carry_pivots


__all__ = [
    "ADDED_COLUMNS",
    "ALIGNMENT_KEY",
    "DRAW_COLUMN",
    "OWN_COLUMN",
    "PAIRING_COLUMNS",
    "PIVOT_COLUMN",
    "TOKENIZED_PIVOT_COLUMN",
    "DataCollatorForPivotAlignment",
    "LanguageReport",
    "NothingToAlign",
    "PairingColumns",
    "PairingDemand",
    "PairingReport",
    "PairingSession",
    "ParallelGroupSampler",
    "ParallelReport",
    "PivotTable",
    "ResolvedPairs",
    "assign_parallel_id",
    "attach_pairs",
    "carry_pivots",
    "concatenate_parallel",
    "extract_numbers",
    "filter_parallel",
    "final_number",
    "find_pivots",
    "in_one_shard",
    "lacking_column",
    "normalize_language",
    "normalize_languages",
    "parallel_report",
    "resolve_pairs",
    "split_id",
    "to_long_format",
    "without_pairing",
    "without_pairs",
]
