"""Answers in responses of any language: rules as tables, and real gold responses where they are at hand."""

import builtins
import json
import time
from pathlib import Path

import pytest

from solar_trl.evaluation import (
    canonical_answer,
    extract_answer,
    extract_choice,
    extract_math,
    extract_number,
    final_part,
    is_correct,
    load_benchmark,
    math_equal,
)
from solar_trl.evaluation.answers import choice_letter
from solar_trl.evaluation.templates import TEMPLATES, short_code, template_for


DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "mgsm_cot").exists(), reason="the benchmark files are not here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Digits and separators of the languages, decimals, negatives, units
        ("答えは39個です。", "39"),
        ("উত্তর হল ১,২৩৪টি।", "1234"),
        ("సమాధానం ౩౯.చాక్లెట్‌లు", "39"),
        ("คำตอบคือ ๑๒ บาท", "12"),
        ("Die Antwort ist 1.234,5 €.", "1234.5"),
        ("La réponse est 1\u202f234.", "1234"),
        ("Ответ: −5 рублей.", "-5"),
        ("Jibu ni 10,000.", "10000"),
        ("答案是１２．５。", "12.5"),
        ("The answer is $-3.50", "-3.5"),
        ("7", "7"),
        # Announced answers win over what follows them, but only right after the words
        ("The answer is 42. It took 3 steps.", "42"),
        ("So the answer is **42** apples for 3 boys.", "42"),
        ("Die Antwort lautet 5 für 2 Kinder", "5"),
        ("The answer is 5 + 6 = 11. Check 2 times.", "11"),
        ("The answer is the sum of 5 and 6, so 11.", "11"),
        ("The answer is 4. No, the answer is 8.", "8"),
        ("The answers 4 and 5 give 20", "20"),
        # Boxed and marked ones win over all
        ("The answer is 3. \\boxed{4}", "4"),
        ("The answer is 3.\n#### 1,200", "1200"),
        ("\\boxed{\\text{about } 12{,}000}", "12000"),
        # Thinking is no answer
        ("<think>maybe 3</think>It is 4.", "4"),
        ("maybe 3</think>It is 4.", "4"),
        ("<think>maybe 3, or", None),
        ("<think>3</think>", None),
        ("Nothing here", None),
        ("", None),
    ],
)
def test_number(text, expected):
    assert extract_number(text) == expected


def test_decimal_separator():
    assert extract_number("The answer is 3.125", decimal_separator=".") == "3.125"
    assert extract_number("The answer is 3.125") == "3125"


def test_what_prompts_ask_for_is_found():
    """Each template's own words announce the answer."""
    for language, template in TEMPLATES.items():
        assert extract_number(f"1 + 2\n{template.cues[0]} 42 (3 x 14)") == "42", language
        assert extract_choice(f"Hm, A or B? {template.cues[0]} B.", ["x y", "z"]) == 1, language
        for text in (template.solve, template.choose):
            assert template.cues[0] in text.format(cue=template.cues[0])


OPTIONS = ["The cup fell.", "It rained.", "A dog"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Labels alone
        ("B", 1),
        ("b.", 1),
        ("(C)", 2),
        ("Ｂ", 1),
        ("2", 1),
        ("২", 1),
        ("②", 1),
        ("乙", 1),
        ("ข", 1),
        ("खगघ", None),
        ("D", None),
        ("4", None),
        # Announced
        ("The answer is B", 1),
        ("The answer is (B) because A is wrong.", 1),
        ("The answer is: **B**", 1),
        ("Answer: option 2", 1),
        ("答案是Ｂ。", 1),
        ("คำตอบคือ ข", 1),
        ("উত্তর হল খ।", 1),
        ("الإجابة هي ب.", 1),
        ("정답은 나", 1),
        ("答えはイ", 1),
        ("The answer is A. No: the answer is C.", 2),
        ("The answer is it rained", 1),
        ("The answer is a dog", 2),
        ("The answer is a cat", None),
        ("The answer is D", None),
        # Boxed
        ("\\boxed{B} or A", 1),
        ("\\boxed{\\text{(C)}}", 2),
        ("\\boxed{It rained}", 1),
        # At the start, in brackets, texts
        ("B. It rained, not A.", 1),
        ("**B**: for it was wet", 1),
        ("A\nfor it fell", 0),
        ("A man fell.", None),
        ("I take (B), not that one.", 1),
        ("It must be that the CUP FELL: the cup fell!", 0),
        ("the cup fell or it rained", None),
        ("<think>A</think>B", 1),
        ("<think>The answer is A", None),
        ("", None),
    ],
)
def test_choice(text, expected):
    assert extract_choice(text, OPTIONS) == expected


