"""Parallel data that is not parallel: each fault planted and named, and sound data left alone."""

import json
import logging
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from solar_trl.data import NothingToAlign, find_pivots, reading, scripts
from solar_trl.data.numbers import extract_numbers, final_number
from solar_trl.data.quality import filter_parallel, parallel_report
from solar_trl.data.scripts import expected_script


DATA = Path(os.environ.get("SOLAR_TRL_DATA", Path(__file__).parents[2] / "shared" / "data"))

# A problem and its solution in the style of GSM8K; {b} and {c} are the words that make texts differ in length
TEMPLATES = {
    "en": (
        "A farmer has {x} goats and buys {y} more. {w}How many goats are there?",
        "First there were {x} goats. {w}Then {x} + {y} = {z}. The answer is {z}.",
        "On a sunny day in the village by the river. ",
    ),
    "sw": (
        "Mkulima ana mbuzi {x} na ananunua {y} zaidi. {w}Kuna mbuzi wangapi?",
        "Mwanzo kulikuwa na mbuzi {x}. {w}Kisha {x} + {y} = {z}. Jibu ni {z}.",
        "Siku ya jua katika kijiji kando ya mto. ",
    ),
    "th": (
        "ชาวนามีแพะ {x} ตัวและซื้อเพิ่มอีก {y} ตัว {w}มีแพะกี่ตัว",
        "ตอนแรกมีแพะ {x} ตัว {w}จากนั้น {x} + {y} = {z} คำตอบคือ {z}",
        "ในวันที่แดดจ้าในหมู่บ้านริมแม่น้ำ ",
    ),
    "zh": (
        "一个农夫有{x}只山羊，又买了{y}只。{w}一共有多少只山羊？",
        "起初有{x}只山羊。{w}然后{x}+{y}={z}。答案是{z}。",
        "在河边村庄的一个晴天。",
    ),
    "bn": (
        "এক কৃষকের {x}টি ছাগল আছে এবং সে আরও {y}টি কেনে। {w}মোট কতটি ছাগল?",
        "প্রথমে {x}টি ছাগল ছিল। {w}তারপর {x} + {y} = {z}। উত্তর হল {z}।",
        "নদীর ধারের গ্রামে এক রৌদ্রোজ্জ্বল দিনে। ",
    ),
}
BENGALI = str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯")


def clean_rows(n=40, languages=tuple(TEMPLATES)):
    rng = random.Random(0)
    rows = []
    for item in range(n):
        x, y, words = rng.randint(100, 9_000), rng.randint(100, 9_000), rng.randint(0, 4)
        for language in languages:
            prompt, response, filler = TEMPLATES[language]
            written = {name: f"{value:,}" for name, value in (("x", x), ("y", y), ("z", x + y))}
            if language == "sw":
                written = {name: value.replace(",", ".") for name, value in written.items()}
            texts = [text.format(**written, w=filler * words) for text in (prompt, response)]
            if language == "bn":
                texts = [text.translate(BENGALI) for text in texts]
            rows.append({"language": language, "parallel_id": item, "prompt": texts[0], "completion": texts[1]})
    rng.shuffle(rows)
    return rows


def report_of(rows, **options):
    return parallel_report(Dataset.from_list(rows), **options)


def row_of(rows, language, item):
    return next(row for row in rows if (row["language"], row["parallel_id"]) == (language, item))


def changed(rows, language, items, change, fields=("prompt", "completion")):
    """A copy in which `change` maps the list of texts of these items to another one."""
    rows = [dict(row) for row in rows]
    mine = [row_of(rows, language, item) for item in items]
    new = change([[row[field] for field in fields] for row in mine])
    for row, values in zip(mine, new, strict=True):
        row.update(zip(fields, values, strict=True))
    return rows


def shuffled(texts):
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def only(report, kind):
    """The one finding of a report, which is of this kind."""
    assert [finding.kind for finding in report.findings] == [kind], report.warnings
    return report.findings[0]


# --------------------------------------------------------------------------------------------------------------------
# Sound data


