"""Published layouts to the long format, against brute force: every join, lazily and without copying texts."""

import doctest
import importlib
import itertools
import logging
import os
import random
import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference_pivots

from solar_trl.data import carry_pivots, find_pivots
from solar_trl.data.formats import to_long_format
from solar_trl.data.ids import assign_parallel_id, split_id
from solar_trl.data.join import concatenate_parallel
from solar_trl.data.languages import normalize_language, normalize_languages
from solar_trl.data.position_check import find_disagreement, numbers_in, read_numbers, sample_rows


DATA = Path(os.environ.get("SOLAR_TRL_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "mgsm").is_dir(), reason="no multilingual data in SOLAR_TRL_DATA")

NFC, NFD = "é", unicodedata.normalize("NFD", "é")
STRING_ID = st.one_of(st.none(), st.sampled_from(["a", "1", "", NFC, NFD, "a/b", "b", "\\", "日本", "a\\/b"]))
INT_ID = st.one_of(st.none(), st.integers(0, 4), st.just(2**40))


def canonical(value):
    return unicodedata.normalize("NFC", value) or None if isinstance(value, str) else value


def stream(dataset):
    return dataset.to_iterable_dataset()


def text_buffers(dataset):
    """Addresses of the text buffers of a dataset: the same addresses mean the same bytes in memory."""
    found = set()
    for column in dataset.data.table.columns:
        for chunk in column.chunks:
            if str(chunk.type) in ("string", "large_string"):
                found |= {buffer.address for buffer in chunk.buffers()[2:] if buffer is not None}
    return found


def assert_texts_shared(result, *sources, small=1):
    """All text buffers of the result are those of its sources, apart from those of `small` added columns."""
    shared = set().union(*map(text_buffers, sources))
    assert shared & text_buffers(result)
    own = 0
    for name in result.data.table.column_names:
        chunks = result.data.table.column(name).chunks
        buffers = [b for c in chunks if str(c.type) in ("string", "large_string") for b in c.buffers()[2:] if b]
        own += any(buffer.address not in shared for buffer in buffers)
    assert own <= small


class Counted:
    """A stream that counts how many rows were taken from it."""

    def __init__(self, rows):
        self.rows = rows
        self.taken = 0

    def __reduce__(self):  # hashed by what it yields; shared, so that the count is seen
        return (list, (self.rows,))

    def __call__(self):
        for row in self.rows:
            self.taken += 1
            yield row

    def stream(self, features=None):
        return IterableDataset.from_generator(lambda: self(), features=features)


# ---- Languages


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, "en") for name in ["en", "EN", "eng", "eng_Latn", "en-US", "English", "english", " English "]),
        *((name, "zh") for name in ["zh", "zho_Hans", "zh-Hant", "cmn_Hans", "Chinese", "Simplified Chinese", "中文"]),
        *((name, "sw") for name in ["sw", "swh_Latn", "swa", "Swahili", "swahili", "KISWAHILI", "Kiswahili"]),
        *((name, "ja") for name in ["ja", "jpn_Jpan", "Japanese", "日本語"]),
        *((name, "ar") for name in ["ar", "arb_Arab", "Arabic", "Standard Arabic"]),
        *((name, "he") for name in ["he", "iw"]),
        *((name, "id") for name in ["id", "in", "Indonesian"]),
        *((name, "pt") for name in ["pt-BR", "pt_PT", "Brazilian Portuguese"]),
        *((name, "ht") for name in ["ht", "hat_Latn", "Haitian Creole", "haitian_creole"]),
        *((name, "bn") for name in ["bn", "ben", "Bengali", "Bangla"]),
        ("Deutsch", "de"),
        ("Español", "es"),
        (unicodedata.normalize("NFD", "Español"), "es"),
        ("ไทย", "th"),
        ("te", "te"),
        ("Telugu", "te"),
        ("quy", "quy"),
        ("yue_Hant", "yue"),
    ],
)
def test_normalize_language(name, code):
    assert normalize_language(name) == code
    assert normalize_language(code) == code


@pytest.mark.parametrize("name", ["xx-unknown", "", " ", "cause", "question", "x", "und", "mul", "qaa", "text", "en-"])
def test_no_language(name):
    with pytest.raises(ValueError, match="is no language") as info:
        normalize_language(name)
    assert repr(name) in str(info.value) and "aliases" in str(info.value)


def test_language_errors_and_aliases(monkeypatch):
    with pytest.raises(TypeError, match="must be a string, got 7"):
        normalize_language(7)
    with pytest.raises(ValueError, match=r"country \(Japan\).*aliases=\{'jp': 'ja'\}"):
        normalize_language("jp")
    assert normalize_language("jp", {"jp": "ja"}) == "ja"
    assert normalize_language("en", {"en": "english"}) == "english"
    import solar_trl.data.languages as module

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    module._standard_tag.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'solar-trl\[data\]'"):
        normalize_language("en")


def test_normalize_languages(caplog):
    values = ["English", None, "sw", "eng", "Deutsch", "src"]
    expected = ["en", None, "sw", "en", "de", "en"]
    rows = Dataset.from_dict({"language": values, "text": list("abcdef")})
    options = {"aliases": {"src": "en"}}
    result = normalize_languages(rows, **options)
    assert result["language"][:] == expected and result.column_names == rows.column_names
    assert_texts_shared(result, rows)
    assert [row["language"] for row in normalize_languages(stream(rows), **options)] == expected
    splits = normalize_languages(DatasetDict({"train": rows, "test": rows.select([5, 0])}), **options)
    assert splits["test"]["language"][:] == ["en", "en"]
    assert not caplog.records
    with pytest.raises(ValueError, match="'gibberish' is no language"):
        normalize_languages(Dataset.from_dict({"language": ["gibberish"]}))
    with pytest.raises(ValueError, match="no column 'lang' "):
        normalize_languages(rows, "lang")
    with pytest.raises(TypeError, match="holds int64"):
        normalize_languages(Dataset.from_dict({"language": [1]}))
    with pytest.raises(TypeError, match="got list"):
        normalize_languages([{"language": "en"}])


