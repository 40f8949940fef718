"""Data recipes: functions that change what a training set holds, and leave the pairs right."""

from .answer_language import answer_in_other_language
from .code_switch import code_switch
from .pivot_ratio import sample_pivot_ratio
from .placebo import shuffle_parallels
from .romanized import add_romanized, romanized_label
from .translation import mix_translation


__all__ = [
    "add_romanized",
    "answer_in_other_language",
    "code_switch",
    "mix_translation",
    "romanized_label",
    "sample_pivot_ratio",
    "shuffle_parallels",
]
