"""
Bengali: the verb last, possession with the genitive of the owner and "কাছে", one pronoun for "she" and "he".

The classifier "টি" is written after a space, where Bengali joins it to the number: numbers are tokens of their own.
"""

from .language import Language, forms


BENGALI = Language(
    code="bn",
    name="Bengali",
    templates={
        "has": "{genitive} কাছে {n} টি {noun} আছে।",
        "event": "{pronoun} {n} টি {noun} {verb}",
        "then": "তারপর {pronoun} {n} টি {noun} {verb}",
        "last": "শেষে {pronoun} {n} টি {noun} {verb}",
        "ask": "এখন {genitive} কাছে কয়টি {noun} আছে?",
        "first": "প্রথমে {genitive} কাছে {n} টি {noun} আছে।",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "উত্তর হল {n}।",
        "stop": "।",
    },
    pronouns={"f": "সে", "m": "সে"},
    names=forms(
        ["genitive"],
        {
            "Anna": "আনার",
            "Maria": "মারিয়ার",
            "Amina": "আমিনার",
            "Lena": "লেনার",
            "Tom": "টমের",
            "David": "ডেভিডের",
            "Juma": "জুমার",
            "Omar": "ওমরের",
        },
    ),
    nouns=forms(
        ["noun"],
        {
            "mangoes": "আম",
            "oranges": "কমলা",
            "bananas": "কলা",
            "eggs": "ডিম",
            "books": "বই",
            "pens": "কলম",
            "chairs": "চেয়ার",
            "cups": "কাপ",
            "plates": "থালা",
            "flowers": "ফুল",
            "shirts": "জামা",
            "bags": "ব্যাগ",
            "keys": "চাবি",
            "tickets": "টিকিট",
            "balls": "বল",
            "coins": "মুদ্রা",
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "কেনে",
            "find": "খুঁজে পায়",
            "receive": "গ্রহণ করে",
            "collect": "সংগ্রহ করে",
            "win": "জেতে",
            "take": "নেয়",
            "sell": "বিক্রি করে",
            "lose": "হারায়",
            "give away": "বিলিয়ে দেয়",
            "return": "ফেরত দেয়",
            "throw away": "ফেলে দেয়",
            "donate": "দান করে",
        },
    ),
)
