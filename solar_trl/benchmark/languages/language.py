"""How a language tells a problem: its templates and the forms of its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .concepts import GAINS, LOSSES, NAMES, NOUNS


if TYPE_CHECKING:
    from ..items import Item


Forms = Mapping[str, Mapping[str, str]]  # concept -> field of the templates -> form
# `has`, `event`, `then`, `last` and `ask` make the problem; `first`, the events with their `calculation`, and `answer`
# the solution. A calculation has no end mark of its own: `stop` ends it, as it ends an event.
TEMPLATE_NAMES = ("has", "event", "then", "last", "ask", "first", "calculation", "answer", "stop")


def forms(fields: Sequence[str], table: Mapping[str, str | tuple[str, ...]]) -> Forms:
    """A table with one form (a string) or several (a tuple) per concept, with the fields named."""
    rows = {concept: (row,) if isinstance(row, str) else row for concept, row in table.items()}
    return {concept: dict(zip(fields, row, strict=True)) for concept, row in rows.items()}


@dataclass(frozen=True)
class Language:
    """
    Templates and words of one language.

    Texts have a space between any two words, also in scripts that write none, and none before a punctuation mark: the
    benchmark's tokenizer takes words for tokens. All numbers stand in digits, alone between spaces.

    Args:
        code (`str`): ISO 639-1.
        name (`str`): English name.
        templates (`Mapping[str, str]`):
            A text for each of `TEMPLATE_NAMES`, with fields in braces: `{n}` the number, `{pronoun}` and `{Pronoun}`
            (capitalised), `{verb}` and `{particle}` (what of a verb follows its object), and those of the tables.
        names, nouns, verbs (`Mapping[str, Mapping[str, str]]`):
            The forms of each concept, see [`forms`]. A verb has either one `verb`, with "|" before its particle if it
            has one, or, where verbs agree with the gender of their subject, the forms `f` and `m`.
        pronouns (`Mapping[str, str]`): `f` and `m`; empty strings where the language drops them.

    Raises:
        ValueError: If a template or a concept is missing, or one is unknown.
    """

    code: str
    name: str
    templates: Mapping[str, str]
    names: Forms
    nouns: Forms
    verbs: Forms
    pronouns: Mapping[str, str]

    def __post_init__(self):
        expected = {
            "templates": TEMPLATE_NAMES,
            "names": NAMES,
            "nouns": NOUNS,
            "verbs": (*GAINS, *LOSSES),
            "pronouns": ("f", "m"),
        }
        for table, concepts in expected.items():
            if wrong := set(getattr(self, table)) ^ set(concepts):
                raise ValueError(f"{self.name}: `{table}` lacks, or should not have, {sorted(wrong)}.")

    def story(self, item: Item) -> str:
        """What is there at first, and what happens."""
        words = self._words(item)
        events = [event + self.templates["stop"] for event in self._events(item, words)]
        return " ".join([self.templates["has"].format(n=item.start, **words), *events])

    def question(self, item: Item) -> str:
        """How many there are in the end."""
        return self.templates["ask"].format(**self._words(item))

    def solution(self, item: Item) -> str:
        """One sentence with a calculation for each event, and a last one with the answer."""
        words = self._words(item)
        sentences = [self.templates["first"].format(n=item.start, **words)]
        before = item.start
        for event, delta in zip(self._events(item, words), item.deltas, strict=True):
            calculation = self.templates["calculation"].format(
                event=event, before=before, sign="+" if delta > 0 else "-", amount=abs(delta), after=before + delta
            )
            sentences.append(calculation + self.templates["stop"])
            before += delta
        return " ".join([*sentences, self.templates["answer"].format(n=item.answer)])

    def _words(self, item: Item) -> dict[str, str]:
        pronoun = self.pronouns[NAMES[item.name]]
        return {
            "pronoun": pronoun,
            "Pronoun": pronoun.capitalize(),
            **self.names[item.name],
            **self.nouns[item.noun],
        }

    def _events(self, item: Item, words: Mapping[str, str]) -> list[str]:
        """The sentences of the events without their end marks; "then" from the second on, "last" for a third."""
        sentences = []
        for place, (delta, verb) in enumerate(zip(item.deltas, item.verbs, strict=True)):
            verb_forms = self.verbs[verb]
            form = verb_forms.get("verb") or verb_forms[NAMES[item.name]]
            form, _, particle = form.partition("|")
            template = self.templates[("event", "then", "last")[place]]
            sentences.append(template.format(n=abs(delta), verb=form, particle=particle, **words))
        return sentences