def test_clean_data_give_no_warnings():
    report = report_of(clean_rows())
    assert report.warnings == []
    assert (report.rows, report.pairs, report.unpaired, report.pivots) == (200, 160, 0, 40)
    for language in ("sw", "th", "zh", "bn"):
        entry = report.languages[language]
        assert entry.final_agreement == entry.number_agreement == entry.prompt_number_overlap == 1.0
        assert entry.script_share == 1.0 and entry.number_pairs == 40
    assert report.languages["zh"].length_ratio < 0.5
    assert "Nothing looks wrong." in str(report) and "length ratio" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["languages"]["sw"]["pairs"] == 40


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_called_shuffled(seed):
    """Number words for digits, repeated and left-out numbers, other orders: usual in translations."""
    rng = random.Random(seed)
    rows = clean_rows()
    for row in rows:
        if row["language"] == "th" and rng.random() < 0.5:
            row["completion"] = row["completion"].replace("ตอนแรก", f"ตอนแรก {rng.randint(1, 9)} ")
        if row["language"] == "zh" and rng.random() < 0.3:
            row["completion"] = row["completion"].partition("。")[2]
    assert report_of(rows).warnings == []


def test_answers_without_a_sentence():
    rows = clean_rows()
    for row in rows:
        row["answer"] = final_number(row.pop("completion"))
    report = report_of(rows)
    assert report.response == "answer" and report.warnings == []


# --------------------------------------------------------------------------------------------------------------------
# One fault each


@pytest.mark.parametrize("fields", [("prompt", "completion"), ("completion",)])
@pytest.mark.parametrize("language", ["sw", "bn"])
def test_shuffled_language(language, fields):
    rows = changed(clean_rows(), language, range(40), shuffled, fields)
    finding = only(report_of(rows), "shuffled")
    assert finding.languages == [language]
    data = Dataset.from_list(rows)
    pivot = find_pivots(data)
    numbers = [set(extract_numbers(row["completion"])) for row in rows]
    expected = [i for i in range(len(rows)) if pivot[i] >= 0 and numbers[i] != numbers[pivot[i]]]
    assert finding.rows == expected and len(expected) > 30
    assert f"parallel_id={rows[expected[0]]['parallel_id']}" in finding.message
    assert "holds the response of" in finding.message and "looks shuffled" in finding.message


def test_shifted_language():
    """A row was lost before ids were given by position."""
    rows = clean_rows()
    rows.sort(key=lambda row: row["parallel_id"])
    rows = changed(rows, "th", range(10, 40), lambda texts: texts[1:] + texts[-1:])
    rows.remove(row_of(rows, "th", 39))
    report = report_of(rows)
    assert [finding.kind for finding in report.findings] == ["missing", "shuffled"]
    assert "shifted by 1 row" in report.warnings[1]
    assert "parallel_id=10 holds the response of parallel_id=11" in report.warnings[1]


def test_shuffled_pivots():
    rows = changed(clean_rows(), "en", range(40), shuffled)
    finding = only(report_of(rows), "pivot")
    assert len(finding.rows) > 30 and "out of order" in finding.message


def test_one_wrong_pivot():
    rows = changed(clean_rows(), "en", [7], lambda texts: [["What is 3 + 4?", "3 + 4 = 7"]])
    report = report_of(rows)
    assert [finding.kind for finding in report.findings if finding.kind != "length"] == ["pivot"]
    assert "en: 1 pivot has other numbers than all its translations: parallel_id=7." in report.warnings


@pytest.mark.parametrize("fields", [("prompt", "completion"), ("completion",)])
def test_swapped_rows(fields):
    rows = changed(clean_rows(), "zh", [3, 17], lambda texts: texts[::-1], fields)
    finding = only(report_of(rows), "swapped")
    assert "parallel_id=3" in finding.message and "parallel_id=17" in finding.message
    assert sorted(rows[i]["parallel_id"] for i in finding.rows) == [3, 17]
    assert {rows[i]["language"] for i in finding.rows} == {"zh"}


def test_one_wrong_row():
    rows = clean_rows()
    row_of(rows, "sw", 5)["completion"] = "Mwanzo kulikuwa na mbuzi 17. Kisha 17 + 18 = 35. Jibu ni 35."
    finding = only(report_of(rows), "numbers")
    assert finding.message.startswith("sw: 1 response has") and "parallel_id=5." in finding.message