def test_languages_that_merge_are_named(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("solar_trl"), "propagate", True)
    rows = Dataset.from_dict({"language": ["zho_Hans", "zho_Hant", "eng_Latn", "en"]})
    assert normalize_languages(rows)["language"][:] == ["zh", "zh", "en", "en"]
    assert "'zho_Hans', 'zho_Hant' all become 'zh'" in caplog.text and "'en'" not in caplog.text
    apart = normalize_languages(rows, aliases={"zho_Hant": "zh-Hant"})
    assert apart["language"][:] == ["zh", "zh-Hant", "en", "en"]


# ---- One dataset per language


def by_language(ids, **columns):
    """Datasets with a text that tells where a row came from."""
    return {
        language: Dataset.from_dict(
            {"id": own, "text": [f"{language} text {chr(97 + i)}" for i in range(len(own))]}
            | {name: values[language] for name, values in columns.items()}
        )
        for language, own in ids.items()
    }


def check_join(joined, datasets, columns):
    """Rows, order, languages and ids of a join by columns; and the pairs that they lead to."""
    expected_ids, languages = [], []
    rows = [(language, row) for language, dataset in datasets.items() for row in dataset]
    assert joined["text"][:] == [row["text"] for _, row in rows]
    for language, row in rows:
        parts = tuple(canonical(row[name]) for name in columns)
        expected_ids.append(None if None in parts else parts)
        languages.append(language)
    assert joined["language"][:] == languages
    found = find_pivots(joined).tolist()
    assert found == reference_pivots(languages, expected_ids, ["en"])


def check_streams(datasets, columns, joined):
    """A join of streams has the rows and pairs of the tables', or fails; sorted streams do not fail."""

    def key(row):
        return (row["language"], row["text"])

    def order(row):
        parts = [canonical(row[name]) for name in columns]
        return (None not in parts, [part if part is not None else 0 for part in parts] if None not in parts else [])

    pivots = find_pivots(joined)
    texts = joined["text"][:]
    expected = {text: texts[pivot] if pivot >= 0 else None for text, pivot in zip(texts, pivots, strict=True)}
    ascending = {language: Dataset.from_list(sorted(d, key=order), d.features) for language, d in datasets.items()}
    for parts in (datasets, ascending):
        lazy = concatenate_parallel({language: stream(part) for language, part in parts.items()}, on=columns)
        try:
            rows = list(lazy)
        except ValueError as error:
            assert parts is not ascending and "are out of step" in str(error)
            continue
        assert sorted(rows, key=key) == sorted(joined, key=key)
        carried = carry_pivots(lazy)
        assert {row["text"]: row["pivot"] and row["pivot"]["text"] for row in carried} == expected


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([STRING_ID, INT_ID]), st.booleans())
def test_join_by_column_is_brute_force(data, values, shuffled):
    ids = {lang: data.draw(st.lists(values, min_size=1, max_size=8)) for lang in ["en", "sw", "th"]}
    datasets = by_language(ids)
    if shuffled:  # rows behind an indices mapping
        datasets = {language: dataset.shuffle(seed=3) for language, dataset in datasets.items()}
    known = {language: [canonical(i) for i in own if canonical(i) is not None] for language, own in ids.items()}
    duplicated = any(len(set(own)) < len(own) for own in known.values())
    pairs = any(set(one) & set(other) for one, other in itertools.combinations(known.values(), 2))
    if duplicated:
        with pytest.raises(ValueError, match="stand in several rows of"):
            concatenate_parallel(datasets, on="id")
    elif not pairs:
        with pytest.raises(ValueError, match="is in two languages"):
            concatenate_parallel(datasets, on="id")
    else:
        joined = concatenate_parallel(datasets, on="id")
        check_join(joined, datasets, ["id"])
        check_streams(datasets, ["id"], joined)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_join_by_several_columns_is_brute_force(data):
    drawn = {
        language: data.draw(st.lists(st.tuples(STRING_ID, INT_ID), min_size=1, max_size=6, unique=True))
        for language in ["en", "sw"]
    }
    datasets = by_language(
        {language: [part for part, _ in own] for language, own in drawn.items()},
        number={language: [part for _, part in own] for language, own in drawn.items()},
    )
    keys = {
        lang: [(canonical(a), b) for a, b in own if canonical(a) is not None and b is not None]
        for lang, own in drawn.items()
    }
    if any(len(set(own)) < len(own) for own in keys.values()):
        with pytest.raises(ValueError, match="stand in several rows"):
            concatenate_parallel(datasets, on=["id", "number"])
    elif not set(keys["en"]) & set(keys["sw"]):
        with pytest.raises(ValueError, match="is in two languages"):
            concatenate_parallel(datasets, on=["id", "number"])
    else:
        joined = concatenate_parallel(datasets, on=["id", "number"])
        check_join(joined, datasets, ["id", "number"])
        check_streams(datasets, ["id", "number"], joined)


def test_several_responses_per_question():
    datasets = by_language({"en": [1, 2, 2], "sw": [2, 1, 1], "th": [2, 3, 3]})
    with pytest.raises(ValueError, match=r"1 ids stand in several rows of 'en', e\.g\. 2 in rows 1 and 2.*'keep'"):
        concatenate_parallel(datasets, on="id")
    joined = concatenate_parallel(datasets, on="id", duplicates="keep")
    assert joined["parallel_id"][:] == [1, 2, 2, 2, 1, 1, 2, 3, 3]
    with pytest.raises(ValueError, match="several different pivots"):
        find_pivots(joined)