def test_long_responses():
    """Time grows with the length, not with its square: 300,000 characters in seconds."""
    text = "Step: 3 + 4 = 7, so the answer is not clear. উত্তর? " * 6000
    start = time.perf_counter()
    assert extract_number(text) == "7" and extract_choice(text, OPTIONS) is None
    assert extract_choice("(" * 100_000, OPTIONS) is None and extract_number("answer " + " " * 100_000) is None
    assert extract_number("\\boxed{" * 2000 + "5") == "5"
    assert time.perf_counter() - start < 20


def test_choice_texts():
    assert extract_choice("The answer is 20.", ["2", "20", "200"]) == 1
    assert extract_choice("12 of them", ["2", "1"]) is None  # whole words
    assert extract_choice("The answer is 2.", ["4", "2", "8"]) == 1  # a text before a label
    assert extract_choice("她去了北京的学校", ["北京", "北京的学校"]) == 1  # the longest
    assert extract_choice("same", ["same", "same"]) is None
    with pytest.raises(ValueError, match="two options"):
        extract_choice("A", ["one"])
    with pytest.raises(ValueError, match="two options"):
        extract_choice("A", "AB")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (18, "18"),
        (18.0, "18"),
        (-0.5, "-0.5"),
        ("18.0", "18"),
        ("1,234", "1234"),
        ("१८", "18"),
        ("+5", "5"),
        (" Ab ", "ab"),
        ("Ａ", "a"),
        ("1/2", "1/2"),
        ("", None),
        ("  ", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_canonical(value, expected):
    assert canonical_answer(value) == expected


def test_correct():
    assert is_correct("1234", "1,234") and is_correct(18.0, "18") and not is_correct(None, "18")
    assert is_correct("b", "B", "choice") and is_correct("2", "B", "choice") and not is_correct("a", "B", "choice")
    assert not is_correct("2", "B")  # a number is no label elsewhere
    with pytest.raises(ValueError, match="reference is empty"):
        is_correct("1", " ")
    with pytest.raises(TypeError, match="bool"):
        canonical_answer(True)


def test_extract_answer():
    assert extract_answer("B", "choice", OPTIONS) == "b"
    assert extract_answer("<think>x</think> Two ", "text") == "two"
    with pytest.raises(ValueError, match="choices"):
        extract_answer("B", "choice")
    with pytest.raises(ValueError, match="'essay'"):
        extract_answer("B", "essay")
    with pytest.raises(TypeError, match="NoneType"):
        extract_number(None)
    assert final_part("a</think>b</think> c") == " c"
    assert choice_letter(2) == "C"


def test_math():
    pytest.importorskip("math_verify")
    assert extract_math("so \\boxed{\\frac{1}{2}} and \\boxed{ }") == "\\frac{1}{2}"
    assert extract_math("The answer is 073.") == "73"
    assert extract_math("\\boxed{1") == "1"  # never closed: the last number
    assert is_correct(extract_math("\\boxed{\\frac{1}{2}}"), "0.5", "math")
    assert math_equal("3\\sqrt{2}", "\\sqrt{18}") and not math_equal("x + 1", "x - 1")
    assert not is_correct("\\frac{1}{2}", "0.5")  # only where expressions are compared


def test_math_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "math_verify":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr("solar_trl.evaluation.math_answers.import_module", without)
    with pytest.raises(ImportError, match=r"solar-trl\[eval\]"):
        math_equal("1", "x")


def test_templates():
    assert template_for("swh_Latn") == (TEMPLATES["sw"], True)
    assert template_for("quy") == (TEMPLATES["en"], False)
    assert [short_code(code) for code in ("SW", "zh-Hant", "zho_Hans", "xx")] == ["sw", "zh", "zh", "xx"]
    instructions = [template.solve for template in TEMPLATES.values()]
    assert len(set(instructions)) == len(instructions)


@needs_data
def test_all_gold_responses():
    rows = [
        json.loads(line)
        for file in sorted((DATA / "mgsm_cot").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == 88
    wrong = [
        (row["language"], row["id"]) for row in rows if not is_correct(extract_number(row["response"]), row["answer"])
    ]
    assert wrong == []


@needs_data
@pytest.mark.parametrize(("name", "languages"), [("mgsm", 11), ("xcopa", 12)])
def test_gold_answers_are_right(name, languages):
    dataset = load_benchmark(name, path=DATA / name)
    assert len(set(dataset["language"])) == languages
    for row in dataset:
        cue = template_for(row["language"])[0].cues[0]
        for response in (row["answer"], f"7. {cue} {row['answer']}.", f"\\boxed{{{row['answer']}}} (3)"):
            extracted = extract_answer(response, row["kind"], row["choices"] or None)
            assert is_correct(extracted, row["answer"], row["kind"]), (row["language"], row["parallel_id"], response)
