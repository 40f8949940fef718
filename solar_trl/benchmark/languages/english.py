"""English: the pivot."""

from .concepts import NAMES
from .language import Language, forms


ENGLISH = Language(
    code="en",
    name="English",
    templates={
        "has": "{name} has {n} {noun}.",
        "event": "{Pronoun} {verb} {n} {noun}{particle}",
        "then": "Then {pronoun} {verb} {n} {noun}{particle}",
        "last": "Finally {pronoun} {verb} {n} {noun}{particle}",
        "ask": "How many {noun} does {name} have now?",
        "first": "At first {name} has {n} {noun}.",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "The answer is {n}.",
        "stop": ".",
    },
    pronouns={"f": "she", "m": "he"},
    names=forms(["name"], {name: name for name in NAMES}),
    nouns=forms(
        ["noun"],
        {
            "mangoes": "mangoes",
            "oranges": "oranges",
            "bananas": "bananas",
            "eggs": "eggs",
            "books": "books",
            "pens": "pens",
            "chairs": "chairs",
            "cups": "cups",
            "plates": "plates",
            "flowers": "flowers",
            "shirts": "shirts",
            "bags": "bags",
            "keys": "keys",
            "tickets": "tickets",
            "balls": "balls",
            "coins": "coins",
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "buys",
            "find": "finds",
            "receive": "receives",
            "collect": "collects",
            "win": "wins",
            "take": "takes",
            "sell": "sells",
            "lose": "loses",
            "give away": "gives| away",
            "return": "returns",
            "throw away": "throws| away",
            "donate": "donates",
        },
    ),
)
