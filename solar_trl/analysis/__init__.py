"""What fine-tuning did to the geometry of languages: hidden states in, numbers and pictures out, no Trainer."""

from .batches import POOLINGS
from .geometry import incline_fit, mmd, principal_components
from .layers import analyze_layers
from .maps import language_pair_matrix, project_states
from .measures import MEASURES, values_of
from .neurons import find_down_projections, neuron_state_summaries
from .pool import mixed_pool_map
from .separability import language_separability
from .similarity import (
    center_languages,
    centered_similarity,
    cross_lingual_similarity,
    mexa_score,
    neuronxa_score,
    retrieval_accuracy,
)
from .soft_summaries import soft_token_summaries
from .states import hidden_state_summaries


__all__ = [
    "MEASURES",
    "POOLINGS",
    "analyze_layers",
    "center_languages",
    "centered_similarity",
    "cross_lingual_similarity",
    "find_down_projections",
    "hidden_state_summaries",
    "incline_fit",
    "language_pair_matrix",
    "language_separability",
    "mexa_score",
    "mixed_pool_map",
    "mmd",
    "neuron_state_summaries",
    "neuronxa_score",
    "principal_components",
    "project_states",
    "retrieval_accuracy",
    "soft_token_summaries",
    "values_of",
]