def test_missing_ids_are_reported(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("solar_trl"), "propagate", True)
    caplog.set_level(logging.INFO)
    concatenate_parallel(by_language({"en": ["a", "b", "c"], "sw": ["c", None], "th": ["b", "a", "c", "d"]}), on="id")
    assert "en: 3 rows, 1 of 4 ids missing ('d')" in caplog.text
    assert "sw: 2 rows, 1 without an id, 3 of 4 ids missing ('a', 'b', 'd')" in caplog.text
    assert "th: 4 rows." in caplog.text


def test_join_by_position():
    datasets = by_language({"en": [7, 8, 9], "sw": [5, 6, 7]})
    joined = concatenate_parallel(datasets)
    assert joined["parallel_id"][:] == [0, 1, 2] * 2 and joined["language"][:] == ["en"] * 3 + ["sw"] * 3
    assert find_pivots(joined).tolist() == [-1, -1, -1, 0, 1, 2]
    lazy = list(concatenate_parallel({language: stream(dataset) for language, dataset in datasets.items()}))
    assert [row["language"] for row in lazy] == ["en", "sw"] * 3
    assert sorted(lazy, key=lambda row: (row["language"], row["parallel_id"])) == list(joined)
    other = concatenate_parallel(datasets, language_column="lang", parallel_id_column="row")
    assert other["row"][:] == [0, 1, 2] * 2 and other["lang"][:] == joined["language"][:]


def test_splits_are_joined_one_by_one():
    parts = [by_language({"en": [1, 2], "sw": [2, 1]}), by_language({"en": [1], "sw": [1]})]
    in_order = by_language({"en": [1, 2], "sw": [1, 2]})
    splits = {
        language: DatasetDict({"train": parts[0][language], "test": parts[1][language]}) for language in parts[0]
    }
    joined = concatenate_parallel(splits, on="id")
    assert isinstance(joined, DatasetDict)
    assert find_pivots(joined["train"]).tolist() == [-1, -1, 1, 0]
    assert find_pivots(joined["test"]).tolist() == [-1, 0]
    lazy = {
        lang: IterableDatasetDict({"train": stream(in_order[lang]), "test": stream(parts[1][lang])}) for lang in splits
    }
    assert len(list(concatenate_parallel(lazy, on="id")["train"])) == 4
    with pytest.raises(ValueError, match=r"The splits differ: 'train', 'test' in 'en', 'train' in 'sw'"):
        concatenate_parallel({"en": splits["en"], "sw": DatasetDict({"train": splits["sw"]["train"]})})
    with pytest.raises(ValueError, match="of split 'test': 'en' has 1, 'sw' has 2"):
        concatenate_parallel({"en": splits["en"], "sw": DatasetDict(dict.fromkeys(splits["en"], parts[0]["en"]))})


def test_joining_copies_no_text():
    datasets = by_language({"en": ["a", "b"], "sw": ["b", "c"]})
    assert_texts_shared(concatenate_parallel(datasets), *datasets.values(), small=1)  # the language
    assert_texts_shared(concatenate_parallel(datasets, on="id"), *datasets.values(), small=2)  # and the id
    filtered = {language: dataset.shuffle(seed=0).filter(lambda row: True) for language, dataset in datasets.items()}
    assert_texts_shared(concatenate_parallel(filtered, on="id"), *datasets.values(), small=2)
    # A row that is there twice gets two ids: here the rows are written out
    twice = {language: dataset.select([0, 0, 1]) for language, dataset in datasets.items()}
    assert concatenate_parallel(twice)["parallel_id"][:] == [0, 1, 2] * 2


def test_types_that_differ_harmlessly():
    english = Dataset.from_dict({"id": [1], "text": ["a"], "label": [3], "note": [None]})
    swahili = Dataset.from_dict({"id": [1], "text": ["b"], "label": [4], "note": ["x"], "extra": ["y"]})
    swahili = swahili.cast_column("text", Value("large_string")).cast_column("label", Value("int32"))
    joined = concatenate_parallel({"en": english, "sw": swahili}, on="id")
    assert list(joined.select_columns(["text", "label", "note", "extra"])) == [
        {"text": "a", "label": 3, "note": None, "extra": None},
        {"text": "b", "label": 4, "note": "x", "extra": "y"},
    ]


LETTERS = by_language({"en": ["a", "b"], "sw": ["a", "b"]})


@pytest.mark.parametrize(
    ("datasets", "options", "error", "message"),
    [
        ([LETTERS["en"]], {}, TypeError, "must be a dict from language to dataset, got list"),
        (LETTERS["en"], {}, TypeError, "got Dataset"),
        ({"en": LETTERS["en"]}, {}, ValueError, "holds 1 language(s) ('en'), expected two or more"),
        ({"en": LETTERS["en"], 3: LETTERS["sw"]}, {}, TypeError, "must be languages such as 'sw', got 3"),
        ({"en": [1], "sw": [2]}, {}, TypeError, "must be datasets, got list"),
        ({"en": LETTERS["en"], "sw": stream(LETTERS["sw"])}, {}, TypeError, "'sw' is a IterableDataset"),
        (LETTERS, {"on": "uid"}, ValueError, "The 'en' dataset has no column 'uid' (`on`)"),
        (LETTERS, {"on": []}, ValueError, "`on` is empty"),
        ({"train": LETTERS["en"], "test": LETTERS["sw"]}, {}, ValueError, "are splits ('train', 'test')"),
        (LETTERS, {"duplicates": "drop"}, ValueError, "`duplicates` is 'drop', expected 'error' or 'keep'"),
        (LETTERS, {"check_numbers": True}, ValueError, "`check_numbers` is True"),
        (LETTERS, {"parallel_id_column": "id"}, ValueError, "already has a column 'id': join with `on='id'`"),
        (LETTERS, {"language_column": "text"}, ValueError, "already have a column 'text', which holds 'en text a'"),
        (by_language({"en": [1], "sw": ["1"]}), {"on": "id"}, ValueError, "int64 in 'en', string in 'sw'"),
        (by_language({"en": [1.0], "sw": [1.0]}), {"on": "id"}, TypeError, "ids must be integers or strings"),
        (by_language({"en": ["en-1"], "sw": ["sw-1"]}), {"on": "id"}, ValueError, "take it out with `split_id`"),
        (by_language({"en": [1, 2], "sw": [1]}), {}, ValueError, "'en' has 2, 'sw' has 1"),
        (
            by_language({"en": [1], "sw": [1]}, answer={"en": [18], "sw": ["18"]}),
            {},
            ValueError,
            "Column 'answer' differs in type: int64 in 'en', string in 'sw'",
        ),
    ],
)
def test_join_bad_input(datasets, options, error, message):
    with pytest.raises(error) as info:
        concatenate_parallel(datasets, **options)
    assert message in str(info.value)


