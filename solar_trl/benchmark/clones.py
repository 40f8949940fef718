"""Cloned languages: English with other words, a control whose alignment with English in the base model can be set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .items import permuted
from .vocabulary import SPACE, is_number, language_tokens


_CODE = re.compile(r"en-([xz])([1-9]\d*)")
_WORD = re.compile(r"[^\W\d_]+")
_TEXT_COLUMNS = ("prompt", "completion", "text")
# Words are two syllables, "q" or "x", and the clone's number in base 5 with vowels for digits: "bavoqe". No language
# of the benchmark has a word with either letter in that place (tested).
_VOWELS = "aeiou"
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in _VOWELS]
_SEPARATORS = {"x": "q", "z": "x"}
# Zeros of scripts that no language of the benchmark writes: Devanagari, Arabic-Indic, Gujarati, Tamil, Kannada,
# Malayalam, Lao, Tibetan, Myanmar, Khmer
_ZEROS = (0x966, 0x660, 0xAE6, 0xBE6, 0xCE6, 0xD66, 0xED0, 0xF20, 0x1040, 0x17E0)
_SYMBOLS = ".?:+-="


def is_clone(code: str) -> bool:
    """Whether a language code is that of a clone: `"en-x1"`, `"en-z2"`, ..."""
    return _CODE.fullmatch(code) is not None


def parse_clone(code: str) -> tuple[str, int]:
    """Kind (`"x"` or `"z"`) and number of a clone. Raises a ValueError for any other code."""
    match = _CODE.fullmatch(code)
    if not match:
        raise ValueError(f"{code!r} is not the code of a clone: 'en-x1', 'en-x2', ..., or 'en-z1', 'en-z2', ...")
    kind, number = match[1], int(match[2])
    if kind == "z" and number > len(_ZEROS):
        raise ValueError(f"{code!r} is not a clone: those that share no symbols are 'en-z1' to 'en-z{len(_ZEROS)}'.")
    return kind, number


def clone_text(text: str, code: str) -> str:
    """
    An English text of the benchmark in the words of a clone.

    Every word becomes a pseudo-word that no other language has, capitalised where the English word is. Clones
    `"en-x1"`, `"en-x2"`, ... share numbers, operators and punctuation with all other languages, as real languages
    do. Clones `"en-z1"` to `"en-z10"` share nothing: numbers are in digits of another script, which are still read as
    numbers, and operators and punctuation are symbols of their own.

    Raises:
        ValueError: If the code is not that of a clone, or a word is not in the benchmark's English.
    """
    kind, number = parse_clone(code)
    words = _pseudo_words(code)

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        if word.lower() not in words:
            raise ValueError(
                f"{word!r} (in {text!r:.80}) is not a word of the benchmark's English: only its texts can be cloned."
            )
        clone = words[word.lower()]
        return clone.capitalize() if word[0].isupper() else clone

    text = _WORD.sub(replace, text)
    return text.translate(_symbols(number)) if kind == "z" else text


def clone_language(dataset: Dataset, code: str) -> Dataset:
    """
    The English rows of a benchmark dataset as rows of a clone, see [`clone_text`].

    The loaders also take clones' codes among their languages, which gives the same rows.

    Args:
        dataset ([`~datasets.Dataset`]):
            With a column `language` and one or more of `prompt`, `completion` and `text`. Rows in other languages are
            left out.
        code (`str`):
            The clone, e.g. `"en-x1"`. Its number chooses the pseudo-words: there is no other seed.

    Returns:
        [`~datasets.Dataset`]: As many rows as `dataset` has in English, with the same columns.

    Raises:
        ValueError: If the code is not that of a clone, or there are no English rows, no column of text, or words that
            the benchmark's English does not have.
    """
    parse_clone(code)
    columns = [name for name in _TEXT_COLUMNS if name in dataset.column_names]
    if "language" not in dataset.column_names or not columns:
        raise ValueError(
            f"A dataset to clone needs the column 'language' and one of {', '.join(map(repr, _TEXT_COLUMNS))}; it has "
            f"{', '.join(map(repr, dataset.column_names))}."
        )
    languages = dataset["language"][:]
    english = [i for i, language in enumerate(languages) if language == "en"]
    if not english:
        raise ValueError(f"Clones are made from English ('en') rows; languages are {sorted(set(languages))}.")
    rows = dataset.select(english)

    def clone(row):
        return {name: clone_text(row[name], code) for name in columns} | {"language": code}

    return rows.map(clone, features=rows.features)


def clone_tokens(tokens: Sequence[str], code: str) -> list[str]:
    """What the tokens of the benchmark's English, numbers included, are in a clone, in the same order."""
    return [clone_text(token, code) for token in tokens]


