"""Swahili: the number after the noun, "-ngapi" (how many) agrees with the noun class, the subject inside the verb."""

from .concepts import NAMES
from .language import Language, forms


SWAHILI = Language(
    code="sw",
    name="Swahili",
    templates={
        "has": "{name} ana {noun} {n}.",
        "event": "{name} {verb} {noun} {n}",
        "then": "Kisha {verb} {noun} {n}",
        "last": "Mwishowe {verb} {noun} {n}",
        "ask": "Sasa {name} ana {noun} {many}?",
        "first": "Mwanzoni {name} ana {noun} {n}.",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "Jibu ni {n}.",
        "stop": ".",
    },
    pronouns={"f": "", "m": ""},
    names=forms(["name"], {name: name for name in NAMES}),
    nouns=forms(
        ["noun", "many"],
        {
            "mangoes": ("maembe", "mangapi"),
            "oranges": ("machungwa", "mangapi"),
            "bananas": ("ndizi", "ngapi"),
            "eggs": ("mayai", "mangapi"),
            "books": ("vitabu", "vingapi"),
            "pens": ("kalamu", "ngapi"),
            "chairs": ("viti", "vingapi"),
            "cups": ("vikombe", "vingapi"),
            "plates": ("sahani", "ngapi"),
            "flowers": ("maua", "mangapi"),
            "shirts": ("mashati", "mangapi"),
            "bags": ("mifuko", "mingapi"),
            "keys": ("funguo", "ngapi"),
            "tickets": ("tiketi", "ngapi"),
            "balls": ("mipira", "mingapi"),
            "coins": ("sarafu", "ngapi"),
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "ananunua",
            "find": "anaokota",
            "receive": "anapokea",
            "collect": "anakusanya",
            "win": "anashinda",
            "take": "anachukua",
            "sell": "anauza",
            "lose": "anapoteza",
            "give away": "anagawa",
            "return": "anarudisha",
            "throw away": "anatupa",
            "donate": "anachangia",
        },
    ),
)