def test_streams_are_joined_lazily():
    counted = {lang: Counted([{"id": i, "text": f"{lang} {i}"} for i in range(50)]) for lang in ["en", "sw"]}
    for on in (None, "id"):
        for source in counted.values():
            source.taken = 0
        joined = concatenate_parallel({language: source.stream() for language, source in counted.items()}, on=on)
        assert isinstance(joined, IterableDataset)
        assert all(source.taken < 20 for source in counted.values())  # to learn the names of the columns
        rows = list(itertools.islice(joined, 4))
        assert [row["language"] for row in rows] == ["en", "sw"] * 2
        assert [row["parallel_id"] for row in rows] == [0, 0, 1, 1]
        assert all(source.taken < 20 for source in counted.values())
        assert len(list(joined)) == 100
        assert len(list(joined)) == 100  # again


def test_streams_of_different_length():
    datasets = by_language({"en": [1, 2, 3, 4], "sw": [1, 2]})
    joined = concatenate_parallel({language: stream(dataset) for language, dataset in datasets.items()})
    rows = iter(joined)
    assert [next(rows)["parallel_id"] for _ in range(4)] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="'en' has 4, 'sw' has 2"):
        next(rows)


def joined_stream(ids, on="id", **options):
    """`language id` of each row of a join of streams of these ids."""
    streams = {language: stream(dataset) for language, dataset in by_language(ids).items()}
    return [f"{row['language']} {row['id']}" for row in concatenate_parallel(streams, on=on, **options)]


def test_streams_by_column_with_ids_missing(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("solar_trl"), "propagate", True)
    caplog.set_level(logging.INFO)
    # In any order, as long as none is missing
    assert joined_stream({"en": [3, 1, 2], "sw": [3, 1, 2]}) == ["en 3", "sw 3", "en 1", "sw 1", "en 2", "sw 2"]
    assert "en: 3 rows; sw: 3 rows." in caplog.text
    # The last ones may be missing in any order
    assert joined_stream({"en": [3, 1, 2], "sw": [3]}) == ["en 3", "sw 3", "en 1", "en 2"]
    # Any may be where ids ascend, by value; rows without an id stand alone
    ids = {"en": [2, None, 9, 10], "sw": [1, 10], "th": [9, 10, 11]}
    assert joined_stream(ids) == ["sw 1", "en 2", "en None", "en 9", "th 9", "en 10", "sw 10", "th 10", "th 11"]
    assert "en: 4 rows, 1 without an id, 2 of 5 ids missing; sw: 2 rows, 3 of 5 ids missing" in caplog.text


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            {"en": [3, 1, 2], "sw": [3, 2]},
            "out of step: side by side stand 1 in 'en' (row 1), 2 in 'sw' (row 1). What is missing can only be told "
            "where ids ascend, but 1 comes after 3",
        ),
        ({"en": [3, 4, 2], "sw": [3, 2]}, "side by side stand 4 in 'en' (row 1), 2 in 'sw' (row 1)"),
        ({"en": [2, 1], "sw": [1, 2]}, "side by side stand 2 in 'en' (row 0), 1 in 'sw' (row 0)"),
        ({"en": ["9", "10"], "sw": ["10"]}, "but '10' comes after '9'"),  # strings ascend by code points
        ({"en": [1, 2, 2], "sw": [1, 2]}, "The id 2 stands in several rows of 'en', the last of them row 2"),
        ({"en": [1, 2], "sw": ["1", "2"]}, "differs in type: int64 in 'en', string in 'sw'"),
    ],
)
def test_streams_that_cannot_be_joined(ids, message):
    with pytest.raises(ValueError) as info:
        joined_stream(ids)
    assert message in str(info.value)


def test_streams_of_unknown_types():
    def streams(*ids):
        return {
            language: IterableDataset.from_generator(lambda own=own: iter([{"id": i} for i in own]))
            for language, own in zip(["en", "sw"], ids, strict=True)
        }

    assert [row["parallel_id"] for row in concatenate_parallel(streams([5], [5]), on="id")] == [5, 5]
    with pytest.raises(ValueError, match=r"differ in type: 1 in 'en', '1' in 'sw'.*cast_column"):
        list(concatenate_parallel(streams([1], ["1"]), on="id"))
    with pytest.raises(ValueError, match=r"differ in type: '2' in 'en', '2' in 'sw', 1 in the rows before"):
        list(concatenate_parallel(streams([1, "2"], [1, "2"]), on="id"))
    with pytest.raises(TypeError, match="ids must be integers or strings"):
        list(concatenate_parallel(streams([1.5], [1.5]), on="id"))


def test_streams_with_several_responses():
    """The rows of an item stay together, also where languages have different numbers of responses."""
    ids = {"en": [2, 2, 1, 3], "sw": [2, 1, 1, 3], "th": [2, 2, 1, 1]}
    rows = joined_stream(ids, duplicates="keep")
    assert sorted(rows) == sorted(f"{language} {i}" for language, own in ids.items() for i in own)
    assert [i for i, _ in itertools.groupby(row.split()[1] for row in rows)] == ["2", "1", "3"]


