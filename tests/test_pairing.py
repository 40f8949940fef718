"""Who is whose parallel, against brute force."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_pivots

from solar_trl.data import NothingToAlign, PairingColumns, find_pivots, resolve_pairs
from solar_trl.data.resolve import count_tokens


COLUMNS = PairingColumns()
LANGUAGE = st.sampled_from(["en", "sw", "th", "eng", None, "日本語"])
INT_ID = st.one_of(st.none(), st.integers(-3, 5), st.just(2**62))
STRING_ID = st.one_of(st.none(), st.sampled_from(["a", "b", "", "ä", "1", "日"]))


def table(languages, ids, **columns):
    return Dataset.from_dict({"language": languages, "parallel_id": ids, **columns})


def rows_of(id_strategy):
    return st.lists(st.tuples(LANGUAGE, id_strategy), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(st.one_of(rows_of(INT_ID), rows_of(STRING_ID)), st.sampled_from([["en"], ["en", "eng"], ["sw"]]))
def test_find_pivots_is_brute_force(rows, pivot_languages):
    languages, ids = map(list, zip(*rows, strict=True))
    found = find_pivots(table(languages, ids), pivot_language=pivot_languages)
    assert found.dtype == np.int64 and found.shape == (len(rows),)
    ids = [None if i == "" else i for i in ids]  # an empty string is a missing id
    assert found.tolist() == reference_pivots(languages, ids, pivot_languages)


@settings(max_examples=100, deadline=None)
@given(rows_of(INT_ID), rows_of(INT_ID))
def test_find_pivots_in_another_dataset(rows, pivots):
    languages, ids = map(list, zip(*rows, strict=True))
    pivot_languages, pivot_ids = map(list, zip(*pivots, strict=True))
    found = find_pivots(table(languages, ids), pivot_dataset=table(pivot_languages, pivot_ids))
    assert found.tolist() == reference_pivots(languages, ids, ["en"], (pivot_languages, pivot_ids))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(LANGUAGE, INT_ID, STRING_ID), min_size=1, max_size=25))
def test_find_pivots_by_several_columns(rows):
    languages, numbers, sources = map(list, zip(*rows, strict=True))
    dataset = Dataset.from_dict({"language": languages, "number": numbers, "source": sources})
    found = find_pivots(dataset, parallel_id_column=["number", "source"])
    sources = [source or None for source in sources]
    assert found.tolist() == reference_pivots(languages, list(zip(numbers, sources, strict=True)), ["en"])


def test_find_pivots_after_shuffling_and_selecting():
    """Rows of a dataset with an indices mapping are paired by what they hold, not by where they once stood."""
    dataset = table(["en", "sw"] * 20, [i // 2 for i in range(40)]).shuffle(seed=1).select(range(5, 30))
    expected = reference_pivots(dataset["language"][:], dataset["parallel_id"][:], ["en"])
    assert find_pivots(dataset).tolist() == expected
    assert max(expected) >= 0


def test_identical_duplicates_are_one_and_different_ones_an_error():
    languages, ids = ["sw", "en", "en", "en"], [1, 1, 1, 2]
    assert find_pivots(table(languages, ids, text=["a", "b", "b", "c"])).tolist() == [1, -1, -1, -1]
    with pytest.raises(ValueError, match=r"1 ids .* several different pivots, e\.g\. parallel_id=1 in rows 1 and 2"):
        find_pivots(table(languages, ids, text=["a", "b", "B", "c"]))


def test_pivots_that_nobody_needs_may_clash():
    assert find_pivots(table(["en", "en", "en", "sw"], [1, 1, 2, 2], text=list("abcd"))).tolist() == [-1, -1, -1, 2]
    clash = table(["en", "en", "sw"], [1, 1, 1], text=list("abc"))
    assert find_pivots(clash, multiple_pivots="first").tolist() == [-1, -1, 0]


def test_pivot_dataset_without_languages():
    rows, pivots = table(["sw", "th"], [1, 2]), Dataset.from_dict({"parallel_id": [2, 1]})
    assert find_pivots(rows, pivot_dataset=pivots).tolist() == [1, 0]


def test_language_as_class_label():
    from datasets import ClassLabel

    dataset = table(["en", "sw", "th"], [1, 1, 2]).cast_column("language", ClassLabel(names=["th", "sw", "en"]))
    assert find_pivots(dataset).tolist() == [-1, 0, -1]


def test_different_long_token_lists_are_different_in_any_format():
    ids = list(range(3000))
    rows = [("en", ids), ("en", [*ids[:1500], 7, *ids[1501:]]), ("en", ids), ("sw", ids)]
    dataset = Dataset.from_list(
        [{"input_ids": tokens, "labels": tokens, "language": name, "parallel_id": 1} for name, tokens in rows]
    )
    for form in (None, "torch", "numpy"):
        with pytest.raises(ValueError, match="rows 0 and 1"):
            find_pivots(dataset.with_format(form))
        assert find_pivots(dataset.with_format(form).select([0, 2, 3])).tolist() == [-1, -1, 0]


@pytest.mark.parametrize(
    ("dataset", "options", "error", "message"),
    [
        (table(["en"], [1]), {"language_column": "lang"}, ValueError, "no column 'lang' (`language_column`)"),
        (table(["en"], [1]), {"parallel_id_column": "uid"}, ValueError, "no column 'uid' (`parallel_id_column`)"),
        (table([1, 2], [1, 1]), {}, TypeError, "languages must be strings"),
        (table(["en", "sw"], [1.0, 1.0]), {}, TypeError, "ids must be integers or strings"),
        (table(["en", "sw"], [[1], [1]]), {}, TypeError, "ids must be integers or strings"),
        (
            table(["en", "sw"], np.array([2**63, 2**63], dtype=np.uint64)),
            {},
            ValueError,
            "do not fit 64-bit signed integers",
        ),
        (table(["en"], [1]), {"multiple_pivots": "sample"}, ValueError, "'sample', expected 'error' or 'first'"),
        (
            table(["sw"], [1]),
            {"pivot_dataset": table(["en"], ["1"])},
            ValueError,
            "differ in type: int64 in the dataset, string in the pivot dataset",
        ),
    ],
)
def test_find_pivots_bad_input(dataset, options, error, message):
    with pytest.raises(error) as info:
        find_pivots(dataset, **options)
    assert message in str(info.value)


def prepared(spec):
    """`(language, id, tokens of the response)` rows; the same response means the same tokens."""
    rows = []
    for language, parallel_id, response in spec:
        ids = [5, 6, *response]
        rows.append(
            {"input_ids": ids, "labels": [-100, -100, *response], "language": language, "parallel_id": parallel_id}
        )
    return Dataset.from_list(rows)


MULTIPLE = [
    ("en", 1, [1]),
    ("sw", 1, [2]),
    ("en", 1, [3]),
    ("en", 1, [1]),  # the same as row 0
    ("en", 2, [4]),
    ("th", 2, [5]),
    ("en", 3, [6]),  # nobody's pivot
    ("th", 4, [7]),  # no pivot
]


def test_multiple_pivots():
    dataset = prepared(MULTIPLE)
    with pytest.raises(ValueError, match="several different pivots"):
        resolve_pairs(dataset, COLUMNS, "train dataset")

    first = resolve_pairs(dataset, COLUMNS, "train dataset", multiple_pivots="first")
    assert first.table_rows.tolist() == [0, 4] and first.counts.tolist() == [1, 1]
    assert first.own.tolist() == [0, -1, -1, 0, 1, -1, -1, -1]
    assert first.pivot.tolist() == [0, 0, -1, 0, 1, 1, -1, -1]

    sample = resolve_pairs(dataset, COLUMNS, "train dataset", multiple_pivots="sample")
    assert sample.table_rows.tolist() == [0, 2, 4] and sample.counts.tolist() == [2, 0, 1]
    assert sample.own.tolist() == [0, -1, 1, 0, 2, -1, -1, -1]
    assert sample.pivot.tolist() == [0, 0, 0, 0, 2, 2, -1, -1]


def test_missing_pivot():
    dataset = prepared(MULTIPLE)
    options = {"multiple_pivots": "first"}
    assert len(resolve_pairs(dataset, COLUMNS, "train dataset", **options).keep) == 8
    dropped = resolve_pairs(dataset, COLUMNS, "train dataset", missing_pivot="drop", **options)
    assert dropped.keep.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert dropped.report.dropped == 1 and "1 non-pivot rows without a pivot (dropped)" in str(dropped.report)
    with pytest.raises(ValueError, match=r"1 rows of the train dataset have no pivot, e\.g\. parallel_id=4"):
        resolve_pairs(dataset, COLUMNS, "train dataset", missing_pivot="error", **options)


def test_truncated_pairs():
    """Item 1 has a cut pivot, item 2 a cut example, item 3 both a cut and a whole pivot, item 5 none at all."""
    short, long = [1, 2], [1, 2, 3, 4]  # with the prompt 4 and 6 tokens
    spec = [("en", 1, long), ("sw", 1, short), ("en", 2, short), ("sw", 2, long), ("th", 2, short)]
    spec += [("en", 3, long), ("en", 3, short), ("sw", 3, short), ("sw", 5, short)]
    options = {"multiple_pivots": "sample", "max_length": 6}
    keep = resolve_pairs(prepared(spec), COLUMNS, "train dataset", **options)
    assert keep.report.pairs == 4 and keep.report.skipped == 0 and keep.report.unpaired == 1
    assert keep.report.languages["sw"].truncated == 1.0  # its pair in item 3 by the first of the two pivots
    skip = resolve_pairs(prepared(spec), COLUMNS, "train dataset", truncated_pairs="skip", **options)
    assert skip.table_rows.tolist() == [2, 6]
    assert skip.pivot.tolist() == [-1, -1, 0, -1, 0, -1, 1, 1, -1]
    assert skip.report.pairs == 2 and skip.report.skipped == 2 and skip.report.unpaired == 1
    assert "2 truncated pairs (SFT loss only)" in str(skip.report)
    drop = resolve_pairs(
        prepared(spec), COLUMNS, "train dataset", missing_pivot="drop", truncated_pairs="skip", **options
    )
    assert drop.keep.tolist() == list(range(8))
    with pytest.raises(NothingToAlign, match=r"Every pair of the train dataset was truncated at `max_length=6`"):
        resolve_pairs(prepared(spec[:2]), COLUMNS, "train dataset", truncated_pairs="skip", **options)


def test_rows_without_a_response_do_not_pair():
    """A response of which nothing is predicted has no summary, as pivot or as example."""
    dataset = Dataset.from_list(
        [
            {"input_ids": [1, 2], "labels": [1, -100], "language": "en", "parallel_id": 1},
            {"input_ids": [1, 2], "labels": [-100, 2], "language": "sw", "parallel_id": 1},
            {"input_ids": [1, 2], "labels": [-100, 2], "language": "en", "parallel_id": 2},
            {"input_ids": [1, 2], "labels": [-100, 2], "language": "sw", "parallel_id": 2},
            {"input_ids": [1], "labels": [1], "language": "th", "parallel_id": 2},
        ]
    )
    pairs = resolve_pairs(dataset, COLUMNS, "train dataset")
    assert pairs.pivot.tolist() == [-1, -1, 0, 0, -1] and pairs.table_rows.tolist() == [2]
    assert pairs.report.without_response == 2
    with pytest.raises(NothingToAlign, match=r"None of the 1 pivot rows .* can be used"):
        resolve_pairs(dataset.select([0, 1]), COLUMNS, "train dataset")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-100, 3, 4]), max_size=6), min_size=1, max_size=12), st.booleans())
def test_count_tokens_is_brute_force(labels, mapped):
    from datasets import Features, List, Value

    features = Features({"input_ids": List(Value("int64")), "labels": List(Value("int64"))})
    dataset = Dataset.from_dict({"input_ids": labels, "labels": labels}, features=features)
    if mapped:
        dataset, labels = dataset.select(range(len(labels))[::-1]), labels[::-1]
    counts = count_tokens(dataset)
    assert counts.response.tolist() == [sum(label != -100 for label in row[1:]) for row in labels]
    assert counts.total.tolist() == [len(row) for row in labels]
    if len(set(map(len, labels))) == 1 and labels[0]:
        fixed = dataset.cast(Features({name: List(Value("int64"), length=len(labels[0])) for name in features}))
        assert count_tokens(fixed).response.tolist() == counts.response.tolist()


def test_messages_say_what_was_looked_for_and_found():
    with pytest.raises(NothingToAlign) as info:
        resolve_pairs(table(["eng", "sw"], [1, 1]), COLUMNS, "train dataset")
    assert "none has language 'en'" in str(info.value) and "'eng' (1 rows), 'sw' (1 rows)" in str(info.value)
    with pytest.raises(NothingToAlign) as info:
        resolve_pairs(table(["en", "sw", "sw"], ["en-1", "sw-1", "sw-2"]), COLUMNS, "train dataset")
    for part in ("Nothing pairs", "parallel_id='sw-1'", "parallel_id='en-1'", "'sw' (2 rows)"):
        assert part in str(info.value)


def test_report():
    dataset = prepared([("en", 1, [1, 2]), ("sw", 1, [1, 2, 3, 4]), ("sw", 2, [1]), ("th", 1, [1, 2, 3, 4, 5, 6])])
    report = resolve_pairs(dataset, COLUMNS, "train dataset", max_length=8).report
    assert (report.rows, report.pairs, report.unpaired, report.pivots) == (4, 2, 1, 1)
    sw, th = report.languages["sw"], report.languages["th"]
    assert (sw.rows, sw.pairs, sw.unpaired, sw.length_ratio, sw.truncated) == (2, 1, 1, 2.0, 0.0)
    assert (th.length_ratio, th.truncated) == (3.0, 1.0)
    assert report.to_dict()["languages"]["en"]["rows"] == 1
    assert "1 non-pivot rows without a pivot (SFT loss only)" in str(report)
