"""Words of a text that a dictionary has, in any script; code, formulas and numbers are no words."""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache


# Scripts that put no space between words: Thai, Lao, Myanmar, Khmer, kana, Han
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_PROTECTED = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`"  # code
    r"|\$\$.*?\$\$|\$(?!\s)[^$\n]+?(?<!\s)\$(?!\d)|\\\[.*?\\\]|\\\(.*?\\\)|\\[A-Za-z]+"  # formulas, not "$5 and $6"
    r"|\w+://\S+|\bwww\.\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # addresses
    r"|</?[A-Za-z|][^<>\n]*>|\{[^{}\n]*\}",  # tags, special tokens, placeholders
    re.DOTALL,
)
_GLUE = set("._/\\@#=")  # between letters, without a space: a path, an attribute, an assignment


@lru_cache(maxsize=1)
def _tokens() -> re.Pattern[str]:
    """Runs of an unspaced script, and words of the others, whose combining marks `\\w` lacks."""
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    ranges = ""
    for _, run in itertools.groupby(enumerate(marks), key=lambda pair: pair[1] - pair[0]):
        codes = [code for _, code in run]
        ranges += f"{re.escape(chr(codes[0]))}-{re.escape(chr(codes[-1]))}"
    letter = rf"(?:(?![{_UNSPACED}])[\w{ranges}\u200c\u200d])"
    return re.compile(rf"(?P<run>[{_UNSPACED}]+)|(?P<word>{letter}+(?:['’]{letter}+)*)")


class Dictionary:
    """
    Translations of the words of one language.

    Args:
        words (mapping of `str` to list of `str`):
            Words, or several separated by single spaces, and their translations.
    """

    def __init__(self, words: Mapping[str, Sequence[str]]):
        self.exact = {unicodedata.normalize("NFC", " ".join(word.split())): list(words[word]) for word in words}
        self.folded: dict[str, list[str]] = {}
        for word, translations in self.exact.items():
            self.folded.setdefault(word.casefold(), translations)
        self.most_words = max((word.count(" ") + 1 for word in self.exact), default=0)
        self.longest = max(map(len, self.exact), default=0)

    def replace(self, text: str, choose: Callable[[list[str]], str | None]) -> str:
        """
        Replace words of a text.

        Args:
            text (`str`): The text.
            choose (callable): From the translations of a word that was found to one of them, or `None` to leave it.
        """
        result, end = [], 0
        for protected in _PROTECTED.finditer(text):
            result += [self._replace_within(text, end, protected.start(), choose), protected[0]]
            end = protected.end()
        return "".join([*result, self._replace_within(text, end, len(text), choose)])

    def _replace_within(self, text: str, start: int, stop: int, choose: Callable[[list[str]], str | None]) -> str:
        tokens = list(_tokens().finditer(text, start, stop))
        result, end, i = [], start, 0
        while i < len(tokens):
            token = tokens[i]
            result.append(text[end : token.start()])
            if token["run"]:
                result.append(self._segment(token[0], choose))
                count = 1
            else:
                count, replaced = self._phrase(text, tokens[i : i + self.most_words], choose)
                result.append(replaced)
            i += count
            end = tokens[i - 1].end()
        return "".join([*result, text[end:stop]])

    def _phrase(
        self, text: str, tokens: Sequence[re.Match[str]], choose: Callable[[list[str]], str | None]
    ) -> tuple[int, str]:
        """How many words were taken, and what stands for them: the longest entry that starts at the first."""
        for count in range(len(tokens), 0, -1):
            some = tokens[:count]
            found = text[some[0].start() : some[-1].end()]
            between = [text[a.end() : b.start()] for a, b in itertools.pairwise(some)]
            if any(token["run"] for token in some) or not all(gap.isspace() for gap in between):
                continue
            translations = self._look_up(" ".join(token[0] for token in some))
            if translations is not None and not _is_code(text, some[0].start(), some[-1].end()):
                return count, self._chosen(found, translations, choose)
        return 1, tokens[0][0] if tokens else ""

    def _segment(self, run: str, choose: Callable[[list[str]], str | None]) -> str:
        """From left to right the longest entry that fits (maximum matching)."""
        result, i = [], 0
        while i < len(run):
            for stop in range(min(len(run), i + self.longest), i, -1):
                if stop < len(run) and unicodedata.category(run[stop])[0] == "M":  # a vowel sign belongs to its letter
                    continue
                translations = self._look_up(run[i:stop])
                if translations is not None:
                    result.append(self._chosen(run[i:stop], translations, choose))
                    i = stop
                    break
            else:
                result.append(run[i])
                i += 1
        return "".join(result)

    def _look_up(self, word: str) -> list[str] | None:
        word = unicodedata.normalize("NFC", word)
        translations = self.exact.get(word) or self.folded.get(word.casefold())
        if translations and any(character.isnumeric() and not character.isalpha() for character in word):
            return None  # numbers stay, whatever the dictionary says
        return translations

    def _chosen(self, found: str, translations: list[str], choose: Callable[[list[str]], str | None]) -> str:
        translation = choose(translations)
        if translation is None:
            return found
        if unicodedata.normalize("NFC", " ".join(found.split())) in self.exact:
            return translation  # in the very case that the dictionary has
        if found.isupper() and sum(character.isupper() for character in found) > 1:
            return translation.upper()
        return translation[:1].upper() + translation[1:] if found[:1].isupper() else translation


def _is_code(text: str, start: int, stop: int) -> bool:
    """Whether a word is glued to others as in `os.path`, `a/b`, `x=y`, or followed by a bracket as in `print(`."""
    before, after = text[max(start - 2, 0) : start], text[stop : stop + 2]
    return (
        before[-1:] in set("@#\\")
        or (before[-1:] in _GLUE and before[:1].isalnum() and len(before) == 2)
        or after[:1] == "("
        or (after[:1] in _GLUE and after[1:].isalnum())
    )