def test_types_of_joined_streams():
    """As those of tables: columns that one language lacks are null, integers of different size become int64."""
    english = Dataset.from_dict({"id": [1, 2], "n": [1, 2]}).cast_column("n", Value("int32"))
    swahili = Dataset.from_dict({"id": [1, 2], "n": [3, 4], "note": ["x", "y"]})
    for on in (None, "id"):
        joined = concatenate_parallel({"en": english, "sw": swahili}, on=on)
        lazy = concatenate_parallel({"en": stream(english), "sw": stream(swahili)}, on=on)
        assert lazy.features == joined.features
        assert sorted(lazy, key=lambda row: row["n"]) == sorted(joined, key=lambda row: row["n"])
    with pytest.raises(ValueError, match="'n' differs in type: int64 in 'en', string in 'sw'"):
        concatenate_parallel({"en": stream(swahili), "sw": stream(swahili.cast_column("n", Value("string")))})
    with pytest.raises(ValueError, match="already have a column 'language', which holds 'fr'"):
        rows = stream(Dataset.from_dict({"id": [1], "language": ["fr"]}))
        list(concatenate_parallel({"en": rows, "sw": rows}))


# ---- Positions


def word_problems(n, language, seed=0):
    """Numbers in the way of the language: native digits, separators; every tenth number as a word."""
    rng = random.Random(seed)
    digits = {"bn": "০১২৩৪৫৬৭৮৯", "th": "๐๑๒๓๔๕๖๗๘๙", "te": "౦౧౨౩౪౫౬౭౮౯", "ar": "٠١٢٣٤٥٦٧٨٩"}.get(language)
    rows = []
    for _ in range(n):
        numbers = [rng.choice([rng.randint(2, 30), rng.randint(1000, 99999)]) for _ in range(3)]
        words = []
        for number in numbers:
            text = f"{number:,}"
            if language == "de":
                text = text.replace(",", ".")
            if language == "fr":
                text = text.replace(",", "\u202f")
            if digits:
                text = "".join(digits[int(c)] if c.isdigit() else c for c in text)
            words.append("many" if rng.random() < 0.1 and language != "en" else text)
        rows.append({"source": "gsm8k", "question": f"{language}: {' and '.join(words)}?"})
    return Dataset.from_list(rows)