def test_missing_row_and_missing_pivot():
    rows = clean_rows()
    rows.remove(row_of(rows, "th", 11))
    finding = only(report_of(rows), "missing")
    assert finding.message == "th: no row for 1 of 40 pivots: parallel_id=11."
    rows = clean_rows()
    rows.remove(row_of(rows, "en", 11))
    finding = only(report_of(rows), "unpaired")
    assert sorted(finding.languages) == ["bn", "sw", "th", "zh"]
    assert finding.message.endswith("1 row without a pivot: parallel_id=11.") and len(finding.rows) == 4


def test_a_language_with_few_rows_is_a_subset():
    rows = [row for row in clean_rows() if row["language"] != "th" or row["parallel_id"] < 15]
    report = report_of(rows)
    assert report.warnings == [] and report.languages["th"].missing == 25


def written_anew(rows, seed=0):
    """Other steps, of other lengths, to the same answer."""
    rng = random.Random(seed)
    rows = [dict(row) for row in rows]
    for row in rows:
        if row["language"] != "en":
            answer = final_number(row["completion"])
            steps = [f"{rng.randint(100, 999)} + {rng.randint(100, 999)} {TEMPLATES[row['language']][2]}"]
            row["completion"] = " ".join(steps * rng.randint(1, 8)) + f"= {answer}"
    return rows


def test_parallel_prompts_with_responses_written_anew():
    report = report_of(written_anew(clean_rows()))
    finding = only(report, "prompt_only")
    assert sorted(finding.languages) == ["bn", "sw", "th", "zh"] and "positions='prompt'" in finding.message
    assert report.languages["sw"].final_agreement == 1.0
    # Without any numbers in the responses, by their lengths
    rows = written_anew(clean_rows(80))
    for row in rows:
        row["completion"] = "".join(char for char in row["completion"] if not char.isdigit())
    assert only(report_of(rows), "prompt_only").languages


def test_shuffled_without_numbers():
    rows = clean_rows(120)
    for row in rows:
        for field in ("prompt", "completion"):
            row[field] = "".join(char for char in row[field] if not char.isdigit())
        row["text"] = row.pop("prompt") + row.pop("completion")
    assert report_of(rows).warnings == []
    finding = only(report_of(changed(rows, "sw", range(120), shuffled, ("text",))), "shuffled")
    assert finding.languages == ["sw"] and "correlation" in finding.message and "parallel_id=" in finding.message


def test_copies():
    rows = clean_rows()
    row_of(rows, "sw", 4)["completion"] = row_of(rows, "en", 4)["completion"]
    assert "sw: 1 response is its pivot's text, letter by letter: parallel_id=4." in report_of(rows).warnings
    rows = clean_rows()
    rows.append(dict(row_of(rows, "bn", 9)))
    finding = only(report_of(rows), "repeated")
    assert "parallel_id=9" in finding.message and finding.rows == [len(rows) - 1]
    rows = clean_rows()
    for item in (1, 2, 3):
        row_of(rows, "th", item)["completion"] = "ขออภัยฉันไม่สามารถแปลข้อความนี้ได้"
    (finding,) = [finding for finding in report_of(rows).findings if finding.kind == "duplicate"]
    assert sorted(rows[i]["parallel_id"] for i in finding.rows) == [1, 2, 3]


def test_ids_that_repeat_across_sources():
    rows = clean_rows() + [{**row, "completion": "Other: " + row["completion"]} for row in clean_rows(2)]
    report = report_of(rows)
    ambiguous = [finding for finding in report.findings if finding.kind == "ambiguous"]
    assert sorted(language for finding in ambiguous for language in finding.languages) == sorted(TEMPLATES)
    assert any("`multiple_pivots`" in finding.message for finding in ambiguous)
    both = [{**row, "source": "a"} for row in clean_rows()] + [{**row, "source": "b"} for row in clean_rows(2)]
    assert report_of(both, parallel_id_column=["source", "parallel_id"]).warnings == []


