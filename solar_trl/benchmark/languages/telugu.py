"""Telugu: the verb last, with an ending that agrees with the gender of its subject; possession with "దగ్గర" (near)."""

from .language import Language, forms


TELUGU = Language(
    code="te",
    name="Telugu",
    templates={
        "has": "{name} దగ్గర {n} {noun} ఉన్నాయి.",
        "event": "{pronoun} {n} {noun} {verb}",
        "then": "తర్వాత {pronoun} {n} {noun} {verb}",
        "last": "చివరకు {pronoun} {n} {noun} {verb}",
        "ask": "ఇప్పుడు {name} దగ్గర ఎన్ని {noun} ఉన్నాయి?",
        "first": "మొదట {name} దగ్గర {n} {noun} ఉన్నాయి.",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "సమాధానం {n}.",
        "stop": ".",
    },
    pronouns={"f": "ఆమె", "m": "అతను"},
    names=forms(
        ["name"],
        {
            "Anna": "అన్నా",
            "Maria": "మరియా",
            "Amina": "అమీనా",
            "Lena": "లేనా",
            "Tom": "టామ్",
            "David": "డేవిడ్",
            "Juma": "జుమా",
            "Omar": "ఒమర్",
        },
    ),
    nouns=forms(
        ["noun"],
        {
            "mangoes": "మామిడిపండ్లు",
            "oranges": "నారింజపండ్లు",
            "bananas": "అరటిపండ్లు",
            "eggs": "గుడ్లు",
            "books": "పుస్తకాలు",
            "pens": "పెన్నులు",
            "chairs": "కుర్చీలు",
            "cups": "కప్పులు",
            "plates": "పళ్లాలు",
            "flowers": "పువ్వులు",
            "shirts": "చొక్కాలు",
            "bags": "సంచులు",
            "keys": "తాళంచెవులు",
            "tickets": "టిక్కెట్లు",
            "balls": "బంతులు",
            "coins": "నాణేలు",
        },
    ),
    verbs=forms(
        ["f", "m"],
        {
            "buy": ("కొంటుంది", "కొంటాడు"),
            "find": ("కనుగొంటుంది", "కనుగొంటాడు"),
            "receive": ("అందుకుంటుంది", "అందుకుంటాడు"),
            "collect": ("సేకరిస్తుంది", "సేకరిస్తాడు"),
            "win": ("గెలుచుకుంటుంది", "గెలుచుకుంటాడు"),
            "take": ("తీసుకుంటుంది", "తీసుకుంటాడు"),
            "sell": ("అమ్ముతుంది", "అమ్ముతాడు"),
            "lose": ("పోగొట్టుకుంటుంది", "పోగొట్టుకుంటాడు"),
            "give away": ("పంచుతుంది", "పంచుతాడు"),
            "return": ("తిరిగి ఇస్తుంది", "తిరిగి ఇస్తాడు"),
            "throw away": ("పారేస్తుంది", "పారేస్తాడు"),
            "donate": ("దానం చేస్తుంది", "దానం చేస్తాడు"),
        },
    ),
)