LANGUAGES = ["de", "fr", "bn", "th", "te", "ar", "sw"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("n", [12, 200, 6000])
def test_rows_out_of_step_are_caught(language, n):
    english, other = word_problems(n, "en"), word_problems(n, language)
    assert len(concatenate_parallel({"en": english, language: other})) == 2 * n
    wrong = {"shuffled": other.shuffle(seed=0), "turned": other.select([*range(1, n), 0])}
    if n > 12:  # a single window of rows says nothing about its parts
        wrong["missing"] = other.select([*range(n // 3), *range(n // 3 + 1, n), 0])
    for name, rows in wrong.items():
        with pytest.raises(ValueError, match="do not look parallel") as info:
            concatenate_parallel({"en": english, language: rows})
        if name != "shuffled" and n > 12:
            assert f"row i of 'en' looks like row i-1 of '{language}'" in str(info.value)
        if name == "missing" and n == 200:
            first = int(str(info.value).split("from row ")[1].split()[0])
            assert abs(first - n // 3) <= 16
    with pytest.raises(ValueError, match=f"'{language}' has {n - 1}"):
        concatenate_parallel({"en": english, language: other.select(range(n - 1))})


def test_check_numbers_options(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("solar_trl"), "propagate", True)
    datasets = {"en": word_problems(50, "en"), "sw": word_problems(50, "sw").shuffle(seed=0)}
    assert len(concatenate_parallel(datasets, check_numbers="off")) == 100
    assert not caplog.records
    assert len(concatenate_parallel(datasets, check_numbers="warn")) == 100
    assert "do not look parallel" in caplog.text
    lazy = {language: stream(dataset) for language, dataset in datasets.items()}
    with pytest.raises(ValueError, match="do not look parallel"):
        list(concatenate_parallel(lazy))
    assert len(list(concatenate_parallel(lazy, check_numbers="off"))) == 100


def test_ids_in_another_order_are_caught():
    """Without numbers in the texts, a column of ids that both languages have tells."""
    datasets = by_language({"en": [f"q{c}" for c in "abcdef"], "sw": [f"q{c}" for c in "bcdefa"]})
    with pytest.raises(ValueError, match=r"in another order.*row 0 has 'qa' in 'en' and 'qb' in 'sw'"):
        concatenate_parallel(datasets)
    # Row numbers that start elsewhere, or ids of each language's own, tell nothing
    concatenate_parallel(by_language({"en": [0, 1, 2, 3], "sw": [1, 2, 3, 4]}))
    concatenate_parallel(by_language({"en": ["x1", "x2", "x3", "x4"], "sw": ["y8", "y3", "y9", "y7"]}))


def test_what_says_nothing_about_positions():
    """No numbers, or the same ones everywhere: nothing to compare, nothing to complain about."""
    for texts in (["a b", "b c", "c d", "d e", "e f"], ["gsm8k"] * 5, ["1 2"] * 5, [None] * 5):
        one = Dataset.from_dict({"text": texts})
        assert len(concatenate_parallel({"en": one, "sw": one.select([4, 3, 2, 1, 0])})) == 10


def test_numbers_in_nested_values():
    messages = [{"role": "user", "content": "Add 1,200 and ৩"}, {"role": "assistant", "content": None}]
    assert numbers_in(messages) == {"1200", "3"}
    assert numbers_in([True, 2.5, None, -4]) == {"4"}


def test_sampled_rows():
    assert sample_rows(10).tolist() == list(range(10))
    rows = sample_rows(1_000_000)
    assert rows[0] == 0 and rows[-1] == 999_999 and len(rows) <= 4096 and (np.diff(rows) > 0).all()


# ---- Wide rows


def wide_reference(rows, columns, kept, ids):
    result = []
    for index, row in enumerate(rows):
        for language, sources in columns.items():
            values = {field: row[source] for field, source in sources.items()}
            if all(value is not None and value.strip() for value in values.values()):
                parts = [canonical(row[name]) for name in ids or []]
                row_id = index if ids is None else parts[0]
                result.append({**values, **{k: row[k] for k in kept}, "parallel_id": row_id, "language": language})
    return result


TEXT = st.sampled_from(["Why?", "为什么？", "", "  ", "\u00a0\n", None, "x"])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["{lang}_{field}", "{field}_{lang}", "{field}-{lang}"]), st.booleans())
def test_wide_rows_are_brute_force(data, template, bare):
    shuffled = data.draw(st.booleans())
    n = data.draw(st.integers(1, 7))
    labels = {"zh": "zh", "swh_Latn": "sw", "Telugu": "te"} | ({} if bare else {"en": "en"})
    columns = {"en": {f: f for f in ["question", "response"]}} if bare else {}
    for label, language in labels.items():
        columns[language] = {f: template.format(lang=label, field=f) for f in ["question", "response"]}
    names = [name for sources in columns.values() for name in sources.values()]
    order = sorted(columns, key=lambda language: language != "en")
    table = {name: data.draw(st.lists(TEXT, min_size=n, max_size=n)) for name in names}
    table = {name: values if any(values) else [*values[:-1], "y"] for name, values in table.items()}
    table |= {"uid": [f"{NFD}{i}" for i in range(n)], "answer": list(range(n))}
    dataset = Dataset.from_dict(table)
    if shuffled:
        dataset = dataset.shuffle(seed=1)
    for ids in (None, "uid"):
        options = {"fields": ["question", "response"], "template": template, "id_column": ids}
        expected = wide_reference(dataset, columns, ["uid", "answer"], ids and [ids])
        result = to_long_format(dataset, **options)

        def key(row):
            return (row["language"], row["answer"])

        assert sorted(result, key=key) == sorted(expected, key=key)
        assert list(to_long_format(stream(dataset), **options)) == sorted(
            expected, key=lambda row: (dataset["answer"][:].index(row["answer"]), order.index(row["language"]))
        )
        if len(result) and "en" in result["language"][:]:
            languages, found = result["language"][:], find_pivots(result)
            assert found.tolist() == reference_pivots(languages, result["parallel_id"][:], ["en"])


def test_wide_rows_copy_no_text():
    wide = Dataset.from_dict(
        {
            "question": ["a" * 40, "b" * 40, "c" * 40],
            "zh_question": ["d" * 40, None, "f" * 40],
            "sw_question": ["g" * 40, "h" * 40, "i" * 40],
            "answer": ["j", "k", "l"],
        }
    )
    long = to_long_format(wide, ["question"])
    assert len(long) == 8
    assert_texts_shared(long, wide, small=1)
    assert_texts_shared(to_long_format(wide.shuffle(seed=0), ["question"]), wide, small=1)


def test_wide_rows_of_splits_and_types():
    wide = Dataset.from_dict({"question": ["a", "b"], "zh_question": ["c", "d"]})
    wide = wide.cast_column("zh_question", Value("large_string"))
    result = to_long_format(DatasetDict({"train": wide, "test": wide.select([1])}), "question")
    assert result["train"]["question"][:] == ["a", "b", "c", "d"]
    assert find_pivots(result["test"]).tolist() == [-1, 0]
    lists = Dataset.from_dict({"messages": [["a"], ["b"]], "messages_sw": [["c"], []]})
    result = to_long_format(lists, "messages", "{field}_{lang}", languages=["sw"])
    assert result["messages"][:] == [["a"], ["b"], ["c"]]


def test_wide_rows_keep_and_languages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("solar_trl"), "propagate", True)
    caplog.set_level(logging.INFO)
    wide = Dataset.from_dict(
        {name: ["x"] for name in ["question", "zh_question", "old_question", "ceb_question", "answer", "source"]}
    )
    result = to_long_format(wide, "question", keep="answer")
    assert sorted(result.column_names) == ["answer", "language", "parallel_id", "question"]
    assert result["language"][:] == ["en", "zh"]
    assert "Not taken for languages: 'old', 'ceb'" in caplog.text
    assert set(to_long_format(wide, "question").column_names) >= {"old_question", "answer", "source"}
    result = to_long_format(wide, "question", languages=["zh", "ceb"])
    assert result["language"][:] == ["en", "zh", "ceb"]
    blank = wide.map(lambda row: {"zh_question": " "})
    assert to_long_format(blank, "question")["language"][:] == ["en"]
    assert "Left out, as question is missing: zh: 1" in caplog.text
    # The longest field that fits
    nested = Dataset.from_dict({n: [n] for n in ["question", "sub_question", "zh_question", "zh_sub_question"]})
    result = to_long_format(nested, ["question", "sub_question"])
    assert result["sub_question"][:] == ["sub_question", "zh_sub_question"]
    both = Dataset.from_dict({n: [n] for n in ["question", "en_question", "zh_question"]})
    assert to_long_format(both, "question", pivot_bare=False)["question"][:] == ["en_question", "zh_question"]


def wide(*names):
    return Dataset.from_dict({name: ["x"] for name in names})


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (wide("question", "zh_question"), {"template": "{lang}"}, "expected one `{lang}` and one `{field}`"),
        (wide("question", "zh_question"), {"template": "{lang}_{field"}, "which is no template"),
        (wide("question", "zh_question"), {"fields": []}, "`fields` is []"),
        (wide("question", "zh_question"), {"id_column": "uid"}, "no column 'uid' (`id_column`)"),
        (wide("question", "zh_question"), {"keep": ["answer"]}, "no column 'answer' (`keep`)"),
        (wide("question", "zh_question"), {"keep": ["question"]}, "both in `keep` and in `fields`"),
        (wide("question", "zh_question", "parallel_id"), {}, "use it with `id_column='parallel_id'`"),
        (wide("question", "zh_question", "language"), {}, "already has a column 'language': rename"),
        (wide("question", "chosen_question"), {}, "No columns of another language"),
        (wide("sw_question", "zh_question"), {}, "No columns of the pivot language 'en'"),
        (wide("question", "en_question", "zh_question"), {}, "Set `pivot_bare=False`"),
        (wide("question", "zh_question"), {"languages": ["sw"]}, "Language 'sw' has no column 'sw_question'"),
        (wide("question", "zho_Hans_question", "zho_Hant_question"), {}, "are both 'zh'"),
        (
            wide("question", "answer", "zh_question"),
            {"fields": ["question", "answer"]},
            "no column 'zh_answer' (field 'answer' in `template` '{lang}_{field}')",
        ),
        (Dataset.from_dict({"question": ["x"], "zh_question": [1]}), {}, "string in 'en', int64 in 'zh'"),
    ],
)
def test_wide_rows_bad_input(dataset, options, message):
    with pytest.raises(ValueError) as info:
        to_long_format(dataset, **{"fields": ["question"], **options})
    assert message in str(info.value)


