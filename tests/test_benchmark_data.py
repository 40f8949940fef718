"""The benchmark's data: every row against an independent reading of its text, splits, languages, clones, tokenizer."""

import re
import unicodedata
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_model

from solar_trl.benchmark import (
    LANGUAGES,
    Item,
    ProblemSpace,
    build_tokenizer,
    clone_language,
    clone_text,
    final_answer,
    is_clone,
    load_base_corpus,
    load_parallel_arithmetic,
    render,
    set_clone_alignment,
    split_of,
)
from solar_trl.benchmark.items import SPLIT_SHARES, permuted
from solar_trl.benchmark.languages.concepts import GAINS, LOSSES, NAMES, NOUNS
from solar_trl.benchmark.languages.language import Language, forms
from solar_trl.benchmark.vocabulary import language_tokens
from solar_trl.data import find_pivots
from solar_trl.data.scripts import SCRIPTS, expected_script, letter_scripts
from solar_trl.evaluation.templates import TEMPLATES


CLONES = ("en-x1", "en-x2", "en-z1")
ALL = (*LANGUAGES, *CLONES)
SPLITS = ("train", "validation", "test")
FULL = {"steps": (1, 2, 3), "max_number": 30}
# Written down once more, apart from the package
ENGLISH_GAINS = {"buys", "finds", "receives", "collects", "wins", "takes"}
ENGLISH_LOSSES = {"sells", "loses", "gives", "returns", "throws", "donates"}


def ascii_digits(text):
    return "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", ascii_digits(text))]


def read_story(story):
    """What is there at first and what is gained or lost, of an English story."""
    start, *amounts = numbers(story)
    signs = [1 if word in ENGLISH_GAINS else -1 for word in story.split() if word in ENGLISH_GAINS | ENGLISH_LOSSES]
    return (start, *(sign * amount for sign, amount in zip(signs, amounts, strict=True)))


def by_item(dataset):
    items = {}
    for row in dataset:
        items.setdefault(row["parallel_id"], {})[row["language"]] = row
    return items


def every_item():
    """Items with every concept, every verb in every place, and every pair of a name and a verb."""
    for name, verbs, place in product(NAMES, (GAINS, LOSSES), range(len(GAINS))):
        verb, delta = verbs[place], 3 if verbs is GAINS else -3
        noun = NOUNS[(list(NAMES).index(name) * len(GAINS) + place) % len(NOUNS)]
        yield Item((12, delta, delta, delta), name, noun, (verb,) * 3)


# --- Rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_right_and_parallel(split):
    dataset = load_parallel_arithmetic(ALL, n=60, seed=3, split=split, **FULL)
    assert dataset.column_names == ["prompt", "completion", "answer", "language", "parallel_id", "steps"]
    items = by_item(dataset)
    assert list(items) == list(range(60)) and all(tuple(rows) == ALL for rows in items.values())
    for rows in items.values():
        start, *deltas = read_story(rows["en"]["prompt"])
        for language, row in rows.items():
            assert numbers(row["prompt"]) == [start, *map(abs, deltas)], row
            assert final_answer(row["completion"]) == row["answer"] == str(start + sum(deltas)), row
            assert row["steps"] == len(deltas)
            # The solution by its numbers: start, then amount, before, amount, after of each step, and the answer
            first, *rest, last = numbers(row["completion"])
            assert first == start and len(rest) == 4 * len(deltas)
            for step, delta in enumerate(deltas):
                amount, before, operand, after = rest[4 * step : 4 * step + 4]
                assert (amount, before, operand) == (abs(delta), start, abs(delta)) and after == start + delta
                start = after
            assert last == start
            start -= sum(deltas)
            if language[:4] != "en-z":
                signs = re.findall(r" ([+-]) \d+ = ", row["completion"])
                assert signs == ["+" if delta > 0 else "-" for delta in deltas]


def test_numbers_stay_in_their_range_and_steps_take_turns():
    dataset = load_parallel_arithmetic(["en"], n=600, steps=(3, 1), max_number=12, max_amount=5)
    assert dataset["steps"][:4] == [3, 1, 3, 1]
    seen = {number for row in dataset for number in numbers(row["prompt"] + row["completion"])}
    assert seen == set(range(13))
    stories = [read_story(prompt) for prompt in dataset["prompt"]]
    assert {abs(delta) for story in stories for delta in story[1:]} == {2, 3, 4, 5}
    assert min(story[0] for story in stories) == 2
    assert {len(story) - 1 for story in stories} == {1, 3}