def test_script():
    rows = clean_rows()
    row_of(rows, "bn", 6)["completion"] = row_of(rows, "th", 6)["completion"]
    finding = only(report_of(rows), "script")
    assert finding.message == "bn: 1 response in another script than Bengali: parallel_id=6."
    rows = [{**row, "language": {"th": "bn", "bn": "th"}.get(row["language"], row["language"])} for row in rows]
    messages = report_of(rows).warnings
    assert any(message.startswith("th: only") and "most are Bengali" in message for message in messages)
    rows = [{**row, "language": {"zh": "ja"}.get(row["language"], row["language"])} for row in clean_rows()]
    assert "looks Chinese" in only(report_of(rows), "script").message


def test_lengths_and_empty_responses():
    rows = clean_rows()
    row_of(rows, "sw", 8)["completion"] += " na tena" * 300
    assert "parallel_id=8" in only(report_of(rows), "length").message
    rows = clean_rows()
    row_of(rows, "sw", 8)["completion"] = None
    assert only(report_of(rows), "empty").message == "sw: 1 row without a response: parallel_id=8."
    rows = [{**row, "completion": row["completion"] * (9 if row["language"] == "sw" else 1)} for row in clean_rows()]
    finding = only(report_of(rows), "length")
    assert finding.message.startswith("sw: responses have") and "times the characters" in finding.message


def test_tokens_and_truncation(tokenizer):
    rows = clean_rows()
    report = report_of(rows, tokenizer=tokenizer, max_length=120)

    def count(row, *names):
        return sum(len(tokenizer(row[name], add_special_tokens=False)["input_ids"]) for name in names)

    for language in ("sw", "th"):
        mine = [row for row in rows if row["language"] == language]
        share = np.mean([count(row, "prompt", "completion") > 120 for row in mine])
        assert report.languages[language].truncated == pytest.approx(share)
        ratio = [
            count(row, "completion") / count(row_of(rows, "en", row["parallel_id"]), "completion") for row in mine
        ]
        assert report.languages[language].length_ratio == pytest.approx(np.median(ratio))
    assert report.unit == "tokens" and "truncated" in {finding.kind for finding in report.findings}
    assert report_of(rows, tokenizer=tokenizer, max_length=100_000).warnings == []


# --------------------------------------------------------------------------------------------------------------------
# Formats, options, errors


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def parts(text):
    return [{"type": "text", "text": text}]


FORMATS = {
    "prompt-completion": lambda p, c: {"prompt": p, "completion": c},
    "conversational prompt-completion": lambda p, c: {"prompt": [user(p)], "completion": [assistant(c)]},
    "messages": lambda p, c: {"messages": [user("0?"), assistant("99"), user(p), assistant(c)]},
    "messages with parts": lambda p, c: {"messages": [user(parts(p)), assistant(parts(c))]},
    "ShareGPT": lambda p, c: {"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": c}]},
    "question and response": lambda p, c: {"question": p, "response": c, "answer": "1"},
    "text": lambda p, c: {"text": f"{p}\n{c}"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name):
    def build(rows):
        return [
            {key: row[key] for key in ("language", "parallel_id")} | FORMATS[name](row["prompt"], row["completion"])
            for row in rows
        ]

    clean = report_of(build(clean_rows()))
    assert clean.warnings == [] and clean.languages["th"].final_agreement == 1.0
    expected = report_of(clean_rows())
    if name != "text":
        assert clean.languages["zh"].length_ratio == expected.languages["zh"].length_ratio
        assert clean.languages["zh"].prompt_length_spread is not None
    swapped = report_of(build(changed(clean_rows(), "zh", [3, 17], lambda texts: texts[::-1])))
    assert "parallel_id=3" in only(swapped, "swapped").message


def test_columns_can_be_named():
    rows = [
        {"language": r["language"], "parallel_id": r["parallel_id"], "a": "x", "b": r["completion"]}
        for r in clean_rows()
    ]
    with pytest.raises(ValueError, match=r"'a', 'b'\. Name .*`text_columns`"):
        report_of(rows)
    report = report_of(rows, text_columns=["a", "b"])
    assert report.response == "a + b" and report.languages["sw"].number_agreement == 1.0
    assert report_of(rows, text_columns="b", prompt_columns="a").prompt == "a"


