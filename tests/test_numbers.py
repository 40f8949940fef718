"""Numbers in text of any language: the rules as tables, and numbers written in many ways and read back."""

import re
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from solar_trl.data.numbers import extract_numbers, final_number


TABLE = [
    # Grouping and decimals
    ("1,234.5", ["1234.5"]),
    ("1.234,5", ["1234.5"]),
    ("1 234", ["1234"]),
    ("1\u00a0234\u00a0567,89", ["1234567.89"]),
    ("10\u202f000.50", ["10000.5"]),
    ("1'234", ["1234"]),
    ("1’234’567", ["1234567"]),
    ("1,23,456", ["123456"]),
    ("12,34,567.5", ["1234567.5"]),
    ("1.234.567", ["1234567"]),
    ("5,600 = 5.600 = 5600 = 5600.00", ["5600"] * 4),  # ambiguous: thousands
    ("0.125 0,125", ["0.125", "0.125"]),
    ("1234.567", ["1234.567"]),
    ("3.14.", ["3.14"]),
    ("= .5, -.5", ["0.5", "-0.5"]),
    ("No.5 ...5", ["5", "5"]),
    ("10{,}000 or 1,\\!000 or 1\\,234", ["10000", "1000", "1234"]),
    ("007, 5.00, -0, 0.50", ["7", "5", "0", "0.5"]),
    ("123456789012345678901234567890.10", ["123456789012345678901234567890.1"]),
    # Digits of other scripts
    ("٣٫٥ و ١٬٢٣٤", ["3.5", "1234"]),
    ("१,२३,४५६ ५টি ๑๒ ౩ ۱۲۳", ["123456", "5", "12", "3", "123"]),
    ("１，２３４．５", ["1234.5"]),
    ("共有5，600个。", ["5", "600"]),  # punctuation between Western digits
    ("5 m² ½ 二", ["5"]),
    # Signs
    ("-5", ["-5"]),
    ("−7 –8 －９", ["-7", "8", "9"]),  # after a digit and a space it is a subtraction
    ("是-5", ["-5"]),
    ("ตอบ -5", ["-5"]),
    ("$-5 or -$6", ["-5", "-6"]),
    ("(-3) x^{-2} 5*-3", ["-3", "-2", "5", "-3"]),
    ("5-6", ["5", "6"]),
    ("5 – 7", ["5", "7"]),
    ("5 -6", ["5", "6"]),
    ("5円-6円", ["5", "6"]),
    ("5$-10$ 10%-20%", ["5", "10", "10", "20"]),
    ("\\frac{1}{2}-5 (1)-2", ["1", "2", "5", "1", "2"]),
    ("COVID-19 GPT-4", ["19", "4"]),
    ("Ответ — 11.", ["11"]),
    ("--5", ["5"]),
    ("\u200f-\u200e5", ["-5"]),
    # Lists, times, dates, units
    ("1,2,3", ["1", "2", "3"]),
    ("1.5,2.5", ["1.5", "2.5"]),
    ("1 2 300", ["1", "2", "300"]),
    ("2024 100", ["2024", "100"]),
    ("1,234,56", ["1", "234", "56"]),
    ("3:30", ["3", "30"]),
    ("12.05.2024 2024-05-06", ["12", "5", "2024", "2024", "5", "6"]),
    ("5'10", ["5", "10"]),
    ("1/2", ["1", "2"]),
    ("50% 50٪ 5km 35個 $1,234.56 39.చాక్లెట్‌లు", ["50", "50", "5", "35", "1234.56", "39"]),
    ("5 + 6 = 11. ", ["5", "6", "11"]),
    ("no number", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_table(text, expected):
    assert extract_numbers(text) == expected


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("3.125", ".", "3.125"),
        ("3,125", ".", "3125"),
        ("3,125", ",", "3.125"),
        ("3.125", ",", "3125"),
        ("1,234.5", ",", "1234.5"),  # only what is ambiguous is decided
        ("1.234.567", ".", "1234567"),
        ("2,5", ".", "2.5"),
    ],
)
def test_decimal_separator(text, separator, expected):
    assert extract_numbers(text, decimal_separator=separator) == [expected]
    assert final_number(text, decimal_separator=separator) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 + 6 = 11. The answer is 11.", "11"),
        ("work 3\n#### 42", "42"),
        ("work 3\n#### 1,234 of 9\n", "1234"),
        ("#### Step 2\nso it is 7", "7"),  # a heading
        ("#### 42", "42"),
        ("So \\boxed{7} in 2 steps", "7"),
        ("\\boxed{1} then \\boxed{x = -\\frac{1}{8}} and 3", "8"),
        ("\\boxed{5} then \\boxed{yes} and 3", "5"),
        ("\\boxed{yes} and 3", "3"),
        ("উত্তর হল ১১।", "11"),
        ("答えは39個。", "39"),
        ("nothing", None),
    ],
)
def test_final_number(text, expected):
    assert final_number(text) == expected


def test_bad_input():
    with pytest.raises(TypeError, match="NoneType"):
        extract_numbers(None)
    with pytest.raises(ValueError, match="';'"):
        extract_numbers("1", decimal_separator=";")


# Zeros of Western, Arabic-Indic, Persian, Devanagari, Bengali, Tamil, Telugu, Thai, Khmer, Myanmar, full-width digits
ZEROS = "0٠۰०০௦౦๐០၀０"


def grouped(digits, mark, indian=False):
    groups = [digits[-3:]]
    digits = digits[:-3]
    size = 2 if indian else 3
    while digits:
        groups.insert(0, digits[-size:])
        digits = digits[:-size]
    return mark.join(groups)


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 10**12),
    st.from_regex(r"[0-9]{0,2}|[0-9]{4,6}", fullmatch=True),
    st.sampled_from(["plain", ",", ".", "'", "’", "\u00a0", "\u202f", " ", "٬", "indian"]),
    st.sampled_from(".,٫"),
    st.sampled_from(ZEROS),
    st.sampled_from(["", "-", "−", "-$"]),
    st.sampled_from(["", "= ", "(", "is ", "答えは", "คำตอบคือ", "উত্তর ", ": "]),
    st.sampled_from(["", ".", "。", " kg", "個", "%", ")", ", ", "টি"]),
)
def test_written_and_read_back(integer, fraction, style, decimal, zero, sign, before, after):
    assume(style != decimal and not (style == "indian" and decimal != "."))
    digits = str(integer)
    text = digits if style == "plain" else grouped(digits, "," if style == "indian" else style, style == "indian")
    if fraction:
        text += decimal + fraction
    text = "".join(chr(ord(zero) + int(char)) if char.isdecimal() else char for char in text)
    value = Decimal(f"{digits}.{fraction}" if fraction else digits)
    (number,) = extract_numbers(before + sign + text + after)
    assert Decimal(number) == (-value if sign else value)
    assert number == final_number(before + sign + text + after)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(10**7), 10**7), max_size=8), st.sampled_from(["; ", " = ", " x ", "，且", "\n"]))
def test_all_are_found_in_order(values, separator):
    text = separator.join(map(str, values))
    assert extract_numbers(text) == [str(value) for value in values]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="0123456789.,-–$% '٣٫٬，\\!{}#x个")))
def test_any_text(text):
    for number in extract_numbers(text):
        assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", number, re.ASCII) and number != "-0"
    # No digit is lost or made up
    digits = [str(int(char)) for char in text if char.isdecimal()]
    assert set("".join(extract_numbers(text))) <= {*digits, "-", ".", "0"}
    assert (final_number(text) is None) == (not extract_numbers(text))