def test_rows_depend_on_the_seed_alone_and_a_larger_n_continues():
    small, large = (load_parallel_arithmetic(["en", "sw"], n=n, seed=5) for n in (50, 400))
    assert small[:] == large[:100]
    other = load_parallel_arithmetic(["en", "sw"], n=400, seed=6)
    same = set(large["prompt"]) & set(other["prompt"])
    assert len(same) < 8 and large["prompt"][0] != other["prompt"][0]
    # The same in every process: no hash of Python's is in it
    assert ProblemSpace("test").sample(2, seed=1) == PINNED


PINNED = [
    Item(calculation=(18, 7), name="David", noun="cups", verbs=("take",)),
    Item(calculation=(14, -8, 8), name="Omar", noun="balls", verbs=("throw away", "receive")),
]


def test_languages_do_not_change_the_items():
    few, many = (load_parallel_arithmetic(codes, n=40) for codes in (["ja", "en"], ALL))
    rows = by_item(many)
    assert [row["language"] for row in few.select(range(4))] == ["ja", "en", "ja", "en"]
    assert all(row == rows[row["parallel_id"]][row["language"]] for row in few)


def test_rows_pair_with_english():
    pivots = find_pivots(dataset := load_parallel_arithmetic(["de", "en", "th"], n=30, resources={"th": 4}))
    for row, pivot in zip(dataset, pivots, strict=True):
        if row["language"] == "en":
            assert pivot == -1
        else:
            assert dataset[int(pivot)]["language"] == "en"
            assert dataset[int(pivot)]["parallel_id"] == row["parallel_id"]


def test_fewer_rows_are_a_subset_of_more_rows():
    codes = ["en", "de", "sw", "bn", "te"]
    sizes = [{"de": 0.5, "sw": 20, "bn": 7, "te": 0}, {"de": 0.75, "sw": 30, "bn": 7, "te": 1}]
    first, second = (load_parallel_arithmetic(codes, n=80, resources=size) for size in sizes)
    ids = [
        {code: {row["parallel_id"] for row in dataset if row["language"] == code} for code in codes}
        for dataset in (first, second)
    ]
    assert [len(ids[0][code]) for code in codes] == [80, 40, 20, 7, 0]
    assert [len(ids[1][code]) for code in codes] == [80, 60, 30, 7, 1]
    for code, (more, less) in product(codes, [(1, 0)]):
        assert ids[less][code] <= ids[more][code] <= ids[more]["en"]
    assert ids[0]["bn"] < ids[0]["sw"] < ids[0]["de"]
    texts = {(row["language"], row["parallel_id"]): row["prompt"] for row in second}
    assert all(texts[row["language"], row["parallel_id"]] == row["prompt"] for row in first)
    # More items for the others change nothing for those who have few
    third = load_parallel_arithmetic(codes, n=150, resources={"sw": 20})
    of_swahili = [[row["prompt"] for row in dataset if row["language"] == "sw"] for dataset in (first, third)]
    assert of_swahili[0] == of_swahili[1]
    assert len(load_parallel_arithmetic(["en"], n=0)) == 0


# --- Splits -------------------------------------------------------------------------------------------------------


def test_no_calculation_is_in_two_splits():
    calculations = {split: set() for split in ("base", *SPLITS)}
    for seed in (0, 1):
        for split in SPLITS:
            dataset = load_parallel_arithmetic(["en"], n=2000, seed=seed, split=split, **FULL)
            calculations[split] |= {read_story(prompt) for prompt in dataset["prompt"]}
        base = load_base_corpus(["en"], n_solved=1000, n_stories=1000, seed=seed, **FULL)
        for text in base["text"]:
            stories = re.findall(r"\w+ has \d+.*?(?=\w+ has \d+|$)", text.partition("How many")[0])
            assert len(stories) == 1 + ("How many" not in text)
            calculations["base"] |= set(map(read_story, stories))
    assert all(len(found) > 500 for found in calculations.values())
    for one, other in combinations(calculations, 2):
        assert not calculations[one] & calculations[other]


def test_splits_share_out_all_calculations():
    # All calculations of two steps, counted without the package's way of listing them
    amounts = [delta for delta in range(-6, 7) if abs(delta) >= 2]
    everything = {
        (start, a, b)
        for start, a, b in product(range(2, 16), amounts, amounts)
        if 0 <= start + a <= 15 and 0 <= start + a + b <= 15
    }
    options = {"steps": (2,), "max_number": 15, "max_amount": 6}
    words = len(NAMES) * len(NOUNS) * 6**2
    sizes = {split: ProblemSpace(split, **options).size(2) for split in SPLIT_SHARES}
    assert sum(sizes.values()) == len(everything) * words
    for split, share in SPLIT_SHARES.items():
        assert sizes[split] / words == sum(split_of(calculation) == split for calculation in everything)
        assert sizes[split] / words / len(everything) == pytest.approx(share, abs=0.05)
    assert any(split_of(c) != split_of(c, split_seed=1) for c in everything)