def test_pivot_dataset():
    rows = changed(clean_rows(), "zh", [3, 17], lambda texts: texts[::-1])
    own = Dataset.from_list([row for row in rows if row["language"] != "en"])
    pivots = Dataset.from_list([row for row in rows if row["language"] == "en"]).shuffle(seed=0)
    expected = report_of(rows)
    for source in (pivots, pivots.remove_columns("language")):
        report = parallel_report(own, pivot_dataset=source)
        assert report.warnings == expected.warnings and report.pairs == expected.pairs
    own = own.filter(lambda row: (row["language"], row["parallel_id"]) != ("sw", 4))
    assert "sw: no row for 1 of 40 pivots: parallel_id=4." in parallel_report(own, pivot_dataset=pivots).warnings


def test_errors():
    data = Dataset.from_list(clean_rows(4))
    with pytest.raises(ValueError, match="`max_length=8` counts tokens"):
        parallel_report(data, max_length=8)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        parallel_report(data, tokenizer=len, max_length=0)
    with pytest.raises(ValueError, match="no column 'nope'"):
        parallel_report(data, text_columns="nope")
    with pytest.raises(ValueError, match="no column 'id'"):
        parallel_report(data, parallel_id_column="id")
    with pytest.raises(TypeError, match=r"DatasetDict.*one split"):
        parallel_report(DatasetDict({"train": data}))
    with pytest.raises(TypeError, match=r"IterableDataset.*take"):
        parallel_report(data.to_iterable_dataset())
    with pytest.raises(NothingToAlign, match="no pivot rows"):
        parallel_report(data, pivot_language="eng")
    with pytest.raises(ValueError, match="tokenized already"):
        parallel_report(data.remove_columns(["prompt", "completion"]).add_column("input_ids", [[1]] * len(data)))
    with pytest.raises(TypeError, match=r"'completion' holds \[1\]"):
        parallel_report(data.remove_columns("completion").add_column("completion", [[1]] * len(data)))
    for option, value in (("min_number_agreement", 1.5), ("max_length_ratio", 0.5), ("min_script_share", -1)):
        with pytest.raises(ValueError, match=f"`{option}` must be .* got {value}"):
            filter_parallel(data, **{option: value})


@pytest.mark.parametrize(
    ("language", "script"),
    [
        ("sw", "Latin"),
        ("zh-Hant", "Han"),
        ("srp_Latn", "Latin"),
        ("sr", "Cyrillic+Latin"),
        ("JA", "Kana+Han"),
        ("pt-BR", "Latin"),
        ("pan_Guru", "Gurmukhi"),
        ("unknown", None),
        ("xx", None),
    ],
)
def test_expected_script(language, script):
    assert expected_script(language) == script


