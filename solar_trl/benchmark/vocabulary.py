"""Every word that a language of the benchmark can say, and how text falls into tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tokenizers import Regex, pre_tokenizers

from .items import MAX_STEPS, MIN_AMOUNT, Item
from .languages import LANGUAGES
from .languages.concepts import GAINS, LOSSES, NAMES, NOUNS


SPACE = "▁"
# What stands right after a word, or, "¿", right before one. Braille patterns are the marks of clones without shared
# symbols.
_MARKS = ".:?¿।。：？\u2800-\u28ff"


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """
    Splits text into words and punctuation marks. The space before a token is part of it, as `▁`.

    Text starts as if a space came before, so that a word is the same token there as anywhere else.
    """
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(
                Regex(f"{SPACE}?[{_MARKS}]|{SPACE}?[^{SPACE}{_MARKS}]+|{SPACE}"), behavior="isolated"
            ),
        ]
    )


@cache
def language_tokens(code: str) -> tuple[str, ...]:
    """All tokens of a language (no clone) without the numbers, sorted."""
    split = pre_tokenizer()
    tokens = {token for text in _texts(code) for token, _ in split.pre_tokenize_str(text)}
    return tuple(sorted(token for token in tokens if not is_number(token)))


def number_token(number: int) -> str:
    """The token of a number in the digits that all languages share."""
    return f"{SPACE}{number}"


def is_number(token: str) -> bool:
    """Whether a token is a number in digits of any script."""
    return token.removeprefix(SPACE).isdecimal()


def _texts(code: str) -> Iterator[str]:
    """Texts with every form of every word: verbs in all places, with every name, as both may agree in gender."""
    language = LANGUAGES[code]
    for name in NAMES:
        for noun in NOUNS:
            for verbs, delta in ((GAINS, MIN_AMOUNT), (LOSSES, -MIN_AMOUNT)):
                for verb in verbs:
                    item = Item((3 * MIN_AMOUNT, *(delta,) * MAX_STEPS), name, noun, (verb,) * MAX_STEPS)
                    yield f"{language.story(item)} {language.question(item)} {language.solution(item)}"