def test_wide_streams_are_lazy():
    source = Counted([{"question": f"q{i}", "zh_question": f"z{i}"} for i in range(5000)])
    long = to_long_format(source.stream(), "question")
    assert source.taken <= 2
    assert [row["question"] for row in itertools.islice(long, 3)] == ["q0", "z0", "q1"]
    assert source.taken <= 2002  # one batch, and what a look ahead takes


# ---- Ids


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_split_id(at_once, monkeypatch):
    monkeypatch.setattr("solar_trl.data.ids._SPLIT_AT_ONCE", at_once)
    wrong = Dataset.from_dict({"id": ["sw-1", "12", "en-1", None, "x", "y"]})
    with pytest.raises(ValueError, match=r"4 of 6 ids .* e\.g\. '12' \(row 1\), None \(row 3\), 'x' \(row 4\)\."):
        split_id(wrong)
    assert split_id(wrong.select([])).column_names == ["id", "language", "parallel_id"]
    rows = Dataset.from_dict({"id": ["sw-12", "en-12", "zh_a-b"], "text": ["a", "b", "c"]})
    result = split_id(rows)
    assert result["language"][:] == ["sw", "en", "zh"] and result["parallel_id"][:] == ["12", "12", "a-b"]
    assert find_pivots(result).tolist() == [1, -1, -1]
    assert_texts_shared(result, rows, small=2)
    assert list(split_id(stream(rows))) == list(result)
    assert list(split_id(rows.select([2, 0]))) == [result[2], result[0]]
    pattern = r"(?P<source>\w+)/(?P<id>\d+)/(?P<language>\w+)"
    result = split_id(DatasetDict({"train": Dataset.from_dict({"id": ["gsm/12/sw", "gsm/12/en"]})}), pattern=pattern)
    assert next(iter(result["train"])) == {"id": "12", "source": "gsm", "language": "sw"}
    assert find_pivots(result["train"], parallel_id_column=["source", "id"]).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ({"id": ["sw-1", "12", None]}, {}, ValueError, "2 of 3 ids in column 'id' do not match"),
        ({"id": ["sw-1", "12"]}, {}, ValueError, "'12' (row 1)"),
        ({"id": ["sw-1"]}, {"column": "uid"}, ValueError, "no column 'uid'"),
        ({"id": [1]}, {}, TypeError, "holds int64, expected strings"),
        ({"id": ["sw-1"], "language": ["sw"]}, {}, ValueError, "already has a column 'language'"),
        ({"id": ["sw-1"]}, {"pattern": "(.+)-(.+)"}, ValueError, "expected named groups"),
        ({"id": ["sw-1"]}, {"pattern": "(?P<a"}, ValueError, "no regular expression"),
    ],
)
def test_split_id_bad_input(rows, options, error, message):
    with pytest.raises(error) as info:
        split_id(Dataset.from_dict(rows), **options)
    assert message in str(info.value)
    with pytest.raises(error):
        list(split_id(stream(Dataset.from_dict(rows)), **options))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["en", "sw", "th"]), min_size=1, max_size=12), st.booleans())
def test_adjacent_rows_are_brute_force(languages, selected):
    expected, seen, item, wrong = [], {}, -1, None
    for i, language in enumerate(languages):
        if language == "en":
            item, seen = item + 1, {}
        if item < 0:
            wrong = "come before the first pivot"
            break
        if language in seen:
            wrong = wrong or f"Rows {seen[language]} and {i} are both '{language}'"
        seen[language] = i
        expected.append(item)
    dataset = Dataset.from_dict({"language": languages, "text": [str(i) for i in range(len(languages))]})
    if selected:  # the same rows behind an indices mapping
        dataset = Dataset.from_dict({"language": languages[::-1], "text": dataset["text"][:][::-1]}).select(
            range(len(languages) - 1, -1, -1)
        )
    if wrong is not None:
        with pytest.raises(ValueError, match=wrong):
            assign_parallel_id(dataset)
        with pytest.raises(ValueError, match=wrong):
            list(assign_parallel_id(stream(dataset)))
        return
    result = assign_parallel_id(dataset)
    assert result["parallel_id"][:] == expected
    assert find_pivots(result).tolist() == reference_pivots(languages, expected, ["en"])
    assert list(assign_parallel_id(stream(dataset))) == list(result)