def test_a_split_can_be_used_up_and_no_further():
    options = {"steps": (1,), "max_number": 6, "max_amount": 3}
    space = ProblemSpace("train", **options)
    size = space.size(1)
    items = space.sample(size, seed=9)
    assert len(set(items)) == size > 1000
    texts = load_parallel_arithmetic(["en"], n=size, **options)["prompt"][:]
    assert len(set(texts)) == size
    with pytest.raises(ValueError, match=rf"only {size} different problems .* {size} with 1 steps"):
        load_parallel_arithmetic(["en"], n=size + 1, **options)
    with pytest.raises(ValueError, match="only 0 different"):
        load_parallel_arithmetic(["en"], n=1, split="validation", steps=(1,), max_number=2, max_amount=2)


def test_mixed_steps_name_the_number_that_can_be_drawn():
    options = {"steps": (2, 1), "max_number": 6, "max_amount": 3}
    space = ProblemSpace("train", **options)
    limit = 2 * space.size(1) + 1  # the one-step problems are the scarce ones, and come second
    assert len(set(space.sample(limit))) == limit
    with pytest.raises(ValueError, match=f"only {limit} different"):
        space.sample(limit + 1)


def test_pieces_are_disjoint_and_make_up_the_whole():
    space = ProblemSpace("test", steps=(1,), max_number=5, max_amount=3)
    size = space.size(1)
    pieces = [space.sample((size - seed + 6) // 7, seed=seed, num_pieces=7) for seed in range(7)]
    together = [item for piece in pieces for item in piece]
    assert len(together) == len(set(together)) == size
    # A piece is a mixture: it holds every verb, name and noun that there is
    for parts in zip(*[[{i.verbs for i in p}, {i.name for i in p}, {i.noun for i in p}] for p in pieces], strict=True):
        assert len(set(map(frozenset, parts))) == 1 and len(parts[0]) > 1
    with pytest.raises(ValueError, match="from 0 to 6, got 7"):
        space.sample(1, seed=7, num_pieces=7)
    with pytest.raises(ValueError, match="in 7 pieces"):
        space.sample(size, seed=0, num_pieces=7)


@given(st.integers(1, 300), st.text(max_size=5))
@settings(max_examples=40, deadline=None)
def test_permutation(size, key):
    assert sorted(permuted(i, size, key) for i in range(size)) == list(range(size))


def test_permutation_depends_on_its_key_and_knows_its_range():
    assert [permuted(i, 1000, "a") for i in range(9)] != [permuted(i, 1000, "b") for i in range(9)]
    for index in (-1, 5):
        with pytest.raises(IndexError, match=rf"{index} is not in range\(5\)"):
            permuted(index, 5, "")


# --- Base corpus --------------------------------------------------------------------------------------------------


def test_base_corpus_solves_in_english_only():
    corpus = load_base_corpus(ALL, n_solved=20, n_stories=5 * len(ALL), seed=2)
    assert len(corpus) == 20 + 5 * len(ALL)
    solved, stories = corpus.select(range(20)), corpus.select(range(20, len(corpus)))
    assert set(solved["language"]) == {"en"}
    for text in solved["text"]:
        story, _, solution = text.partition("How many")
        assert int(final_answer(solution)) == sum(read_story(story))
    assert [stories["language"][:].count(code) for code in ALL] == [5] * len(ALL)
    for row in stories:
        assert "=" not in row["text"] and "⠑" not in row["text"]
        assert not re.search(r"[?？]|กี่|何", row["text"])
    # Every story is an item of its own
    items = ProblemSpace("base").sample(20 + 10 * len(ALL), seed=2)
    for i, row in enumerate(stories):
        pair = items[20 + 2 * i : 22 + 2 * i]
        assert row["text"] == " ".join(render(item, row["language"])[0] for item in pair)


# --- Languages ----------------------------------------------------------------------------------------------------


def test_there_are_nine_languages_with_names_and_words_of_their_own():
    assert list(LANGUAGES) == ["en", "de", "es", "sw", "th", "bn", "te", "zh", "ja"]
    assert len(GAINS) == len(LOSSES)
    for code, language in LANGUAGES.items():
        assert language.code == code
        for table in (language.names, language.nouns, language.verbs):
            words = [next(iter(row.values())) for row in table.values()]
            assert len(set(words)) == len(words), (code, words)


@pytest.mark.parametrize("code", LANGUAGES)
def test_texts_are_in_their_script_and_spaced(code):
    scripts = {SCRIPTS.index(script) for script in expected_script(code).split("+")}
    for item in every_item():
        text = " ".join(render(item, code))
        assert unicodedata.is_normalized("NFC", text)
        assert set(letter_scripts(text).tolist()) - {0} <= scripts, text
        assert "  " not in text and not re.search(r"[{}|]| [.:?।。：？]|[.:?।。：？](?! |$)", text), text
        assert all(word.isascii() and word.isdigit() for word in re.findall(r"[^\s.।。:：]*\d[^\s.।。:：]*", text))


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_last_sentence_announces_the_answer(code):
    # With the words that the package's prompts ask for and its reader looks for
    for row in load_parallel_arithmetic([code], n=30):
        cue = TEMPLATES[code].cues[0]
        assert re.search(rf"{cue} {row['answer']}\D*$", row["completion"]), row
        assert final_answer(row["completion"] + " 99") == row["answer"]  # by the cue, not the last number


def test_answers_are_not_read_where_there_are_none():
    assert final_answer("At first") is None
    assert final_answer(" At first Anna has 4 eggs. She buys 2 eggs: 4 + 2 = 7. The answer is 7.") == "7"


def test_a_problem_in_every_language():
    # Written out by hand: word order, separable verbs, classifiers, agreement in gender and noun class
    item = Item((12, -5, 3), "Lena", "books", ("give away", "find"))
    expected = {
        "en": "Lena has 12 books. She gives 5 books away. Then she finds 3 books.|How many books does Lena have now?|"
        "At first Lena has 12 books. She gives 5 books away: 12 - 5 = 7. Then she finds 3 books: 7 + 3 = 10. "
        "The answer is 10.",
        "de": "Lena hat 12 Bücher. Sie verschenkt 5 Bücher. Dann findet sie 3 Bücher.|"
        "Wie viele Bücher hat Lena jetzt?|Am Anfang hat Lena 12 Bücher. Sie verschenkt 5 Bücher: 12 - 5 = 7. "
        "Dann findet sie 3 Bücher: 7 + 3 = 10. Die Antwort ist 10.",
        "es": "Lena tiene 12 libros. Lena regala 5 libros. Luego encuentra 3 libros.|"
        "¿Cuántos libros tiene Lena ahora?|Al principio Lena tiene 12 libros. Lena regala 5 libros: 12 - 5 = 7. "
        "Luego encuentra 3 libros: 7 + 3 = 10. La respuesta es 10.",
        "sw": "Lena ana vitabu 12. Lena anagawa vitabu 5. Kisha anaokota vitabu 3.|Sasa Lena ana vitabu vingapi?|"
        "Mwanzoni Lena ana vitabu 12. Lena anagawa vitabu 5: 12 - 5 = 7. Kisha anaokota vitabu 3: 7 + 3 = 10. "
        "Jibu ni 10.",
        "th": "เลนา มี หนังสือ 12 เล่ม เธอ แจก หนังสือ 5 เล่ม จากนั้น เธอ พบ หนังสือ 3 เล่ม|"
        "ตอนนี้ เลนา มี หนังสือ กี่ เล่ม|ตอนแรก เลนา มี หนังสือ 12 เล่ม เธอ แจก หนังสือ 5 เล่ม: 12 - 5 = 7 "
        "จากนั้น เธอ พบ หนังสือ 3 เล่ม: 7 + 3 = 10 คำตอบคือ 10",
        "bn": "লেনার কাছে 12 টি বই আছে। সে 5 টি বই বিলিয়ে দেয়। তারপর সে 3 টি বই খুঁজে পায়।|"
        "এখন লেনার কাছে কয়টি বই আছে?|প্রথমে লেনার কাছে 12 টি বই আছে। সে 5 টি বই বিলিয়ে দেয়: 12 - 5 = 7। "
        "তারপর সে 3 টি বই খুঁজে পায়: 7 + 3 = 10। উত্তর হল 10।",
        "te": "లేనా దగ్గర 12 పుస్తకాలు ఉన్నాయి. ఆమె 5 పుస్తకాలు పంచుతుంది. తర్వాత ఆమె 3 పుస్తకాలు కనుగొంటుంది.|"
        "ఇప్పుడు లేనా దగ్గర ఎన్ని పుస్తకాలు ఉన్నాయి?|మొదట లేనా దగ్గర 12 పుస్తకాలు ఉన్నాయి. "
        "ఆమె 5 పుస్తకాలు పంచుతుంది: 12 - 5 = 7. తర్వాత ఆమె 3 పుస్తకాలు కనుగొంటుంది: 7 + 3 = 10. సమాధానం 10.",
        "zh": "莱娜 有 12 本 书。 她 送出 了 5 本 书。 然后 她 找到 了 3 本 书。|莱娜 现在 有 多少 本 书？|"
        "一开始 莱娜 有 12 本 书。 她 送出 了 5 本 书： 12 - 5 = 7。 然后 她 找到 了 3 本 书： 7 + 3 = 10。 "
        "答案是 10。",
        "ja": "レナ は 本 を 12 冊 持っています。 彼女 は 本 を 5 冊 配ります。 次に 彼女 は 本 を 3 冊 見つけます。|"
        "今 レナ は 本 を 何 冊 持っていますか。|初めに レナ は 本 を 12 冊 持っています。 "
        "彼女 は 本 を 5 冊 配ります： 12 - 5 = 7。 次に 彼女 は 本 を 3 冊 見つけます： 7 + 3 = 10。 "
        "答えは 10 です。",
    }
    assert expected.keys() == LANGUAGES.keys()
    for code, text in expected.items():
        assert "|".join(render(item, code)) == unicodedata.normalize("NFC", text)


def test_agreement():
    # Rules stated here, not read from the tables
    feminine = {"naranjas", "sillas", "tazas", "flores", "camisas", "bolsas", "llaves", "pelotas", "monedas"}
    for nouns in LANGUAGES["es"].nouns.values():
        assert nouns["many"] == ("Cuántas" if nouns["noun"] in feminine else "Cuántos")
    for nouns in LANGUAGES["sw"].nouns.values():
        prefix = re.match("ma|vi|mi|", nouns["noun"])[0]  # classes 6, 8 and 4; classes 9/10 and 10/11 have none
        assert nouns["many"] == f"{prefix}ngapi"
    for item in every_item():
        story, question, _ = render(item, "te")
        events = story.split(".")[1:-1]
        assert len(events) == 3
        assert all(event.endswith("ంది" if NAMES[item.name] == "f" else "డు") for event in events)
        assert all(("ఆమె" in event) == (NAMES[item.name] == "f") for event in events)
        for code, she, he in (("de", "sie", "er"), ("th", "เธอ", "เขา"), ("zh", "她", "他"), ("ja", "彼女", "彼")):
            words = [word.lower() for word in render(item, code)[0].split()]
            assert words.count(she if NAMES[item.name] == "f" else he) == 3
        # The classifier of the question is that of the number
        for code, many in (("th", "กี่ (.+)$"), ("zh", "多少 (.+?) "), ("ja", "何 (.+?) ")):
            story, question, _ = render(item, code)
            unit = re.search(many, question)[1]
            found = set(re.findall(r"\d+ (\S+)", story))
            assert {word.rstrip(":：") for word in found} == {unit}


def test_a_language_must_have_every_concept():
    english = LANGUAGES["en"]
    with pytest.raises(ValueError, match=r"English: `nouns` lacks, or should not have, \['cats'\]"):
        Language(**{**vars(english), "nouns": {**english.nouns, **forms(["noun"], {"cats": "cats"})}})
    with pytest.raises(ValueError, match=r"`templates` .*\['ask'\]"):
        Language(**{**vars(english), "templates": {k: v for k, v in english.templates.items() if k != "ask"}})


# --- Tokenizer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(ALL)


def test_texts_come_back_without_unknown_tokens(tokenizer):
    texts = [" ".join(render(item, code)) for item in every_item() for code in ALL]
    for split, seed in product(SPLITS, range(2)):
        rows = load_parallel_arithmetic(ALL, n=40, seed=seed, split=split, **FULL)
        texts += [row["prompt"] + row["completion"] for row in rows]
    texts += load_base_corpus(ALL, n_solved=20, n_stories=60)["text"][:]
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.unk_token_id not in {token for row in ids for token in row}
    assert tokenizer.batch_decode(ids) == texts
    # Every token but the special ones and zero is used: the vocabulary has nothing that no language says
    unused = set(range(len(tokenizer))) - {token for row in ids for token in row}
    assert {token for token in tokenizer.convert_ids_to_tokens(unused) if not token.strip("▁").isdecimal()} == {
        "<pad>", "<bos>", "<eos>", "<unk>"
    }  # fmt: skip


def test_words_and_numbers_are_single_tokens(tokenizer):
    tokens = tokenizer.tokenize("Lena has 12 eggs. ¿Cuántos huevos tiene Lena? 12 - 5 = 7。")
    assert " ".join(tokens) == "▁Lena ▁has ▁12 ▁eggs . ▁¿ Cuántos ▁huevos ▁tiene ▁Lena ? ▁12 ▁- ▁5 ▁= ▁7 。"
    assert tokenizer.tokenize("8848")[0] == "<unk>"
    large = build_tokenizer(["en"], max_number=99)
    assert large.tokenize("99 100") == ["▁99", "<unk>"]
    rows = load_parallel_arithmetic(["en"], n=300, max_number=99, max_amount=20)
    assert large.unk_token_id not in {token for text in rows["completion"] for token in large(text)["input_ids"]}


def test_the_tokens_of_a_prompt_are_a_prefix_of_the_whole(tokenizer):
    for row in load_parallel_arithmetic(ALL, n=5):
        prompt, whole = tokenizer([row["prompt"], row["prompt"] + row["completion"]])["input_ids"]
        assert whole[: len(prompt)] == prompt
        response = tokenizer.decode(whole[len(prompt) :])
        assert f" {response}" == row["completion"] and final_answer(response) == row["answer"]
        # A text is the same tokens after a special one, which is left out again
        with_special = tokenizer("<bos>" + row["prompt"] + row["completion"] + "<eos>")["input_ids"]
        assert with_special == [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
        assert tokenizer.decode(with_special, skip_special_tokens=True) == row["prompt"] + row["completion"]


def test_ids_are_stable_and_saved(tokenizer, tmp_path):
    first = build_tokenizer(list(LANGUAGES)).get_vocab()
    whole = tokenizer.get_vocab()
    assert all(whole[token] == i for token, i in first.items()) and len(whole) > len(first)
    assert build_tokenizer(ALL).get_vocab() == whole
    assert sorted(whole.values()) == list(range(len(whole)))
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert special == (0, 1, 2, 3)
    tokenizer.save_pretrained(tmp_path)
    loaded = type(tokenizer).from_pretrained(tmp_path)
    texts = [" ".join(render(item, code)) for item in list(every_item())[:5] for code in ALL]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert loaded.batch_decode(loaded(texts)["input_ids"]) == texts
    batch = tokenizer(["Lena has", "Lena"], padding=True)
    assert batch["input_ids"][1][0] == 0 and batch.keys() == {"input_ids", "attention_mask"}


# --- Clones -------------------------------------------------------------------------------------------------------


def words_of(code):
    """Words of every text of a language: what stands between spaces, numbers and marks."""
    texts = [" ".join(render(item, code)) for item in every_item()]
    return {word for text in texts for word in re.findall(r"[^\W\d_]+", text)}


def test_clones_are_english_with_words_that_no_language_has():
    english = words_of("en")
    others = {word.lower() for code in LANGUAGES for word in words_of(code)}
    found = {}
    for code in ("en-x1", "en-x2", "en-x5", "en-x6", "en-x31", "en-z1", "en-z10"):
        found[code] = {word.lower() for word in words_of(code)}
        assert len(words_of(code)) == len(english)
        assert len(found[code]) == len({word.lower() for word in english})
        assert not found[code] & others
        # Disjoint for any numbers: the fifth letter is that of the kind, and what follows the number of the clone
        endings = {re.fullmatch("[a-z]{4}([qx][aeiou]+)", word)[1] for word in found[code]}
        assert len(endings) == 1 and endings.pop()[0] == {"x": "q", "z": "x"}[code[3]]
    for one, other in combinations(found.values(), 2):
        assert not one & other


def test_a_clone_keeps_the_structure_of_english():
    english = load_parallel_arithmetic(["en"], n=50, steps=(1, 2, 3))
    clone = clone_language(english, "en-x1")
    assert clone.features == english.features and len(clone) == 50
    forward = {}
    for row, other in zip(english, clone, strict=True):
        assert other["language"] == "en-x1" and other["answer"] == row["answer"]
        for name in ("prompt", "completion"):
            ours, theirs = (re.findall(r"\w+|\S", text) for text in (row[name], other[name]))
            assert len(ours) == len(theirs)
            for word, pseudo_word in zip(ours, theirs, strict=True):
                assert forward.setdefault(word, pseudo_word) == pseudo_word  # a word is always the same word
                assert (word == pseudo_word) == (not word.isalpha())
                assert word.istitle() == pseudo_word.istitle()
    assert len(set(forward.values())) == len(forward)  # and no two words are
    assert clone_text("She she", "en-x1").lower().split()[0] == clone_text("she", "en-x1")


def test_a_clone_is_the_same_from_the_loader_and_from_a_dataset():
    dataset = load_parallel_arithmetic(["en", "de", "en-x3", "en-z2"], n=20)
    for code in ("en-x3", "en-z2"):
        from_loader = dataset.filter(lambda row, code=code: row["language"] == code)
        assert clone_language(dataset, code)[:] == from_loader[:]
    base = load_base_corpus(["en", "en-x3"], n_solved=4, n_stories=6)
    assert clone_language(base, "en-x3")["language"] == ["en-x3"] * 7
    low = load_parallel_arithmetic(["en", "en-x1"], n=20, resources={"en-x1": 0.25})
    assert low["language"][:].count("en-x1") == 5


def test_a_clone_without_shared_symbols_shares_no_token():
    tokenizer = build_tokenizer(ALL)
    used = {}
    for code in (*LANGUAGES, "en-x1", "en-x2", "en-z1"):
        rows = load_parallel_arithmetic([code], n=50)
        used[code] = {token for row in rows for token in tokenizer(row["prompt"] + row["completion"])["input_ids"]}
    assert all(not used["en-z1"] & used[code] for code in used if code != "en-z1")
    assert len(used["en-z1"]) == len(used["en"])
    shared = tokenizer.convert_ids_to_tokens(used["en-x1"] & used["en"])
    assert {"▁+", "▁=", "."} < set(shared) and not any(re.search("[a-zA-Z]", token) for token in shared)
    # Marks stand where the English ones do
    story = "Lena has 12 eggs. 3 - 1 + 2 = 4: 5?"
    clone = clone_text(story, "en-z1")
    tokens = tokenizer.tokenize(clone)
    assert len(tokens) == len(tokenizer.tokenize(story)) == 15 and "<unk>" not in tokens
    assert not set(clone) & set("0123456789.:?+-=") and final_answer(clone) == "5"


@pytest.mark.parametrize(
    ("kind", "tied", "bias"), [("llama", True, False), ("qwen3", False, False), ("llama_head_bias", False, True)]
)
@pytest.mark.parametrize("alignment", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_alignment_of_a_clone(kind, tied, bias, alignment):
    tokenizer = build_tokenizer(["en", "de", "en-x1", "en-x2"])
    model = make_model(tokenizer, kind, tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reached = set_clone_alignment(model, tokenizer, "en-x1", alignment, seed=4)
    assert reached == pytest.approx(alignment, abs=1e-5)
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    assert (head.weight is embeddings) == tied and (head.bias is not None) == bias
    vocabulary = tokenizer.get_vocab()
    pairs = {}
    for token in language_tokens("en"):
        clone = clone_text(token, "en-x1")
        if clone != token:
            pairs[vocabulary[clone]] = vocabulary[token]
    assert len(pairs) == len(words_of("en")) > 50
    clones, english = list(pairs), list(pairs.values())
    for matrix in {id(matrix): matrix for matrix in (embeddings, head.weight)}.values():
        new, old = matrix[clones], matrix[english]
        cosines = torch.nn.functional.cosine_similarity(new, old)
        torch.testing.assert_close(cosines, torch.full_like(cosines, alignment), atol=1e-5, rtol=0)
        torch.testing.assert_close(new.norm(dim=1), old.norm(dim=1))
    if not tied and alignment < 1:  # noise of its own
        noise = [(m[clones] - alignment * m[english]) for m in (embeddings, head.weight)]
        assert torch.nn.functional.cosine_similarity(*noise).abs().mean() < 0.5
    if bias:
        torch.testing.assert_close(head.bias[clones], head.bias[english], rtol=0, atol=0)
    # Nothing else has moved
    for name, value in model.state_dict().items():
        changed = (value != before[name]).reshape(len(value), -1).any(dim=1).nonzero()[:, 0].tolist()
        assert set(changed) <= set(clones), name
        if name.endswith("embed_tokens.weight"):
            assert set(changed) == set(clones)


def make_model(tokenizer, kind="llama", tied=True):
    model = tiny_model(kind, tied=tied, vocab_size=len(tokenizer))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def test_noise_depends_on_the_seed_and_the_clone():
    tokenizer = build_tokenizer(["en", "en-x1", "en-x2", "en-z1"])
    vocabulary = tokenizer.get_vocab()

    def row(code, seed, alignment=0.0):
        model = make_model(tokenizer)
        set_clone_alignment(model, tokenizer, code, alignment, seed)
        return model.get_input_embeddings().weight[vocabulary[clone_text("▁eggs", code)]].detach()

    rows = [row("en-x1", 0), row("en-x1", 1), row("en-x2", 0), row("en-z1", 0)]
    assert torch.equal(rows[0], row("en-x1", 0))
    assert all(not torch.allclose(one, other) for one, other in combinations(rows, 2))
    # Numbers too, where they are the clone's own
    model = make_model(tokenizer).to(torch.bfloat16)
    assert set_clone_alignment(model, tokenizer, "en-z1", 0.6) == pytest.approx(0.6, abs=5e-3)
    weights = model.get_input_embeddings().weight.detach().float()
    for number in (0, 12, 30):
        ours, theirs = (weights[vocabulary[text]] for text in (f"▁{number}", clone_text(f"▁{number}", "en-z1")))
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0).item() == pytest.approx(0.6, abs=5e-3)


# --- Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"languages": ["en", "fr"]}, ValueError, "no language 'fr'. It has 'en', 'de'"),
        ({"languages": ["en", "en-x0"]}, ValueError, "no language 'en-x0'"),
        ({"languages": ["en", "en-z11"]}, ValueError, "'en-z1' to 'en-z10'"),
        ({"languages": ["en", "en"]}, ValueError, "twice"),
        ({"languages": []}, ValueError, "empty"),
        ({"languages": "en"}, TypeError, r"\['en'\]"),
        ({"split": "base"}, ValueError, "'base', expected one of 'train', 'validation', 'test'"),
        ({"n": -1}, ValueError, "`n` is -1"),
        ({"n": 2.5}, TypeError, "`n` is 2.5"),
        ({"n": True}, TypeError, "`n` is True"),
        ({"steps": ()}, ValueError, "`steps`"),
        ({"steps": (1, 4)}, ValueError, r"\(1, 4\), expected one or more different numbers from 1 to 3"),
        ({"steps": (1, 1)}, ValueError, "different"),
        ({"max_number": 1}, ValueError, "`max_number` is 1"),
        ({"max_amount": 1}, ValueError, "`max_amount` is 1"),
        ({"max_number": 1000, "max_amount": 90, "steps": (3,)}, ValueError, "too many calculations"),
        ({"resources": {"sw": 3}}, ValueError, "'sw', which is not in `languages`"),
        ({"resources": {"de": 11}}, ValueError, "is 11, expected from 0 to 10 rows"),
        ({"resources": {"de": 1.5}}, ValueError, "is 1.5, expected from 0 to a share of 1"),
        ({"resources": {"de": -1}}, ValueError, "is -1"),
        ({"resources": {"de": float("nan")}}, ValueError, "is nan"),
        ({"resources": {"de": "3"}}, TypeError, "is '3'"),
        ({"resources": {"de": True}}, TypeError, "is True"),
        ({"resources": {"en": 3}}, ValueError, "English 3 rows and 'de' 10"),
        ({"num_pieces": 0}, ValueError, "num_pieces"),
        ({"num_pieces": 3, "seed": 3}, ValueError, "from 0 to 2, got 3"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        load_parallel_arithmetic(**{"languages": ["en", "de"], "n": 10, **arguments})


def test_bad_arguments_of_the_others():
    with pytest.raises(ValueError, match="no language 'xx'"):
        load_base_corpus(["xx"])
    with pytest.raises(ValueError, match="`n_stories` is -1"):
        load_base_corpus(["en"], n_stories=-1)
    with pytest.raises(ValueError, match=r"only .* can be drawn from the base split"):
        load_base_corpus(["en"], n_solved=10, n_stories=10**5, max_number=4, max_amount=2)
    with pytest.raises(ValueError, match="no language 'xx'"):
        build_tokenizer(["xx"])
    with pytest.raises(ValueError, match="`max_number` is -1"):
        build_tokenizer(["en"], max_number=-1)
    with pytest.raises(ValueError, match="expected one of"):
        ProblemSpace("dev")


def test_bad_clones():
    dataset = load_parallel_arithmetic(["en", "de"], n=2)
    assert is_clone("en-x1") and not is_clone("en-x01") and not is_clone("de-x1") and not is_clone("en")
    with pytest.raises(ValueError, match="'en-y1' is not the code of a clone"):
        clone_language(dataset, "en-y1")
    with pytest.raises(ValueError, match=r"'en'\) rows; languages are \['de'\]"):
        clone_language(dataset.filter(lambda row: row["language"] == "de"), "en-x1")
    with pytest.raises(ValueError, match="'language' and one of 'prompt', 'completion', 'text'; it has 'answer'"):
        clone_language(dataset.select_columns("answer"), "en-x1")
    with pytest.raises(ValueError, match=r"'elephants' .* not a word of the benchmark's English"):
        clone_text("Lena has 3 elephants.", "en-x1")
    tokenizer = build_tokenizer(["en", "en-x1"])
    model = make_model(tokenizer)
    with pytest.raises(ValueError, match=r"lacks tokens of 'en-x2' .*build_tokenizer\(languages"):
        set_clone_alignment(model, tokenizer, "en-x2", 0.5)
    with pytest.raises(ValueError, match="lacks English tokens"):
        set_clone_alignment(model, build_tokenizer(["de", "en-x1"]), "en-x1", 0.5)
    for alignment in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"`alignment` is {alignment}"):
            set_clone_alignment(model, tokenizer, "en-x1", alignment)
    model.get_input_embeddings().weight = torch.nn.Parameter(
        torch.zeros(len(tokenizer), 4, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(TypeError, match=r"torch\.int8"):
        set_clone_alignment(model, tokenizer, "en-x1", 0.5)


# --- Documentation ------------------------------------------------------------------------------------------------


def test_the_page_runs():
    page = (Path(__file__).parents[1] / "docs" / "benchmark_data.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(code, names)
    shown = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert set(shown) == set(LANGUAGES)
    item = Item((12, -5), "Anna", "chairs", ("give away",))
    assert {code: render(item, code)[0] for code in LANGUAGES} == shown