@torch.no_grad()
def set_clone_alignment(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, code: str, alignment: float, seed: int = 0
) -> float:
    """
    Set how closely the embeddings of a clone's tokens lie to those of the English ones.

    With `e` the embedding of an English token, that of the clone's token becomes `a·e + sqrt(1 − a²)·z`, where `z` has
    the norm of `e` and a random direction at right angles to it. So the new embedding has the norm of `e`, and a
    cosine with it of exactly `a` (up to rounding). The rows of an untied output head are set in the same way with a
    noise of their own, and a bias of the head is copied. Tokens that the clone shares with English stay.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Changed in place. Its embeddings must be plain matrices of floating-point numbers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            From [`build_tokenizer`], with English and the clone among its languages.
        code (`str`):
            The clone, e.g. `"en-x1"`.
        alignment (`float`):
            Cosine `a`, from 0 to 1.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the noise, drawn on the CPU. Each clone has its own.

    Returns:
        `float`: Mean cosine of the input embeddings as they are now.

    Raises:
        ValueError: If the alignment is out of range, the code is not that of a clone, or the tokenizer lacks words of
            English or of the clone.
        TypeError: If an embedding matrix is not of floating-point numbers.
    """
    kind, number = parse_clone(code)
    if not 0 <= alignment <= 1:
        raise ValueError(f"`alignment` is {alignment!r}, expected a cosine from 0 to 1.")
    sources, targets = _token_pairs(tokenizer, code)
    generator = torch.Generator().manual_seed((seed * 2 + (kind == "z")) * 1_000_003 + number)
    embeddings = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    matrices = [embeddings]
    if head is not None and head.weight is not embeddings:
        matrices.append(head.weight)
    for matrix in matrices:
        if not matrix.is_floating_point() or matrix.ndim != 2:
            raise TypeError(f"Embeddings must be a matrix of floating-point numbers, got {matrix.dtype}.")
    for matrix in matrices:
        rows = matrix[sources.to(matrix.device)].double().cpu()
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        unit = torch.nn.functional.normalize(rows, dim=-1)
        noise -= (noise * unit).sum(-1, keepdim=True) * unit
        noise = torch.nn.functional.normalize(noise, dim=-1) * rows.norm(dim=-1, keepdim=True)
        new = alignment * rows + (1 - alignment**2) ** 0.5 * noise
        matrix[targets.to(matrix.device)] = new.to(matrix)
    if head is not None and getattr(head, "bias", None) is not None:
        head.bias[targets.to(head.bias.device)] = head.bias[sources.to(head.bias.device)]
    new, old = (embeddings[ids.to(embeddings.device)].double() for ids in (targets, sources))
    return torch.nn.functional.cosine_similarity(new, old).mean().item()


def _token_pairs(tokenizer: PreTrainedTokenizerBase, code: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of the English tokens that are different in a clone, and of what they are there. Both `(n,)`, int64."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in language_tokens("en") if token not in vocabulary]
    if missing:
        raise ValueError(
            f"The tokenizer lacks English tokens of the benchmark ({missing[:3]}): use `build_tokenizer`."
        )
    numbers = sorted(token for token in vocabulary if is_number(token) and token.removeprefix(SPACE).isascii())
    english = [*language_tokens("en"), *numbers]
    pairs = [
        (token, clone) for token, clone in zip(english, clone_tokens(english, code), strict=True) if token != clone
    ]
    if missing := [clone for _, clone in pairs if clone not in vocabulary]:
        raise ValueError(
            f"The tokenizer lacks tokens of {code!r} ({missing[:3]}): name it in `build_tokenizer(languages=...)`."
        )
    sources, targets = ([vocabulary[token] for token in tokens] for tokens in zip(*pairs, strict=True))
    return torch.tensor(sources), torch.tensor(targets)


@cache
def _pseudo_words(code: str) -> dict[str, str]:
    """English word in lower case -> pseudo-word."""
    kind, number = parse_clone(code)
    marker = ""
    while number:
        number, digit = divmod(number, len(_VOWELS))
        marker = _VOWELS[digit] + marker
    words = sorted({word.lower() for token in language_tokens("en") for word in _WORD.findall(token)})
    pseudo_words = {}
    for i, word in enumerate(words):
        first, second = divmod(permuted(i, len(_SYLLABLES) ** 2, f"clone {code}"), len(_SYLLABLES))
        pseudo_words[word] = f"{_SYLLABLES[first]}{_SYLLABLES[second]}{_SEPARATORS[kind]}{marker}"
    return pseudo_words


@cache
def _symbols(number: int) -> dict[int, int]:
    """Digits and symbols, and what they are in the clone that shares none."""
    digits = {ord(str(digit)): _ZEROS[number - 1] + digit for digit in range(10)}
    first = 0x2800 + len(_SYMBOLS) * number
    return digits | {ord(symbol): first + i for i, symbol in enumerate(_SYMBOLS)}
