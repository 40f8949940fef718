"""An offline, deterministic benchmark of multilingual reasoning: templated parallel word problems, made by seed."""

from .arithmetic import final_answer, load_base_corpus, load_parallel_arithmetic, render
from .clones import clone_language, clone_text, is_clone, set_clone_alignment
from .items import SPLITS, Item, ProblemSpace, split_of
from .languages import LANGUAGES
from .tokenizer import build_tokenizer


__all__ = [
    "LANGUAGES",
    "SPLITS",
    "Item",
    "ProblemSpace",
    "build_tokenizer",
    "clone_language",
    "clone_text",
    "final_answer",
    "is_clone",
    "load_base_corpus",
    "load_parallel_arithmetic",
    "render",
    "set_clone_alignment",
    "split_of",
]
