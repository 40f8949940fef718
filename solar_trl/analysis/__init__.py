"""What fine-tuning did to the geometry of languages: hidden states in, numbers out, no Trainer."""

from .similarity import cross_lingual_similarity, language_separability, mexa_score
from .states import POOLINGS, hidden_state_summaries


__all__ = [
    "POOLINGS",
    "cross_lingual_similarity",
    "hidden_state_summaries",
    "language_separability",
    "mexa_score",
]
