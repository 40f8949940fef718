"""German: the verb before its subject after "dann", separable verbs around the object."""

from .concepts import NAMES
from .language import Language, forms


GERMAN = Language(
    code="de",
    name="German",
    templates={
        "has": "{name} hat {n} {noun}.",
        "event": "{Pronoun} {verb} {n} {noun}{particle}",
        "then": "Dann {verb} {pronoun} {n} {noun}{particle}",
        "last": "Schließlich {verb} {pronoun} {n} {noun}{particle}",
        "ask": "Wie viele {noun} hat {name} jetzt?",
        "first": "Am Anfang hat {name} {n} {noun}.",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "Die Antwort ist {n}.",
        "stop": ".",
    },
    pronouns={"f": "sie", "m": "er"},
    names=forms(["name"], {name: name for name in NAMES}),
    nouns=forms(
        ["noun"],
        {
            "mangoes": "Mangos",
            "oranges": "Orangen",
            "bananas": "Bananen",
            "eggs": "Eier",
            "books": "Bücher",
            "pens": "Stifte",
            "chairs": "Stühle",
            "cups": "Tassen",
            "plates": "Teller",
            "flowers": "Blumen",
            "shirts": "Hemden",
            "bags": "Taschen",
            "keys": "Schlüssel",
            "tickets": "Fahrkarten",
            "balls": "Bälle",
            "coins": "Münzen",
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "kauft",
            "find": "findet",
            "receive": "bekommt",
            "collect": "sammelt",
            "win": "gewinnt",
            "take": "nimmt",
            "sell": "verkauft",
            "lose": "verliert",
            "give away": "verschenkt",
            "return": "gibt| zurück",
            "throw away": "wirft| weg",
            "donate": "spendet",
        },
    ),
)
