"""What a model answers in each language: benchmarks, generation, answers, metrics and their uncertainty."""

from .answers import KINDS, canonical_answer, extract_answer, extract_math, extract_number, is_correct
from .benchmarks import load_benchmark
from .choices import extract_choice
from .comparison import PairedTest, compare_tables, score_intervals
from .evaluator import evaluate_model, score_records
from .fidelity import LanguageFidelity, judge_languages
from .generation import generate_responses
from .harness import read_harness_results
from .language_id import LanguageDecision, judge_language
from .likelihood import score_choices
from .math_answers import math_equal
from .metrics import CrossLingualConsistency, MultilingualAccuracy
from .prompts import build_prompts
from .registry import BENCHMARKS, Benchmark, register_benchmark
from .responses import final_part
from .results import EvaluationResult, Record
from .sampling import Response
from .scores import ScoreTable, consistency_matrix
from .statistics import Interval, bootstrap_mean, holm, mcnemar, sign_flip


__all__ = [
    "BENCHMARKS",
    "KINDS",
    "Benchmark",
    "CrossLingualConsistency",
    "EvaluationResult",
    "Interval",
    "LanguageDecision",
    "LanguageFidelity",
    "MultilingualAccuracy",
    "PairedTest",
    "Record",
    "Response",
    "ScoreTable",
    "bootstrap_mean",
    "build_prompts",
    "canonical_answer",
    "compare_tables",
    "consistency_matrix",
    "evaluate_model",
    "extract_answer",
    "extract_choice",
    "extract_math",
    "extract_number",
    "final_part",
    "generate_responses",
    "holm",
    "is_correct",
    "judge_language",
    "judge_languages",
    "load_benchmark",
    "math_equal",
    "mcnemar",
    "read_harness_results",
    "register_benchmark",
    "score_choices",
    "score_intervals",
    "score_records",
    "sign_flip",
]