def test_expected_script_without_langcodes(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(scripts, "normalize_language", missing)
    assert expected_script("th") == "Thai" and expected_script("Swahili") is None


def test_unknown_language_has_no_script_check():
    rows = [{**row, "language": {"th": "xx"}.get(row["language"], row["language"])} for row in clean_rows()]
    report = report_of(rows)
    assert report.warnings == [] and report.languages["xx"].script_share is None


# --------------------------------------------------------------------------------------------------------------------
# Measures, against brute force

TEXT = st.lists(st.sampled_from(["5", "6", "1,200", "๗", "cat", "แมว", "猫", "।", "-3"]), max_size=6).map(" ".join)
ROW = st.tuples(st.sampled_from(["en", "th", "zh"]), st.integers(0, 5), TEXT)


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=25))
def test_measures_are_brute_force(spec):
    rows = [{"language": language, "parallel_id": i, "text": text} for language, i, text in spec]
    # Several different pivots of an id are an error for `find_pivots`: one each here
    seen = set()
    rows = [r for r in rows if r["language"] != "en" or not (r["parallel_id"] in seen or seen.add(r["parallel_id"]))]
    data = Dataset.from_list(rows)
    pivot = find_pivots(data)
    if (pivot < 0).all():
        with pytest.raises(NothingToAlign):
            parallel_report(data)
        return
    report = parallel_report(data)
    assert (report.pairs, report.pivots) == ((pivot >= 0).sum(), len(seen))
    numbers = [{number.lstrip("-") for number in extract_numbers(row["text"])} for row in rows]
    final = [(final_number(row["text"]) or "").lstrip("-") for row in rows]
    for language, entry in report.languages.items():
        mine = [i for i, row in enumerate(rows) if row["language"] == language]
        pairs = [(i, pivot[i]) for i in mine if pivot[i] >= 0]
        assert (entry.rows, entry.pairs) == (len(mine), len(pairs))
        assert entry.unpaired == (0 if language == "en" else len(mine) - len(pairs))
        both = [(i, j) for i, j in pairs if numbers[i] and numbers[j]]
        assert entry.number_pairs == len(both)
        if both:
            assert entry.final_agreement == pytest.approx(np.mean([final[i] == final[j] for i, j in both]))
            assert entry.number_agreement == pytest.approx(np.mean([numbers[i] == numbers[j] for i, j in both]))
            overlap = [len(numbers[i] & numbers[j]) / len(numbers[i] | numbers[j]) for i, j in both]
            assert entry.number_overlap == pytest.approx(np.mean(overlap))
        lengths = [
            (len(rows[i]["text"]), len(rows[j]["text"])) for i, j in pairs if rows[i]["text"] and rows[j]["text"]
        ]
        assert (entry.length_ratio is None) == (not lengths)
        if lengths:
            # The median of logarithms: for an even number, the geometric mean of the two in the middle
            expected = np.exp(np.median([np.log(a / b) for a, b in lengths]))
            assert entry.length_ratio == pytest.approx(expected)
        letters = [char for i in mine for char in rows[i]["text"] if unicodedata.category(char)[0] == "L"]
        script = {"en": "LATIN", "th": "THAI", "zh": "CJK"}[language]
        if letters:
            share = np.mean([unicodedata.name(char).startswith(script) for char in letters])
            assert entry.script_share == pytest.approx(share)
        if pairs:
            assert entry.missing == len(seen - {rows[i]["parallel_id"] for i in mine})
        ids = {}
        for i, _ in pairs:
            ids.setdefault(rows[i]["text"].strip(), set()).add(rows[i]["parallel_id"])
        assert entry.duplicates == sum(
            bool(rows[i]["text"]) and len(ids[rows[i]["text"].strip()]) > 1 for i, _ in pairs
        )
        different = {(rows[i]["parallel_id"], rows[i]["text"].strip()) for i in mine}
        assert entry.repeated == len(mine) - len(different)
        kept = filter_parallel(data, min_number_agreement=0.5)
        expected_rows = [
            row
            for i, row in enumerate(rows)
            if row["language"] == "en"
            or (pivot[i] >= 0 and len(numbers[i] & numbers[pivot[i]]) >= 0.5 * len(numbers[i] | numbers[pivot[i]]))
        ]
        assert list(kept) == expected_rows


def test_batches_do_not_matter(monkeypatch):
    rows = changed(clean_rows(), "zh", [3, 17], lambda texts: texts[::-1])
    expected = report_of(rows).to_dict()
    for size in (1, 7):
        monkeypatch.setattr(reading, "BATCH_SIZE", size)
        assert report_of(rows).to_dict() == expected


def test_selected_and_formatted_datasets():
    data = Dataset.from_list(clean_rows())
    assert parallel_report(data.shuffle(seed=3).with_format("numpy")).warnings == []


# --------------------------------------------------------------------------------------------------------------------
# The filter


