"""A word-level tokenizer over the closed vocabulary of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from .arithmetic import check_languages
from .clones import clone_tokens, is_clone
from .languages import LANGUAGES
from .vocabulary import SPACE, language_tokens, number_token, pre_tokenizer


PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


def build_tokenizer(languages: Sequence[str] = tuple(LANGUAGES), max_number: int = 30) -> PreTrainedTokenizerFast:
    """
    A tokenizer with one token for every word, number and punctuation mark of the languages' problems.

    The space before a word is part of its token. Text starts as if it had one, and decoding takes the first space
    away: `decode(encode(text))` is `text` without a space at its start, and without the words it does not know (there
    are none in the benchmark). Neither `<bos>` nor `<eos>` is added to text. Padding is on the left, as generation
    needs it; TRL's collators pad on their own.

    Args:
        languages (`Sequence[str]`, *optional*):
            Codes, clones included. All but clones by default. Ids do not change if languages are added at the end.
        max_number (`int`, *optional*, defaults to `30`):
            Largest number in the data: the `max_number` of the loaders. (Amounts are never larger.)

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]: With `<pad>`, `<bos>`, `<eos>` and `<unk>` as ids 0 to 3.

    Raises:
        ValueError: If a language is unknown or `max_number` is below 0.
    """
    check_languages(languages)
    if max_number < 0:
        raise ValueError(f"`max_number` is {max_number}, expected at least 0.")
    numbers = [number_token(number) for number in range(max_number + 1)]
    tokens = [PAD, BOS, EOS, UNK, *numbers]
    for code in languages:
        if is_clone(code):
            tokens += sorted(clone_tokens([*language_tokens("en"), *numbers], code))
        else:
            tokens += language_tokens(code)
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(dict.fromkeys(tokens))}, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizer()
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
