"""
Parallel arithmetic word problems in six languages, with step-by-step solutions. Templated: no text was collected.

German and Spanish play the high-resource languages, Swahili, Bengali and Thai the low-resource ones. Each keeps its
script, its word order (verb last in Bengali, verb before subject after "dann" in German, number after the noun in
Swahili and Thai, with a classifier in Thai), and its agreement (Spanish gender, Swahili noun classes).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product


PIVOT = "en"
HIGH_RESOURCE = ("en", "de", "es")
LOW_RESOURCE = ("sw", "bn", "th")
LANGUAGES = HIGH_RESOURCE + LOW_RESOURCE
LANGUAGE_NAMES = {
    "en": "English",
    "de": "German",
    "es": "Spanish",
    "sw": "Swahili",
    "bn": "Bengali",
    "th": "Thai",
}
MAX_NUMBER = 20

# The demo's tokenizer is word-level. For that reason only, Thai, which has no spaces between words, and Bengali, which
# joins the classifier to the number, are written one token per word.
#
# `has`, `event`, `then` and `ask` make the problem; `first`, `event` and `then` with their calculations, and `answer`
# the solution. {many} is "how many" as it agrees with the noun, {unit} the classifier, {verb} and {particle} the two
# parts of a verb.
TEMPLATES = {
    "en": {
        "has": "{name} has {n} {noun}.",
        "event": "{Pronoun} {verb} {n} {noun}{particle}",
        "then": "Then {pronoun} {verb} {n} {noun}{particle}",
        "ask": "How many {noun} does {name} have now?",
        "first": "At first {name} has {n} {noun}.",
        "answer": "The answer is {n}.",
        "stop": ".",
    },
    "de": {
        "has": "{name} hat {n} {noun}.",
        "event": "{Pronoun} {verb} {n} {noun}{particle}",
        "then": "Dann {verb} {pronoun} {n} {noun}{particle}",
        "ask": "Wie viele {noun} hat {name} jetzt?",
        "first": "Am Anfang hat {name} {n} {noun}.",
        "answer": "Die Antwort ist {n}.",
        "stop": ".",
    },
    "es": {
        "has": "{name} tiene {n} {noun}.",
        "event": "{name} {verb} {n} {noun}",
        "then": "Luego {verb} {n} {noun}",
        "ask": "¿{many} {noun} tiene {name} ahora?",
        "first": "Al principio {name} tiene {n} {noun}.",
        "answer": "La respuesta es {n}.",
        "stop": ".",
    },
    "sw": {
        "has": "{name} ana {noun} {n}.",
        "event": "{name} {verb} {noun} {n}",
        "then": "Kisha {verb} {noun} {n}",
        "ask": "Sasa {name} ana {noun} {many}?",
        "first": "Mwanzoni {name} ana {noun} {n}.",
        "answer": "Jibu ni {n}.",
        "stop": ".",
    },
    "bn": {
        "has": "{genitive} কাছে {n} টি {noun} আছে।",
        "event": "{pronoun} {n} টি {noun} {verb}",
        "then": "তারপর {pronoun} {n} টি {noun} {verb}",
        "ask": "এখন {genitive} কাছে কয়টি {noun} আছে?",
        "first": "প্রথমে {genitive} কাছে {n} টি {noun} আছে।",
        "answer": "উত্তর হল {n}।",
        "stop": "।",
    },
    "th": {
        "has": "{name} มี {noun} {n} {unit}",
        "event": "{pronoun} {verb} {noun} {n} {unit}{particle}",
        "then": "จากนั้น {pronoun} {verb} {noun} {n} {unit}{particle}",
        "ask": "ตอนนี้ {name} มี {noun} กี่ {unit}",
        "first": "ตอนแรก {name} มี {noun} {n} {unit}",
        "answer": "คำตอบ คือ {n}",
        "stop": "",
    },
}

PRONOUNS = {
    "en": {"f": "she", "m": "he"},
    "de": {"f": "sie", "m": "er"},
    "es": {"f": "", "m": ""},
    "sw": {"f": "", "m": ""},
    "bn": {"f": "সে", "m": "সে"},
    "th": {"f": "เธอ", "m": "เขา"},
}

# Latin-script name: gender, Bengali name in the genitive, Thai name
NAMES = {
    "Anna": ("f", "আনার", "แอนนา"),
    "Maria": ("f", "মারিয়ার", "มาเรีย"),
    "Amina": ("f", "আমিনার", "อามีนา"),
    "Lena": ("f", "লেনার", "เลนา"),
    "Ben": ("m", "বেনের", "เบน"),
    "David": ("m", "ডেভিডের", "เดวิด"),
    "Juma": ("m", "জুমার", "จูมา"),
    "Omar": ("m", "ওমরের", "โอมาร์"),
}

# English: German, Spanish (how many, noun), Swahili (noun, how many), Bengali, Thai (noun, classifier); all plural
NOUNS = {
    "mangoes": ("Mangos", ("Cuántos", "mangos"), ("maembe", "mangapi"), "আম", ("มะม่วง", "ผล")),
    "oranges": ("Orangen", ("Cuántas", "naranjas"), ("machungwa", "mangapi"), "কমলা", ("ส้ม", "ผล")),
    "bananas": ("Bananen", ("Cuántos", "plátanos"), ("ndizi", "ngapi"), "কলা", ("กล้วย", "ผล")),
    "eggs": ("Eier", ("Cuántos", "huevos"), ("mayai", "mangapi"), "ডিম", ("ไข่", "ฟอง")),
    "books": ("Bücher", ("Cuántos", "libros"), ("vitabu", "vingapi"), "বই", ("หนังสือ", "เล่ม")),
    "pens": ("Stifte", ("Cuántos", "bolígrafos"), ("kalamu", "ngapi"), "কলম", ("ปากกา", "ด้าม")),
    "chairs": ("Stühle", ("Cuántas", "sillas"), ("viti", "vingapi"), "চেয়ার", ("เก้าอี้", "ตัว")),
    "cups": ("Tassen", ("Cuántas", "tazas"), ("vikombe", "vingapi"), "কাপ", ("ถ้วย", "ใบ")),
    "plates": ("Teller", ("Cuántos", "platos"), ("sahani", "ngapi"), "থালা", ("จาน", "ใบ")),
    "flowers": ("Blumen", ("Cuántas", "flores"), ("maua", "mangapi"), "ফুল", ("ดอกไม้", "ดอก")),
    "shirts": ("Hemden", ("Cuántas", "camisas"), ("mashati", "mangapi"), "জামা", ("เสื้อ", "ตัว")),
    "bags": ("Taschen", ("Cuántas", "bolsas"), ("mifuko", "mingapi"), "ব্যাগ", ("กระเป๋า", "ใบ")),
    "keys": ("Schlüssel", ("Cuántas", "llaves"), ("funguo", "ngapi"), "চাবি", ("กุญแจ", "ดอก")),
    "tickets": ("Fahrkarten", ("Cuántos", "boletos"), ("tiketi", "ngapi"), "টিকিট", ("ตั๋ว", "ใบ")),
}

# English, German, Spanish, Swahili, Bengali, Thai; "|" stands before the part that follows the object
GAINS = (
    ("buys", "kauft", "compra", "ananunua", "কেনে", "ซื้อ"),
    ("finds", "findet", "encuentra", "anaokota", "খুঁজে পায়", "พบ"),
    ("receives", "bekommt", "recibe", "anapokea", "গ্রহণ করে", "ได้รับ"),
    ("collects", "sammelt", "recoge", "anakusanya", "সংগ্রহ করে", "เก็บ"),
    ("wins", "gewinnt", "gana", "anashinda", "জেতে", "ชนะ ได้"),
    ("takes", "nimmt", "toma", "anachukua", "নেয়", "หยิบ"),
)
LOSSES = (
    ("sells", "verkauft", "vende", "anauza", "বিক্রি করে", "ขาย"),
    ("loses", "verliert", "pierde", "anapoteza", "হারায়", "ทำ| หาย"),
    ("gives| away", "verschenkt", "regala", "anagawa", "বিলিয়ে দেয়", "แจก"),
    ("returns", "gibt| zurück", "devuelve", "anarudisha", "ফেরত দেয়", "คืน"),
    ("throws| away", "wirft| weg", "tira", "anatupa", "ফেলে দেয়", "ทิ้ง"),
    ("donates", "spendet", "dona", "anachangia", "দান করে", "บริจาค"),
)

Program = tuple[int, ...]  # start, then what is gained or lost at each step


@dataclass(frozen=True)
class Item:
    """One problem, in no language yet."""

    program: Program
    name: str
    noun: str
    verbs: tuple[tuple[str, ...], ...]

    @property
    def answer(self) -> int:
        return sum(self.program)


@dataclass(frozen=True)
class DemoData:
    """Everything that the demo trains and evaluates on."""

    base: list[dict]  # `text`: English solved problems, and stories without question or solution in every language
    train: list[dict]  # `prompt`, `completion`, `language`, `parallel_id`
    evaluation: list[dict]  # the same, every item in every language, items in the same order for each


def render(item: Item, language: str) -> tuple[str, str, str]:
    """The story, the question and the solution of an item in one language."""
    gender, genitive, thai_name = NAMES[item.name]
    german, (many, spanish), (swahili, ngapi), bengali, (thai, unit) = NOUNS[item.noun]
    position = LANGUAGES.index(language)
    pronoun = PRONOUNS[language][gender]
    words = {
        "name": thai_name if language == "th" else item.name,
        "genitive": genitive,
        "pronoun": pronoun,
        "Pronoun": pronoun.capitalize(),
        "noun": (item.noun, german, spanish, swahili, bengali, thai)[position],
        "many": ngapi if language == "sw" else many,
        "unit": unit,
    }
    template = TEMPLATES[language]
    start, *deltas = item.program
    story, solution = [template["has"].format(n=start, **words)], [template["first"].format(n=start, **words)]
    total = start
    for i, (delta, verb) in enumerate(zip(deltas, item.verbs, strict=True)):
        verb, _, particle = verb[position].partition("|")
        event = template["event" if i == 0 else "then"].format(n=abs(delta), verb=verb, particle=particle, **words)
        story.append(event + template["stop"])
        sign = "+" if delta > 0 else "-"
        solution.append(f"{event}: {total} {sign} {abs(delta)} = {total + delta}{template['stop']}")
        total += delta
    solution.append(template["answer"].format(n=total))
    return " ".join(story), template["ask"].format(**words), " ".join(solution)


def split_programs(seed: int, eval_share: float = 0.2) -> tuple[list[list[Program]], list[list[Program]]]:
    """
    All one- and two-step calculations, cut into those for training and those for evaluation.

    So no calculation of an evaluation problem occurs in training, whatever the words around it.
    """
    amounts = [sign * n for n in range(2, 8) for sign in (1, -1)]
    train, evaluation = [], []
    for steps in (1, 2):
        programs = [
            (start, *deltas)
            for start in range(2, 15)
            for deltas in product(amounts, repeat=steps)
            if all(0 <= start + sum(deltas[: i + 1]) <= MAX_NUMBER for i in range(steps))
        ]
        random.Random(seed).shuffle(programs)
        cut = round(len(programs) * eval_share)
        evaluation.append(programs[:cut])
        train.append(programs[cut:])
    return train, evaluation


def sample_item(rng: random.Random, programs: list[list[Program]]) -> Item:
    """A random item; one and two steps are equally likely."""
    program = rng.choice(rng.choice(programs))
    verbs = tuple(rng.choice(GAINS if delta > 0 else LOSSES) for delta in program[1:])
    return Item(program, rng.choice(list(NAMES)), rng.choice(list(NOUNS)), verbs)


def _rows(item: Item, parallel_id: int, languages: tuple[str, ...]) -> list[dict]:
    rows = []
    for language in languages:
        story, question, solution = render(item, language)
        # The space before the solution keeps the prompt's tokens a prefix of the whole
        row = {"prompt": f"{story} {question}", "completion": f" {solution}"}
        rows.append({**row, "language": language, "parallel_id": parallel_id})
    return rows


def make_data(
    seed: int, num_base: int, num_high_resource: int, num_low_resource: int, num_eval: int = 100
) -> DemoData:
    """
    Build the data of the demo.

    Args:
        seed (`int`):
            Same seed, same data.
        num_base (`int`):
            English solved problems of the base training. There are as many rows with two stories, spread over the
            languages, each story of an item of its own: the base model never sees two languages tell the same one.
        num_high_resource (`int`):
            Training items that exist in English, German and Spanish.
        num_low_resource (`int`):
            Training items that exist in English, Swahili, Bengali and Thai.
        num_eval (`int`):
            Evaluation items, each in all six languages.

    Returns:
        [`DemoData`]: Rows as lists of dictionaries.
    """
    train_programs, eval_programs = split_programs(seed)
    rng = random.Random(seed + 1)
    base = []
    for i in range(num_base):
        base.append({"text": " ".join(render(sample_item(rng, train_programs), PIVOT))})
        language = LANGUAGES[i % len(LANGUAGES)]
        # Two in a row, to be about as long as a solved problem
        base.append({"text": " ".join(render(sample_item(rng, train_programs), language)[0] for _ in range(2))})
    train, evaluation = [], []
    for i in range(num_high_resource + num_low_resource):
        languages = HIGH_RESOURCE if i < num_high_resource else (PIVOT, *LOW_RESOURCE)
        train.extend(_rows(sample_item(rng, train_programs), i, languages))
    for i in range(num_eval):
        evaluation.extend(_rows(sample_item(rng, eval_programs), i, LANGUAGES))
    return DemoData(base, train, evaluation)


def vocabulary() -> list[str]:
    """Every text in which a word of the demo can occur, for building the tokenizer."""
    texts = [" ".join(map(str, range(MAX_NUMBER + 1)))]
    for name, noun, verb, language in product(NAMES, NOUNS, GAINS + LOSSES, LANGUAGES):
        sign = 1 if verb in GAINS else -1
        texts.append(" ".join(render(Item((10, 2 * sign, 2 * sign), name, noun, (verb, verb)), language)))
    return texts