def test_filter(caplog):
    rows = clean_rows()
    row_of(rows, "sw", 5)["completion"] = "7 + 8 = 15"
    row_of(rows, "th", 6)["completion"] = row_of(rows, "en", 6)["completion"]
    row_of(rows, "zh", 8)["completion"] += "然后" * 400
    rows.remove(row_of(rows, "en", 9))
    data = Dataset.from_list(rows)

    def dropped(**options):
        kept = filter_parallel(data, **options)
        left = {(row["language"], row["parallel_id"]) for row in kept}
        assert [row for row in rows if (row["language"], row["parallel_id"]) in left] == list(kept)  # in order
        gone = {(row["language"], row["parallel_id"]) for row in rows} - left
        without_pivot = {(language, 9) for language in ("sw", "th", "zh", "bn")}
        assert without_pivot <= gone
        return gone - without_pivot

    assert dropped() == set()
    assert dropped(min_number_agreement=1.0) == {("sw", 5)}
    assert dropped(max_length_ratio=3.0) == {("sw", 5), ("zh", 8)}
    assert dropped(min_script_share=0.5) == {("th", 6)}
    assert dropped(drop_identical=True) == {("th", 6)}
    logger = logging.getLogger("solar_trl")
    logger.addHandler(caplog.handler)
    caplog.clear()
    try:
        assert len(dropped(min_number_agreement=0.5, min_script_share=0.9, max_length_ratio=4)) == 3
    finally:
        logger.removeHandler(caplog.handler)
    assert "sw: 2 of 40 rows dropped (no pivot 1, numbers 1" in caplog.text
    assert "192 of 199 rows kept" in caplog.text


# --------------------------------------------------------------------------------------------------------------------
# Real data


def load(folder):
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {DATA / folder}")
    rows = []
    for path in sorted((DATA / folder).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append({**row, "parallel_id": row.pop("id")})
    return rows


def test_mgsm_cot():
    rows = load("mgsm_cot")
    report = report_of(rows)
    assert report.warnings == [] and report.pairs == 80
    for language, entry in report.languages.items():
        if language != "en":
            assert entry.number_pairs == 8 and entry.number_agreement == entry.final_agreement == 1.0
    assert all(final_number(row["response"]) == row["answer"] for row in rows)


FIELDS = ("question", "response", "answer")


@pytest.mark.parametrize("language", ["sw", "ja", "te"])
def test_mgsm_cot_with_faults(language):
    rows = load("mgsm_cot")
    finding = only(report_of(changed(rows, language, range(1, 9), shuffled, FIELDS)), "shuffled")
    assert finding.languages == [language] and "parallel_id=1 holds the response of" in finding.message
    for a in range(1, 9):
        for b in range(a + 1, 9):
            mine = [row for row in rows if row["language"] in ("en", language)]
            finding = only(report_of(changed(mine, language, [a, b], lambda texts: texts[::-1], FIELDS)), "swapped")
            assert finding.message.endswith(f": parallel_id={a} and parallel_id={b}.")
    rows.remove(row_of(rows, language, 4))
    assert report_of(rows).warnings == [f"{language}: no row for 1 of 8 pivots: parallel_id=4."]


def test_mgsm_answers():
    rows = load("mgsm")
    assert report_of(rows).warnings == []
    fields = ("question", "answer")
    finding = only(report_of(changed(rows, "th", range(250), shuffled, fields)), "shuffled")
    assert finding.languages == ["th"] and "Their prompts disagree too" in finding.message
    finding = only(report_of(changed(rows, "th", [3, 77], lambda texts: texts[::-1], fields)), "swapped")
    assert "parallel_id=3 and parallel_id=77" in finding.message
    rows.remove(row_of(rows, "zh", 200))
    assert report_of(rows).warnings == ["zh: no row for 1 of 250 pivots: parallel_id=200."]


def test_mgsm_questions():
    """What the human translators did: 24-hour times, number words as digits."""
    rows = load("mgsm")
    finding = only(report_of(rows, text_columns="question"), "numbers")
    assert finding.languages == ["de", "fr", "th"] and finding.message.endswith("parallel_id=23.")


def test_xcopa():
    rows = load("xcopa")
    for column in ("premise", "choice1", "choice2"):
        report = report_of(rows, text_columns=column)
        assert {finding.kind for finding in report.findings} <= {"identical"}
        assert all(entry.number_pairs == 0 for entry in report.languages.values())
    finding = only(
        report_of(changed(rows, "qu", range(401, 1001), shuffled, ("premise",)), text_columns="premise"), "shuffled"
    )
    assert finding.languages == ["qu"]
    # Two alternatives that nobody translated
    finding = only(report_of(rows, text_columns="choice1"), "identical")
    assert finding.message.startswith("tr:") and "parallel_id=427" in finding.message