def test_adjacent_rows_bad_input():
    rows = Dataset.from_dict({"language": ["en", "sw", None], "parallel_id": [1, 1, 1]})
    with pytest.raises(ValueError, match="already has a column 'parallel_id'"):
        assign_parallel_id(rows)
    with pytest.raises(ValueError, match=r"1 row\(s\) have no language in column 'language', e\.g\. row 2"):
        assign_parallel_id(rows, parallel_id_column="item")
    with pytest.raises(ValueError, match=r"Rows 0 to 1 \(language 'en', 'sw'\).*'English'"):
        assign_parallel_id(rows.select([0, 1]), pivot_language="English", parallel_id_column="item")
    splits = DatasetDict({"train": rows.select([0, 1]), "test": rows.select([0])})
    assert assign_parallel_id(splits, parallel_id_column="item")["train"]["item"][:] == [0, 0]
    source = Counted([{"language": language} for language in ["en", "sw"] * 30])
    numbered = assign_parallel_id(source.stream())
    assert [row["parallel_id"] for row in itertools.islice(numbered, 3)] == [0, 0, 1]
    assert source.taken < 10


def test_a_million_rows():
    """4 million rows in seconds, in the memory of some integers and ids per row: 400 MB of texts are not copied."""
    n, languages = 1_000_000, ["en", "sw", "th", "de"]
    texts = pa.array(["a text of a hundred characters, " * 3 + "end."]).take(pa.array(np.zeros(n, np.int64)))
    rng = np.random.default_rng(0)
    by_language = {x: Dataset(pa.table({"id": pa.array(rng.permutation(n)), "text": texts})) for x in languages}
    wide = Dataset(pa.table({f"{x}_text": texts for x in languages}))
    whole = Dataset(pa.table({"id": pa.array([f"{x}-{i}" for i in range(n // 4) for x in languages]), "text": texts}))
    turns = Dataset(pa.table({"language": pa.array(languages * (n // 4)), "text": texts}))
    for make, rows in (
        (lambda: concatenate_parallel({x: d.select_columns("text") for x, d in by_language.items()}), 4 * n),
        (lambda: concatenate_parallel(by_language, on="id"), 4 * n),
        (lambda: to_long_format(wide, "text"), 4 * n),
        (lambda: split_id(whole), n),
        (lambda: assign_parallel_id(turns), n),
    ):
        before, start = pa.total_allocated_bytes(), time.perf_counter()
        result = make()
        assert time.perf_counter() - start < 30  # a second or two, on a machine that has nothing else to do
        assert len(result) == rows
        assert pa.total_allocated_bytes() - before < 30 * rows  # a text takes 100
        del result


# ---- Published data


def published(folder, languages, tmp_path):
    return {
        language: load_dataset(
            "json", data_files=str(DATA / folder / f"{language}.jsonl"), split="train", cache_dir=str(tmp_path)
        )
        for language in languages
    }


def names_of(folder):
    return sorted((path.stem for path in (DATA / folder).glob("*.jsonl")), key=lambda name: (name != "en", name))


@needs_data
@pytest.mark.parametrize("folder", ["mgsm", "mgsm_cot", "xcopa"])
def test_published_files_by_row_and_by_id(folder, tmp_path):
    datasets = published(folder, names_of(folder), tmp_path)
    n = len(datasets["en"])
    by_row = concatenate_parallel(datasets)
    by_id = concatenate_parallel(datasets, on="id")
    expected = [-1] * n + list(range(n)) * (len(datasets) - 1)
    assert find_pivots(by_row).tolist() == find_pivots(by_id).tolist() == expected
    assert by_row["language"][:] == [language for language in datasets for _ in range(n)]
    assert_texts_shared(by_row, *datasets.values(), small=1)
    shuffled = {language: dataset.shuffle(seed=5) for language, dataset in datasets.items()}
    joined = concatenate_parallel(shuffled, on="id")
    pivots = find_pivots(joined)
    others = np.flatnonzero(pivots >= 0)
    ids = np.asarray(joined["id"][:])
    assert len(others) == n * (len(datasets) - 1) and (ids[others] == ids[pivots[others]]).all()


@needs_data
@pytest.mark.parametrize("columns", [["question"], ["question", "answer"], ["answer"], ["id", "question"]])
def test_published_files_out_of_step(columns, tmp_path):
    datasets = published("mgsm", names_of("mgsm"), tmp_path)
    datasets = {language: dataset.select_columns(columns) for language, dataset in datasets.items()}
    concatenate_parallel(datasets)
    n = len(datasets["en"])
    for language in ["bn", "de", "ja", "te", "zh"]:
        own = datasets[language]
        for rows in (own.shuffle(seed=0), own.select([*range(90), *range(91, n), 90])):
            with pytest.raises(ValueError, match=r"do not look parallel|in another order"):
                concatenate_parallel({"en": datasets["en"], language: rows})
        with pytest.raises(ValueError, match=f"'en' has {n}, '{language}' has {n - 1}"):
            concatenate_parallel({"en": datasets["en"], language: own.select([*range(90), *range(91, n)])})


@needs_data
def test_published_numbers_leave_room(tmp_path):
    """True parallels are far from the alarm, also in windows of a few rows: half of all rows may be replaced first."""
    datasets = published("mgsm", names_of("mgsm"), tmp_path)
    rows = np.arange(len(datasets["en"]))
    english = read_numbers(datasets["en"], rows, ["question"])
    for language, dataset in datasets.items():
        numbers = read_numbers(dataset, rows, ["question"])
        assert find_disagreement(english, numbers, rows, ("en", language)) is None
        sparse = {"question": [own if i % 2 else frozenset(["0"]) for i, own in enumerate(numbers["question"])]}
        assert find_disagreement(english, sparse, rows, ("en", language)) is None


@pytest.mark.parametrize("name", ["formats", "ids", "join", "languages", "position_check"])
def test_docstring_examples(name):
    """The examples run, fences aside."""
    import solar_trl.data

    module = importlib.import_module(f"solar_trl.data.{name}")
    if any(not hasattr(solar_trl.data, n) for n in ("to_long_format", "normalize_languages", "split_id")):
        pytest.skip("not exported")
    runner = doctest.DocTestRunner()
    tests = doctest.DocTestFinder().find(module)
    count = 0
    for test in tests:
        for example in test.examples:
            example.want = example.want.replace("```\n", "")
        runner.run(test)
        count += len(test.examples)
    assert count and not runner.failures
