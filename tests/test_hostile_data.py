"""Datasets as they should not be: each trains right, or is refused with an error that names what is wrong."""

from __future__ import annotations

import gc
import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from helpers import SGD, solar_trainer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import TRANSFORMERS_5, VOCAB_SIZE, tiny_model
from trl import SFTConfig, SFTTrainer

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.data import find_pivots


# Words that no message holds by chance
LANGUAGE, ID = "tongue☃", "clé"
NFC, NFD = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
PROFILE = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(autouse=True, scope="module")
def _cheap_collections():
    """The Trainer collects garbage at each start: what the imports left need not be looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


def values(drawn: st.SearchStrategy, missing: bool = True) -> st.SearchStrategy:
    return st.none() | drawn if missing else drawn


STRINGS = st.sampled_from(["a", "A", " a", "", NFC, NFD, "1", "01", "\x00", "ไทย", "🦆", "a/b", "|", "<b>"])
# kind: (Arrow type, values, whether ids may be of this type)
IDS: dict[str, tuple[str, st.SearchStrategy, bool]] = {
    "integers": ("int64", st.integers(0, 3), True),
    "small integers": ("int8", st.integers(-2, 1), True),
    "huge integers": ("int64", st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**53 + 1]), True),
    "unsigned integers": ("uint64", st.sampled_from([0, 7, 2**53, 2**53 + 1]), True),
    "integers beyond int64": ("uint64", st.sampled_from([2**63, 2**64 - 1]), False),
    "strings": ("string", STRINGS, True),
    "large strings": ("large_string", STRINGS, True),
    "any text": ("string", st.text(max_size=2), True),
    "nothing": ("null", st.none(), True),
    "floats": ("float64", st.sampled_from([0.0, 1.0, 1.5, float("nan"), float("inf")]), False),
    "booleans": ("bool", st.booleans(), False),
    "bytes": ("binary", st.binary(max_size=2), False),
}
USUAL = ["en", "sw"] * 8
KNOWN = st.sampled_from([*USUAL, "eng", "th", "EN", " en", "", "unknown", NFC, NFD, "zh_Hant"])
LANGUAGES: dict[str, tuple[str, st.SearchStrategy, bool]] = {
    "strings": ("string", KNOWN, True),
    "large strings": ("large_string", KNOWN, True),
    "any text": ("string", st.just("en") | st.text(max_size=2), True),
    "nothing": ("null", st.none(), True),
    "integers": ("int64", st.integers(0, 1), False),
    "bytes": ("binary", st.sampled_from([b"en", b"sw"]), False),
}
ARROW = {"float64": pa.float64(), "bool": pa.bool_()}
CONFIGS = st.fixed_dictionaries(
    {
        "pivot_language": st.sampled_from(["en", "en", ["en", "eng"]]),
        "missing_pivot": st.sampled_from([*["keep", "drop"] * 4, "error"]),
        "multiple_pivots": st.sampled_from([*["first", "sample"] * 4, "error"]),
        "truncated_pairs": st.sampled_from(["keep", "keep", "skip"]),
        "max_length": st.sampled_from([None, 1024, 1024, 6]),
        "pivot_batching": st.sampled_from(["grouped", "random"]),
    }
)


@st.composite
def token_lists(draw) -> tuple[list[int], list[int]]:
    """Tokens and labels: empty, of one token, wholly masked, or far longer than `max_length`."""
    length = draw(st.sampled_from([0, 1, 2, 3, 5, 9, 3, 5, 9, 1500]))
    start = draw(st.integers(3, 5))
    tokens = [3 + (start * i) % 300 for i in range(length)]
    masked = draw(st.sampled_from([0, 0, 1, 2, length]))
    return tokens, [-100] * min(masked, length) + tokens[masked:]


TEXTS = st.sampled_from(["", " ", "Jibu ni 7.", "The answer is 7.", "คำตอบคือ 7", "\x00", "<|im_end|>", "7" * 900])


@st.composite
def datasets(draw) -> tuple[Dataset, bool]:
    """A dataset in the long format, and whether languages and ids are of a type that can be paired."""
    size = draw(st.sampled_from([0, 1, 2, 3, 4, *range(5, 13), *range(5, 13)]))
    id_type, ids, good_ids = IDS[draw(st.sampled_from([*IDS, *["integers", "strings", "large strings"] * 10]))]
    language_type, languages, good_languages = LANGUAGES[draw(st.sampled_from([*LANGUAGES, *["strings"] * 30]))]
    missing = draw(st.integers(0, 3)) == 0

    def column(of: st.SearchStrategy) -> list[Any]:
        return draw(st.lists(of, min_size=size, max_size=size))

    columns: dict[str, Any] = {
        LANGUAGE: column(values(languages, missing)),
        ID: column(values(ids, missing)),
    }
    types: dict[str, Any] = {LANGUAGE: language_type, ID: id_type}
    if draw(st.integers(0, 3)):  # most are tokenized
        content = column(token_lists())
        columns["input_ids"], columns["labels"] = [c[0] for c in content], [c[1] for c in content]
        types |= dict.fromkeys(("input_ids", "labels"), pa.list_(pa.int64()))
    else:
        columns["prompt"], columns["completion"] = column(TEXTS), column(TEXTS)
        types |= dict.fromkeys(("prompt", "completion"), "string")
    # Integers beyond 64 signed bits are only refused where there are any
    good_ids = good_ids or (id_type == "uint64" and not any(v is not None for v in columns[ID]))
    # `from_dict` cannot write integers beyond 64 signed bits, but files hold them
    arrays = {name: pa.array(column, ARROW.get(types[name], types[name])) for name, column in columns.items()}
    return Dataset(pa.table(arrays)), good_languages and good_ids


def brute_force(rows: list[dict], config: dict) -> tuple[int, list[int]] | None:
    """
    Pairs, and the rows that are kept, found row by row; `None` for what must be refused. Rows are compared by id in
    Unicode's composed form.
    """
    pivot_languages = (
        [config["pivot_language"]] if isinstance(config["pivot_language"], str) else config["pivot_language"]
    )
    cut = config["max_length"] if config["truncated_pairs"] == "skip" and "input_ids" in (rows or [{}])[0] else None

    def key(row):
        return unicodedata.normalize("NFC", row[ID]) or None if isinstance(row[ID], str) else row[ID]

    def usable(row):
        return "input_ids" not in row or any(label != -100 for label in row.get("labels", row["input_ids"])[1:])

    def is_cut(row):
        return cut is not None and len(row["input_ids"]) >= cut

    pivots: dict[Any, list[dict]] = {}
    for row in rows:
        if row[LANGUAGE] in pivot_languages and key(row) is not None and usable(row):
            pivots.setdefault(key(row), []).append(row)
    others = [row for row in rows if row[LANGUAGE] not in pivot_languages]
    pairs, missing, clash = 0, [], False
    for row in others:
        if not usable(row):
            continue
        candidates = pivots.get(key(row), [])
        if not candidates:
            missing.append(row)
            continue
        whole = [pivot for pivot in candidates if not is_cut(pivot)]
        clash |= "input_ids" in row and any(
            (pivot["input_ids"], pivot.get("labels")) != (whole[0]["input_ids"], whole[0].get("labels"))
            for pivot in whole
        )
        pairs += bool(whole) and not is_cut(row)
    refused = (
        not pairs
        or (clash and config["multiple_pivots"] == "error")
        or (bool(missing) and config["missing_pivot"] == "error")
    )
    dropped = missing if config["missing_pivot"] == "drop" else []
    return None if refused else (pairs, [i for i, row in enumerate(rows) if not any(row is lost for lost in dropped)])


def names_the_fault(message: str) -> bool:
    return any(
        part in message
        for part in (
            f"{LANGUAGE!r}",
            f"{ID!r}",
            f"{LANGUAGE} ",
            f"({ID})",
            f"{ID}=",
            "`max_length",
            "'input_ids'",
            "no rows",
        )
    )


def check_dataset(dataset: Dataset, good: bool, config: dict, tokenizer, folder) -> bool:
    """Train on it with and without alignment and compare; returns whether it could be trained on."""
    options = {
        **SGD,
        "learning_rate": 0.0,
        "max_steps": 1,
        "per_device_train_batch_size": max(len(dataset), 1),
        "max_length": config["max_length"],
        "remove_unused_columns": True,
    }
    plain, expected = None, None
    if good and len(dataset) and brute_force(dataset.to_list(), config) is not None:
        args = SFTConfig(str(folder / "sft"), **options)
        plain = SFTTrainer(tiny_model("qwen3"), args, train_dataset=dataset, processing_class=tokenizer)
        prepared = plain.train_dataset.to_list()
        # TRL's collator makes floats of a row without a token, and its model fails on them
        if all(row["input_ids"] for row in prepared):
            expected = brute_force(prepared, config)
    try:
        trainer = solar_trainer(
            tiny_model("qwen3"),
            dataset,
            tokenizer,
            folder,
            config={**options, **config, "language_column": LANGUAGE, "parallel_id_column": ID},
        )
    except (ValueError, TypeError) as error:
        assert expected is None, f"{expected} but: {error}"
        assert names_the_fault(str(error)), str(error)
        return False
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} for {dataset.to_dict()}: {error}") from error
    assert expected is not None, f"trains, but should not: {trainer._pairs.reports}"
    pairs, kept = expected
    assert len(trainer.train_dataset) == len(kept)
    plain.train_dataset = plain.train_dataset.select(kept)
    plain.train()
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["aligned_pairs"] == pairs
    if TRANSFORMERS_5:  # transformers 4 divides the loss that it logs for a window cut short
        assert log["sft_loss"] == pytest.approx(plain.state.log_history[0]["loss"], rel=1e-4)
    assert log["num_tokens"] == plain.state.log_history[0]["num_tokens"]
    return True


@pytest.mark.parametrize("examples", [60, pytest.param(800, marks=pytest.mark.slow)])
def test_any_dataset(examples, tokenizer, folder):
    trained: list[bool] = []

    # The short run always draws the same: now and then, sixty at random are all refused
    @settings(max_examples=examples, derandomize=examples == 60, **PROFILE)
    @given(datasets(), CONFIGS)
    def check(drawn, config):
        trained.append(check_dataset(*drawn, config, tokenizer, folder))

    check()
    # The property is not met by refusing everything, nor tested by asking for nothing
    assert 0 < sum(trained) < len(trained)


@st.composite
def keyed(draw, languages: list[str | None]) -> Dataset:
    kind, ids, _ = IDS[draw(st.sampled_from(["integers", "small integers", "strings", "large strings", "nothing"]))]
    size = draw(st.integers(0, 8))
    columns = {
        LANGUAGE: draw(st.lists(st.sampled_from(languages), min_size=size, max_size=size)),
        ID: draw(st.lists(values(ids), min_size=size, max_size=size)),
        "text": [str(i) for i in range(size)],
    }
    features = Features({LANGUAGE: Value("string"), ID: Value(kind), "text": Value("string")})
    return Dataset.from_dict(columns, features=features)


@settings(max_examples=200, **PROFILE)
@given(keyed(["sw", "th", "en", None]), keyed(["en"]), st.booleans())
def test_any_two_datasets(rows, pivots, named):
    """A separate pivot dataset, with and without its language column, ids of any two types."""
    kinds = {
        {"null": None}.get(kind, "string" if "string" in kind else "int")
        for kind in (rows.features[ID].dtype, pivots.features[ID].dtype)
    }
    source = pivots if named else pivots.remove_columns(LANGUAGE)
    try:
        found = find_pivots(rows, LANGUAGE, ID, "en", source, multiple_pivots="first")
    except ValueError as error:
        assert len(kinds - {None}) == 2 and f"{ID!r}" in str(error) and "differ in type" in str(error)
        return
    assert len(kinds - {None}) < 2

    def key(value):
        return unicodedata.normalize("NFC", value) or None if isinstance(value, str) else value

    expected = [
        -1
        if row[LANGUAGE] == "en" or key(row[ID]) is None
        else next((i for i, pivot in enumerate(pivots) if key(pivot[ID]) == key(row[ID])), -1)
        for row in rows
    ]
    assert found.tolist() == expected


def rows_of(**columns) -> dict[str, list]:
    """Two items in two languages, with some columns replaced."""
    tokens = [[5, 6, 7], [8, 9], [10, 11, 12], [13, 14]]
    return {LANGUAGE: ["en", "sw", "en", "sw"], ID: [1, 1, 2, 2], "input_ids": tokens, "labels": tokens, **columns}


def trained_pairs(dataset, tokenizer, folder, **config) -> float:
    trainer = solar_trainer(
        tiny_model("qwen3"),
        dataset,
        tokenizer,
        folder,
        config={
            "max_steps": 1,
            "per_device_train_batch_size": 4,
            "language_column": LANGUAGE,
            "parallel_id_column": ID,
            **config,
        },
    )
    trainer.train()
    return trainer.state.log_history[0]["aligned_pairs"]


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_an_empty_language_shifts_no_other(kind, tokenizer, folder):
    """The language of a row is never read as that of another, whatever the type of the column."""
    data = rows_of(**{LANGUAGE: ["", "en", "sw", "en"], ID: [3, 1, 1, 2]})
    dataset = Dataset.from_dict(data).cast_column(LANGUAGE, Value(kind))
    assert find_pivots(dataset, LANGUAGE, ID).tolist() == [-1, -1, 1, -1]
    assert trained_pairs(dataset, tokenizer, folder) == 1


@pytest.mark.parametrize("kind", ["string", "large_string"])
def test_ids_that_read_the_same(kind, tokenizer, folder):
    """Composed and decomposed letters are the same id, as they are in `carry_pivots` and `to_long_format`."""
    dataset = Dataset.from_dict(rows_of(**{ID: [NFC, NFD, "b", "b"]})).cast_column(ID, Value(kind))
    assert trained_pairs(dataset, tokenizer, folder) == 2


def test_chunked_and_dictionary_columns(tokenizer, folder):
    """As Parquet and pandas leave them: several chunks, whose dictionaries differ."""
    one, two = (pa.array(x).dictionary_encode() for x in (["en", "sw"], ["sw", "en"]))
    keys = pa.chunked_array([[1, 1], [2, 2]])
    ids = pa.chunked_array([[[5, 6, 7], [8, 9]], [[10, 11], [12, 13]]])
    table = pa.table({LANGUAGE: pa.chunked_array([one, two]), ID: keys, "input_ids": ids, "labels": ids})
    assert find_pivots(Dataset(table), LANGUAGE, ID).tolist() == [-1, 0, 3, -1]


@pytest.mark.parametrize("label", [0, None, -1])
def test_class_labels(label, tokenizer, folder):
    """A language column of class labels; -1 and null are what datasets call unlabelled."""
    data = rows_of(**{LANGUAGE: [1, 0, 1, label]})
    features = Features(
        {
            LANGUAGE: ClassLabel(names=["sw", "en"]),
            ID: Value("int64"),
            "input_ids": Sequence(Value("int64")),
            "labels": Sequence(Value("int64")),
        }
    )
    assert trained_pairs(Dataset.from_dict(data, features=features), tokenizer, folder) == 2


def test_several_id_columns_of_several_types(tokenizer, folder):
    """No two combinations are mistaken for each other, and a missing part pairs with nothing."""
    data = rows_of(**{ID: [1, 1, 11, 1], "part": ["1", "11", "", None]})
    data["part"][0] = "11"
    assert trained_pairs(Dataset.from_dict(data), tokenizer, folder, parallel_id_column=[ID, "part"]) == 1


# column, its values, what the message must name
CONTENT = [
    ("input_ids", [["a"], ["b"], ["c"], ["d"]]),
    ("input_ids", [5, 6, 7, 8]),
    ("input_ids", [[5.5, 6.0], [7.0, 8.0], [9.0, 1.0], [2.0, 3.0]]),
    ("input_ids", [[5, None], [6, 7], [8, 9], [10, 11]]),
    ("input_ids", [[5, 6], None, [8, 9], [10, 11]]),
    ("input_ids", [[], [5, 6], [8, 9], [10, 11]]),
    ("input_ids", [[5, 6], [VOCAB_SIZE, 7], [8, 9], [10, 11]]),
    ("input_ids", [[5, 6], [-1, 7], [8, 9], [10, 11]]),
    ("labels", [[5, 6, 7], [8, 9], [10], [13, 14]]),
    ("labels", ["a", "b", "c", "d"]),
    ("labels", [[5, 6, 7], [8, VOCAB_SIZE], [10, 11, 12], [13, 14]]),
    ("completion", [7, 7, 7, 7]),
    ("completion", ["x", None, "y", "z"]),
    ("completion", [["x"], ["y"], ["z"], ["w"]]),
    ("prompt", ["x", None, "y", "z"]),
    ("prompt", [b"x", b"y", b"z", b"w"]),
    ("text", [1, 2, 3, 4]),
    ("text", ["x", None, "y", "z"]),
    ("messages", ["x", "y", "z", "w"]),
    ("messages", [[{"role": "user"}]] * 4),
    ("messages", [[{"role": "user", "content": None}]] * 4),
    ("messages", [[], [], [], []]),
    ("messages", [None, None, None, None]),
]


@pytest.mark.parametrize(("column", "content"), CONTENT, ids=lambda value: str(value)[:40])
def test_wrong_content(column, content, tokenizer, folder):
    """Columns that the model reads, of a wrong type: named, before the first step."""
    data = rows_of()
    if column not in ("input_ids", "labels"):
        del data["input_ids"], data["labels"]
        if column in ("prompt", "completion"):
            data |= {"prompt": ["p"] * 4, "completion": ["c"] * 4}
    data[column] = content
    if content[0] == []:
        data["labels"] = content
    with pytest.raises((ValueError, TypeError)) as info:
        trained_pairs(Dataset.from_dict(data), tokenizer, folder, max_length=None)
    assert any(name in str(info.value) for name in (f"{column!r}", f" {column}=", f"({column}=")), str(info.value)


def test_no_content(tokenizer, folder):
    """Neither tokens nor texts under a name that TRL knows."""
    data = {LANGUAGE: ["en", "sw"], ID: [1, 1], "body": ["One.", "Moja."]}
    with pytest.raises((ValueError, TypeError), match="body"):
        trained_pairs(Dataset.from_dict(data), tokenizer, folder)


def test_rows_that_trl_drops_are_counted(tokenizer, folder, caplog):
    """TRL leaves out rows of which truncation leaves no response, and says nothing."""
    tokens = [[5, 6, 7], [8, 9], [10] * 9, [13, 14]]
    labels = [[5, 6, 7], [8, 9], [-100] * 8 + [10], [13, 14]]
    dataset = Dataset.from_dict(rows_of(input_ids=tokens, labels=labels))
    assert trained_pairs(dataset, tokenizer, folder) == 2
    assert "without a token to learn" not in caplog.text
    assert trained_pairs(dataset, tokenizer, folder, max_length=6) == 1
    assert "1 of the 4 rows of the train dataset" in caplog.text and "without a token to learn" in caplog.text
    late = Dataset.from_dict(rows_of(input_ids=[[10] * 9] * 4, labels=[[-100] * 8 + [10]] * 4))
    with pytest.raises(ValueError, match="4 of the 4 rows of the train dataset are left out"):
        trained_pairs(late, tokenizer, folder, max_length=6)


def test_one_row_and_none(tokenizer, folder):
    for size in (0, 1):
        dataset = Dataset.from_dict(rows_of()).select(range(size))
        with pytest.raises(ValueError) as info:
            trained_pairs(dataset, tokenizer, folder)
        assert names_the_fault(str(info.value))
    args = SolarSFTConfig(str(folder), report_to="none", use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match="no column"):
        SolarSFTTrainer(tiny_model("qwen3"), args, train_dataset=Dataset.from_list([]), processing_class=tokenizer)
