"""Data recipes against brute force: tables and streams, every format, and what becomes of the pairs."""

import copy
import doctest
import importlib
import itertools
import json
import pkgutil
import random
import re
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from solar_trl.data import PairingColumns, carry_pivots, find_pivots, resolve_pairs
from solar_trl.data import recipes as package
from solar_trl.data.recipes import (
    add_romanized,
    answer_in_other_language,
    code_switch,
    mix_translation,
    romanized_label,
    sample_pivot_ratio,
    shuffle_parallels,
)


NAMES = {"en": "English", "eng": "English", "sw": "Swahili", "th": "Thai", "de": "German", "hi": "Hindi"}
FORMATS = ["text", "messages", "prompt_messages", "conversations", "parts"]


def turn(role, text, form):
    if form == "conversations":
        return {"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text}
    return {"role": role, "content": [{"type": "text", "text": text}] if form == "parts" else text}


def row_of(question, answer, language, parallel_id, form="text"):
    row = {"language": language, "parallel_id": parallel_id, "source": "made"}
    if form == "text":
        return {"prompt": question, "completion": answer, **row}
    system = turn("system", "Think first.", form)
    before = [turn("user", "Ready?", form), turn("assistant", "Yes.", form)]
    asked, answered = turn("user", question, form), turn("assistant", answer, form)
    if form == "prompt_messages":
        return {"prompt": [system, *before, asked], "completion": [answered], **row}
    return {"conversations" if form == "conversations" else "messages": [system, *before, asked, answered], **row}


def content(message):
    value = message.get("content") or message.get("value")
    return value if isinstance(value, str) else "".join(part["text"] for part in value)


def texts_of(row):
    """The texts of all turns: those before the last question, the question, the answer."""
    if isinstance(row.get("prompt"), str):
        return [], row["prompt"], row["completion"]
    turns = [*(row.get("prompt") or []), *(row.get("completion") or [])] or row.get("messages") or row["conversations"]
    texts = [content(message) for message in turns]
    return texts[:-2], texts[-2], texts[-1]


def rows_of(items, form="text"):
    """One row per language of each item, all texts different."""
    return [
        row_of(f"Q {number}.{i} {{x}}", f"A {number}.{i}", language, parallel_id, form)
        for number, (parallel_id, languages) in enumerate(items)
        for i, language in enumerate(languages)
    ]


def stream_of(rows, num_shards=1):
    """A stream whose shards hold whole items; without features, and each row handed out is the caller's."""
    runs = [list(run) for _, run in itertools.groupby(enumerate(rows), lambda pair: _run(pair))]
    runs = [[row for _, row in run] for run in runs]

    def read(shards):
        for shard in shards:
            yield from (copy.deepcopy(row) for run in shard for row in json.loads(run))

    shards = [tuple(json.dumps(run) for run in runs[i::num_shards]) for i in range(num_shards)]
    return IterableDataset.from_generator(read, gen_kwargs={"shards": shards})


def _run(pair):
    i, row = pair
    return (row["parallel_id"], None) if row["parallel_id"] not in (None, "") else (None, i)


def frozen(row):
    return json.dumps(row, sort_keys=True, ensure_ascii=False)


def bag(rows):
    return Counter(frozen(row) for row in rows)


def read_all(dataset, workers=0):
    if isinstance(dataset, IterableDataset) and workers:
        return list(DataLoader(dataset, batch_size=None, num_workers=workers))
    return list(dataset)


def added(rows, result):
    """The rows that were added; none is missing."""
    before, after = bag(rows), bag(result)
    assert not before - after
    return [json.loads(row) for row in (after - before).elements()]


ITEMS = [(i, ["en", "sw", "th", "de"][i % 2 : 2 + i % 3]) for i in range(40)]
FULL = [(f"q{i}", ["en", "sw", "th", "de"]) for i in range(300)]
CALLS = {
    "answer": lambda rows, **o: answer_in_other_language(rows, 0.7, repeats=2, p_src=0.3, language_names=NAMES, **o),
    "translate": lambda rows, **o: mix_translation(rows, 0.6, language_names=NAMES, **o),
    "switch": lambda rows, **o: code_switch(rows, {"en": {"q": ["x", "y"]}, "sw": {"q": "z"}}, 0.5, **o),
    "romanize": lambda rows, **o: add_romanized(
        rows, lambda text, _: text.upper(), languages=["th"], **{k: v for k, v in o.items() if k != "seed"}
    ),
    "placebo": lambda rows, **o: shuffle_parallels(rows, **o),
    "ratio": lambda rows, **o: sample_pivot_ratio(
        rows, 0.6, current_ratio=0.25 if isinstance(rows, IterableDataset) else None, **o
    ),
}


# ---- What all recipes have in common


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["answer", "translate", "switch", "romanize"])
def test_tables_streams_and_workers_agree(name, form):
    """The same rows from a table, a stream, shards, workers and any order; nothing handed in changes."""
    rows = rows_of(ITEMS, form)
    table = Dataset.from_list(rows)
    result = CALLS[name](table)
    assert list(table) == rows and result.features == table.features
    expected = bag(result)
    assert expected != bag(rows)
    shuffled = ITEMS[:]
    random.Random(1).shuffle(shuffled)
    by_item = {row["parallel_id"]: [r for r in rows if r["parallel_id"] == row["parallel_id"]] for row in rows}
    other_order = [row for parallel_id, _ in shuffled for row in by_item[parallel_id]]
    assert bag(CALLS[name](Dataset.from_list(other_order))) == expected
    for stream, workers in [
        (stream_of(rows), 0),
        (stream_of(rows, 3), 2),
        (stream_of(other_order, 4), 2),
        (table.to_iterable_dataset(), 0),
    ]:
        found = CALLS[name](stream)
        assert found.features == stream.features
        assert bag(read_all(found, workers)) == expected
    assert bag(CALLS[name](table, seed=5)) != expected or name == "romanize"


@pytest.mark.parametrize("name", CALLS)
def test_splits_formats_of_the_table_and_class_labels(name):
    rows = rows_of(ITEMS)
    table = Dataset.from_list(rows)
    splits = CALLS[name](DatasetDict(train=table, test=table))
    assert isinstance(splits, DatasetDict) and bag(splits["test"]) == bag(CALLS[name](table))
    shown = CALLS[name](table.with_format("numpy", columns=["parallel_id"]))
    assert shown.format["type"] == "numpy" and shown.format["columns"] == ["parallel_id"]
    assert bag(shown.with_format(None)) == bag(CALLS[name](table))
    labels = table.cast_column("language", ClassLabel(names=["de", "en", "sw", "th"]))
    result = CALLS[name](labels)
    if isinstance(result.features["language"], ClassLabel):
        result = result.cast_column("language", Value("string")).map(
            lambda row: {"language": labels.features["language"].int2str(int(row["language"]))}
        )
    assert bag(result) == bag(CALLS[name](table))
    if name != "ratio":
        assert bag(CALLS[name](labels.to_iterable_dataset())) == bag(CALLS[name](table.to_iterable_dataset()))
    # A view of a larger table
    view = (
        Dataset.from_list([*rows_of([("x", ["en", "sw"])]), *rows][::-1]) if False else table.select(range(80)[::-1])
    )
    again = Dataset.from_list(list(view))
    assert bag(CALLS[name](view)) == bag(CALLS[name](again))


@pytest.mark.parametrize("name", CALLS)
def test_several_id_columns(name):
    """Two sources whose ids collide are what they would be under one id."""
    rows = [
        {**row, "source": source, "prompt": f"{source} {row['prompt']}"}
        for source in "ab"
        for row in rows_of(ITEMS[:20])
    ]
    result = CALLS[name](Dataset.from_list(rows), parallel_id_column=["source", "parallel_id"])
    joined = [{**row, "parallel_id": f"{row['source']}/{row['parallel_id']}"} for row in rows]
    expected = CALLS[name](Dataset.from_list(joined))
    parts = [
        {**row, "parallel_id": None if row["parallel_id"] is None else f"{row['source']}/{row['parallel_id']}"}
        for row in result
    ]
    if name == "placebo":  # the source is part of the id, so it moves along
        expected = [{**row, "source": row["parallel_id"].split("/")[0]} for row in expected]
    assert bag(parts) == bag(expected)


@pytest.mark.parametrize("name", ["answer", "translate", "switch", "romanize"])
def test_what_cannot_be_read_is_refused(name):
    keys = {"language": ["en", "sw"], "parallel_id": [1, 1]}
    for columns, message in [
        ({"text": ["a", "b"]}, "does not say what is input"),
        ({"input_ids": [[1], [2]]}, "tokenized already"),
        ({"question": ["a", "b"]}, "rename the columns to 'prompt'"),
        ({"prompt": ["a", "b"]}, "rename the columns"),
    ]:
        table = Dataset.from_dict({**keys, **columns})
        for rows in (table, table.to_iterable_dataset()):
            with pytest.raises(ValueError, match=message):
                CALLS[name](rows)
    with pytest.raises(TypeError, match="Expected a Dataset"):
        CALLS[name]([1])
    wrong = Dataset.from_dict({**keys, "prompt": [1, 2], "completion": ["a", "b"]})
    with pytest.raises(
        TypeError,
        match=r"The row language='(en|sw)', parallel_id=1: Column 'prompt' holds [12]: neither text",
    ):
        whole = {"answer": answer_in_other_language, "translate": lambda rows: mix_translation(rows, 1.0)}
        whole |= {
            "switch": lambda rows: code_switch(rows, WORDS),
            "romanize": lambda rows: add_romanized(rows, languages=["sw"], romanize=max),
        }
        whole[name](wrong)


@pytest.mark.parametrize("name", CALLS)
def test_missing_columns_and_carried_pivots(name):
    rows = Dataset.from_list(rows_of(ITEMS))
    for column in ("language", "parallel_id"):
        with pytest.raises(ValueError, match=f"no column '{column}'"):
            CALLS[name](rows.remove_columns(column))
    carried = carry_pivots(rows.to_iterable_dataset())
    if name == "ratio":
        assert len(list(CALLS[name](carried))) > len(rows)
    else:
        with pytest.raises(ValueError, match="before `carry_pivots`"):
            CALLS[name](carried)


@pytest.mark.parametrize("name", CALLS)
def test_the_result_pairs(name):
    """Nothing is ambiguous, and every row with an id meets a pivot of its id, in tables and streams."""
    items = [(i, ["en", "sw", "th", "de"]) for i in range(60)]
    table = Dataset.from_list(rows_of(items))
    result = CALLS[name](table)
    pivots = find_pivots(result)
    report = resolve_pairs(result, PairingColumns(), "train dataset").report
    for row, pivot in zip(result, pivots, strict=True):
        paired = row["language"] != "en" and row["parallel_id"] is not None
        assert (pivot >= 0) == paired
        assert not paired or (result[int(pivot)]["parallel_id"], result[int(pivot)]["language"]) == (
            row["parallel_id"],
            "en",
        )
    assert report.pairs == int((pivots >= 0).sum()) >= 180
    stream = CALLS[name](stream_of(rows_of(items), 3))
    for row in read_all(carry_pivots(stream), 2):
        assert (row["pivot"] is not None) == (row["language"] != "en" and row["parallel_id"] is not None)
        assert row["pivot"] is None or row["pivot"]["parallel_id"] == row["parallel_id"]


def test_stream_rows_share_nothing():
    """TRL changes messages in place."""
    for name in ("answer", "translate", "romanize", "placebo", "ratio"):
        seen = []
        for row in CALLS[name](stream_of(rows_of(ITEMS, "messages"))):
            seen += [id(row["messages"]), *map(id, row["messages"])]
            seen.append(row)  # kept alive, so that no address comes again
        addresses = [value for value in seen if isinstance(value, int)]
        assert len(set(addresses)) == len(addresses), name


@pytest.mark.parametrize("name", ["answer", "translate", "switch"])
def test_ids_of_numpy_draw_alike(name):
    rows = rows_of(ITEMS)
    stream = IterableDataset.from_generator(
        lambda: ({**row, "parallel_id": np.int64(row["parallel_id"])} for row in rows)
    )
    found = [
        {**row, "parallel_id": None if row["parallel_id"] is None else int(row["parallel_id"])}
        for row in CALLS[name](stream)
    ]
    assert bag(found) == bag(CALLS[name](Dataset.from_list(rows)))


def test_an_unpicklable_function_and_an_empty_table():
    with open(__file__, encoding="utf-8") as handle:  # what has an open file cannot be pickled
        rows = add_romanized(
            Dataset.from_list(rows_of(ITEMS)), lambda text, _: text + handle.name[:0] + "!", languages=["th"]
        )
    assert len(rows) > len(rows_of(ITEMS))
    empty = Dataset.from_list(rows_of(ITEMS)).select([])
    for name in ("answer", "translate", "switch", "romanize"):
        assert len(CALLS[name](empty)) == 0


# ---- Answers in another language


DIRECTIONS = {
    "any": lambda a, b: True,
    "en2x": lambda a, b: a == "en" and b != "en",
    "x2en": lambda a, b: a != "en" and b == "en",
    "x2x": lambda a, b: "en" not in (a, b),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_answers_against_brute_force(direction, form):
    items = [(i, ["en", "sw", "th", "de", "sw"][i % 2 : 2 + i % 4]) for i in range(60)]
    rows = rows_of(items, form)
    new = added(
        rows, answer_in_other_language(Dataset.from_list(rows), direction=direction, repeats=3, language_names=NAMES)
    )
    legal, chosen = defaultdict(set), set()
    for row, other in itertools.product(rows, rows):
        a, b = row["language"], other["language"]
        if row["parallel_id"] == other["parallel_id"] and a != b and DIRECTIONS[direction](a, b):
            question, answer = texts_of(row)[1], texts_of(other)[2]
            legal[f"{question}\nAnswer in {NAMES[b]}.", answer].add((b, None if b == "en" else row["parallel_id"]))
            chosen.add(texts_of(row)[1])
    assert len(new) == 3 * len(chosen) > 30
    for row in new:
        before, question, answer = texts_of(row)
        assert (row["language"], row["parallel_id"]) in legal[question, answer] and row["source"] == "made"
        assert before == texts_of(rows[0])[0]
    assert len({texts_of(row)[1:] for row in new}) > len(chosen) or direction in ("x2en",)


def test_shares_and_probabilities():
    rows = rows_of([(i, ["en", "sw", "th", "de"]) for i in range(1500)])
    new = added(
        rows, answer_in_other_language(Dataset.from_list(rows), 0.4, p_src=0.5, repeats=2, language_names=NAMES)
    )
    per_row = Counter(texts_of(row)[1].split("\n")[0] for row in new)
    assert set(per_row.values()) == {2} and abs(len(per_row) / len(rows) - 0.4) < 0.03
    language = {texts_of(row)[1]: row["language"] for row in rows}
    pairs = Counter((language[texts_of(row)[1].split("\n")[0]], row["language"]) for row in new)
    for a, b in itertools.product(["en", "sw", "th", "de"], repeat=2):
        expected = len(new) / 4 * (0.5 if a == b else 0.5 / 3)
        assert abs(pairs[a, b] - expected) < 5 * expected**0.5
    # Repeats are drawn one by one
    both = defaultdict(list)
    for row in new:
        both[texts_of(row)[1].split("\n")[0]].append(row["language"])
    assert 0.2 < sum(a == b for a, b in both.values()) / len(both) < 0.5


def test_pivot_aliases_missing_ids_and_languages():
    spec = [("eng", 1), ("en", 1), ("sw", 1), (None, 1), ("sw", None), ("en", None), ("en", ""), ("sw", "")]
    rows = [row_of(f"Q{i}", f"A{i}", language, None if n is None else str(n)) for i, (language, n) in enumerate(spec)]
    new = added(
        rows,
        answer_in_other_language(
            Dataset.from_list(rows), p_src=0.0, pivot_language=["en", "eng"], repeats=9, language_names=NAMES
        ),
    )
    # Row 3 has no language and rows 4 to 7 no id; the two names of the pivot language are one
    pairs = {(row["prompt"][1], row["completion"][1], row["parallel_id"]) for row in new}
    assert pairs == {("0", "2", "1"), ("1", "2", "1"), ("2", "0", None), ("2", "1", None)} and len(new) == 27
    options = {"p_src": 1.0, "pivot_language": ["en", "eng"], "language_names": NAMES}
    new = added(rows, answer_in_other_language(Dataset.from_list(rows), **options))
    assert sorted((row["prompt"][1], row["parallel_id"]) for row in new) == [("0", None), ("1", None), ("2", "1")]


def test_templates_names_and_tool_turns():
    rows = Dataset.from_list(rows_of([(1, ["en", "sw"])]))
    found = answer_in_other_language(rows, direction="en2x", template="[{code}] {prompt}")
    assert found[2]["prompt"] == "[sw] Q 0.0 {x}"
    pytest.importorskip("langcodes")
    found = answer_in_other_language(
        Dataset.from_list(rows_of([(1, ["en", "swh_Latn"]), (2, ["en", "zh-Hant"])])), direction="en2x"
    )
    assert [row["prompt"].split("\n")[1] for row in list(found)[4:]] == [
        "Answer in Swahili.",
        "Answer in Chinese (Traditional).",
    ]
    with pytest.raises(ValueError, match=r"language_names=\{'xx1': 'Swahili'\}"):
        answer_in_other_language(Dataset.from_list(rows_of([(1, ["en", "xx1"])])))
    # What follows the last user turn is the answer, calls of tools included; turns before are the prompt's
    asked = [{"role": "user", "content": "Sum?"}]
    used = [
        {"role": "assistant", "content": "call"},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "Ni 4."},
    ]
    chat = [
        {"messages": [*asked, {"role": "assistant", "content": "4."}], "language": "en", "parallel_id": 1},
        {"messages": [{"role": "user", "content": "Jumla?"}, *used], "language": "sw", "parallel_id": 1},
    ]
    found = answer_in_other_language(Dataset.from_list(chat), direction="en2x", language_names=NAMES)
    assert found[2]["messages"] == [{"role": "user", "content": "Sum?\nAnswer in Swahili."}, *used]


def test_names_without_the_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "langcodes", None)
    package.names._english_name.cache_clear()
    with pytest.raises(ImportError, match=r"solar-trl\[data\].*language_names=\{'sw'"):
        answer_in_other_language(Dataset.from_list(rows_of([(1, ["en", "sw"])])), direction="en2x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "`share` is 0, expected a number above 0"),
        ({"share": 1.5}, "`share` is 1.5"),
        ({"share": float("nan")}, "`share` is nan"),
        ({"p_src": -0.1}, "`p_src` is -0.1"),
        ({"p_src": True}, "`p_src` is True"),
        ({"repeats": 0}, "`repeats` is 0"),
        ({"direction": "x2y"}, "`direction` is 'x2y', expected 'any' or 'en2x'"),
        ({"template": "{prompt}"}, "expected `{prompt}`, and `{language}` or `{code}`"),
        ({"template": "{prompt} {language} {x}"}, "expected `{prompt}`"),
        ({"template": "{prompt"}, "no template"),
    ],
)
def test_wrong_options_of_answers(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        answer_in_other_language(Dataset.from_list(rows_of(ITEMS)), **options)


def test_nothing_to_answer_is_an_error_and_a_part_is_logged(caplog):
    with pytest.raises(ValueError, match=r"of 2 row\(s\) that were chosen, none has the parallel"):
        answer_in_other_language(Dataset.from_list(rows_of([(1, ["sw"]), (2, ["th"])])), language_names=NAMES)
    with caplog.at_level("INFO", "solar_trl"):
        answer_in_other_language(Dataset.from_list(rows_of([(1, ["en", "sw"]), (2, ["th"])])), language_names=NAMES)
    assert "2 rows added to 3 (1 lacked a parallel)" in caplog.text


def test_conversations_that_lack_a_turn():
    def chat(*roles):
        return [{"role": role, "content": "x"} for role in roles]

    for turns, message in [(chat("assistant"), "no user turn"), (chat("user"), "no answer to the last user turn")]:
        rows = [{"messages": turns, "language": x, "parallel_id": 1} for x in ("en", "sw")]
        with pytest.raises(ValueError, match=message):
            answer_in_other_language(Dataset.from_list(rows), language_names=NAMES)
    picture = [{"role": "user", "content": [{"type": "image"}]}, *chat("assistant")]
    with pytest.raises(ValueError, match="has no text"):
        list(
            answer_in_other_language(
                stream_of([{"messages": picture, "language": x, "parallel_id": 1} for x in ("en", "sw")]),
                language_names=NAMES,
            )
        )


# ---- Translation


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("field", ["prompt", "completion"])
@pytest.mark.parametrize("direction", ["x2en", "en2x", "both"])
def test_translation_against_brute_force(direction, field, form):
    items = [(i, ["en", "sw", "th", "de"][i % 2 :]) for i in range(40)]
    rows = rows_of(items, form)
    template = "{source}>{target}: {text}"
    result = mix_translation(Dataset.from_list(rows), 1.0, direction, field, template, NAMES)
    new = added(rows, result)
    which = 1 if field == "prompt" else 2
    legal = {}
    for row, other in itertools.product(rows, rows):
        a, b = row["language"], other["language"]
        if row["parallel_id"] == other["parallel_id"] and (a == "en") != (b == "en"):
            asked = f"{NAMES[a]}>{NAMES[b]}: {texts_of(row)[which]}"
            legal[asked, texts_of(other)[which]] = (b, f"{min(a, b, key='en'.__ne__)}", a if a != "en" else b)
    keys = Counter()
    for row in new:
        before, asked, answered = texts_of(row)
        b, _, x = legal[asked, answered]
        assert before == [] and row["language"] == b and row["parallel_id"] is None
        keys[x, asked.split(": ")[1].split(".")[0] if b == "en" else answered.split(".")[0]] += 1
        assert direction == "both" or (b == "en") == (direction == "x2en")
    assert len(new) == 60 and set(keys.values()) == {1}  # each row with a pivot gives one
    assert direction != "both" or 15 < sum(row["language"] == "en" for row in new) < 45
    if form not in ("text", "prompt_messages"):
        column = "conversations" if form == "conversations" else "messages"
        names = [message.get("role") or message.get("from") for message in new[0][column]]
        assert names == (["human", "gpt"] if form == "conversations" else ["user", "assistant"])


def test_translation_ratio_and_report():
    rows = rows_of([(i, ["en", "sw", "th", "de", "hi"]) for i in range(800)])
    result = mix_translation(Dataset.from_list(rows), 0.25, language_names=NAMES)
    new = len(result) - len(rows)
    assert abs(new / len(result) - 1 / 6) < 0.015
    report = resolve_pairs(result, PairingColumns(), "train dataset").report
    into_others = sum(row["language"] != "en" for row in added(rows, result))
    assert report.pairs == 3200 and report.unpaired == into_others
    # The pivots are those that were there
    assert [row for row in find_pivots(result) if row >= 0] == [
        row for row in find_pivots(Dataset.from_list(rows)) if row >= 0
    ]


def test_translation_skips_the_empty_and_says_so(caplog):
    rows = rows_of([(1, ["en", "sw"]), (2, ["en", "sw"]), (3, ["th"])])
    rows[1]["prompt"] = " "
    with caplog.at_level("INFO", "solar_trl"):
        assert len(added(rows, mix_translation(Dataset.from_list(rows), 1.0, language_names=NAMES))) == 1
    assert "1 rows added to 5 (1 lacked a parallel, 1 gave nothing new)" in caplog.text
    with pytest.raises(ValueError, match="none has the parallel"):
        mix_translation(Dataset.from_list(rows_of([(1, ["sw"])])), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "`ratio` is 0"),
        ({"direction": "any"}, "`direction` is 'any', expected 'x2en'"),
        ({"field": "text"}, "`field` is 'text', expected 'prompt'"),
        ({"template": "{source}"}, "expected `{text}`"),
        ({"template": "{text}}"}, "no template"),
    ],
)
def test_wrong_options_of_translation(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mix_translation(Dataset.from_list(rows_of(ITEMS)), **options)


# ---- Code-switching


WORDS = {
    "en": {
        "apple": "tofaa",
        "apples": "matofaa",
        "ice cream": "aiskrimu",
        "Monday": "Jumatatu",
        "US": "Marekani",
        "2": "mbili",
        "x2": "y",
    },
    "de": {"straße": "street", "öl": "oil", "und": "and"},
    "hi": {"हिन्दी": "Hindi", "कि": "that"},
    "zh": {"苹果": "apple", "苹": "x", "三": "three"},
    "th": {"แมว": "cat", "แม": "x"},
    "ko": {"사과": "apple"},
    "ar": {"كتاب": "book"},
    "fr": {"aujourd'hui": "today", "l'eau": "water"},
}


def switch(text, language, p=1.0):
    rows = Dataset.from_dict({"language": [language], "parallel_id": [1], "prompt": [text], "completion": [text]})
    row = code_switch(rows, WORDS, p)[0]
    assert row["completion"] == text
    return row["prompt"]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "2 x2 apple", "2 x2 tofaa"),
        ("en", "An apple, 3 apples, pineapple", "An tofaa, 3 matofaa, pineapple"),
        ("en", "APPLE Apple aPPle", "TOFAA Tofaa tofaa"),
        ("en", "ice  cream and Ice\ncream", "aiskrimu and Aiskrimu"),
        ("en", "ice-cream, ice, cream", "ice-cream, ice, cream"),
        ("en", "Monday, monday; US us", "Jumatatu, Jumatatu; Marekani Marekani"),
        ("en", "`apple` ```\napple\n``` $apple$ \\(apple\\) <apple> {apple}", None),
        (
            "en",
            "apple.name my_apple apple2 2apple apple(3) x=apple a/apple apple@mail.org http://apple.com/apple",
            None,
        ),
        ("en", 'apple. Apple? (apple) "apple" apple\'s', 'tofaa. Tofaa? (tofaa) "tofaa" apple\'s'),
        ("en", "$5 apple and $6 apple", "$5 tofaa and $6 tofaa"),
        ("en", "apple ``` apple", "tofaa ``` apple"),
        ("de", "Die STRASSE, Straße und Öl O\u0308l", "Die STREET, Street and Oil Oil"),
        ("hi", "हिन्दी कि किताब", "Hindi that किताब"),
        ("zh", "我有三个苹果，Apple", "我有threeapple".replace("apple", "个apple") + "，Apple"),
        ("th", "มีแมวสองตัว แม่", "มีcatสองตัว แม่"),
        ("ko", "사과 사과는", "apple 사과는"),
        ("ar", "كتاب والكتاب", "book والكتاب"),
        ("fr", "Aujourd’hui aujourd'hui l'eau", "Aujourd’hui today water"),
        ("en", "", ""),
    ],
)
def test_words_of_every_script(language, text, expected):
    assert switch(text, language) == (text if expected is None else expected)


def test_each_word_with_probability_p_and_every_translation():
    words = {"en": {f"w{a}{b}": [f"x{a}{b}", f"y{a}{b}"] for a in "abcde" for b in "abcde"}}
    rows = rows_of([(i, ["en", "sw"]) for i in range(400)])
    for row in rows:
        row["prompt"] = " ".join(random.Random(row["parallel_id"]).choices(list(words["en"]), k=50))
    result = code_switch(Dataset.from_list(rows), words)
    kinds = Counter()
    for before, after in zip(rows, result, strict=True):
        assert {k: v for k, v in before.items() if k != "prompt"} == {k: v for k, v in after.items() if k != "prompt"}
        for old, new in zip(before["prompt"].split(), after["prompt"].split(), strict=True):
            kinds[before["language"], new[0]] += 1
            assert new in (old, *words["en"][old])
    assert kinds["sw", "w"] == 20_000 and abs(kinds["en", "x"] + kinds["en", "y"] - 1000) < 150
    assert abs(kinds["en", "x"] - kinds["en", "y"]) < 150


@pytest.mark.parametrize("form", FORMATS)
def test_only_the_user_is_switched(form):
    rows = [row_of("An apple", "An apple", "en", 1, form), row_of("An apple", "An apple", "sw", 1, form)]
    result = list(code_switch(Dataset.from_list(rows), WORDS, 1.0))
    assert texts_of(result[0]) == (texts_of(rows[0])[0], "An tofaa", "An apple") and result[1] == rows[1]


def test_all_user_turns_are_switched_but_no_target():
    turns = [("system", "apple"), ("user", "apple"), ("assistant", "apple"), ("user", "apple"), ("assistant", "apple")]
    rows = [{"messages": [turn(*t, "messages") for t in turns], "language": "en", "parallel_id": 1}]
    (row,) = code_switch(Dataset.from_list(rows), WORDS, 1.0)
    assert [message["content"] for message in row["messages"]] == ["apple", "tofaa", "apple", "tofaa", "apple"]


def test_dictionaries_that_are_none(caplog):
    rows = Dataset.from_list(rows_of(ITEMS))
    for wrong in ({"apple": "tofaa"}, ["en"], None, {"en": {"apple": 3}}, {"en": {"apple": []}}, {"en": {"": "x"}}):
        with pytest.raises(TypeError, match=r"expected `\{language: \{word: translation"):
            code_switch(rows, wrong)
    with pytest.raises(ValueError, match="no language of the rows: it is for 'fr', the column 'language' holds 'en'"):
        code_switch(rows, {"fr": {"a": "b"}})
    for p in (0, 1.1):
        with pytest.raises(ValueError, match=f"`p` is {p}"):
            code_switch(rows, WORDS, p)
    with caplog.at_level("INFO", "solar_trl"):
        code_switch(rows, {"en": {"a": "b"}})
    assert "no dictionary for 'sw', 'th', 'de'" in caplog.text


def test_equal_pivots_stay_equal():
    """The same pivot twice is one pivot; switched differently it would be ambiguous."""
    text = " ".join(["apple"] * 40)
    rows = [row_of(text, "x", "en", 1), row_of(text, "x", "en", 1), row_of("tofaa", "y", "sw", 1)]
    result = code_switch(Dataset.from_list(rows), WORDS, 0.5)
    assert 5 < result[0]["prompt"].count("tofaa") < 35
    assert find_pivots(result).tolist() == [-1, -1, 0]


# ---- Ratio


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["en", "eng", "sw", "th"]), st.integers(0, 5)), min_size=2, max_size=40),
    st.floats(0.05, 0.95),
    st.sampled_from(["repeat", "drop"]),
    st.integers(0, 3),
)
def test_ratio_is_exact(spec, ratio, lower, seed):
    rows = [row_of(f"Q{i}", f"A{i}", language, n) for i, (language, n) in enumerate(spec)]
    is_pivot = [row["language"] in ("en", "eng") for row in rows]
    pivots, others = sum(is_pivot), len(rows) - sum(is_pivot)
    table = Dataset.from_list(rows)
    options = {"lower": lower, "seed": seed, "pivot_language": ["en", "eng"]}
    if not pivots or not others:
        with pytest.raises(ValueError, match="there is no share to change"):
            sample_pivot_ratio(table, ratio, **options)
        return
    result = list(sample_pivot_ratio(table, ratio, **options))
    counts = Counter(row["prompt"] for row in result)
    assert [row["prompt"] for row, _ in itertools.groupby(result)] == [
        r["prompt"] for r in rows if counts[r["prompt"]]
    ]
    of_pivots = [counts[row["prompt"]] for row, one in zip(rows, is_pivot, strict=True) if one]
    of_others = [counts[row["prompt"]] for row, one in zip(rows, is_pivot, strict=True) if not one]
    assert max(of_pivots) - min(of_pivots) <= 1 and max(of_others) - min(of_others) <= 1
    if ratio * len(rows) >= pivots or lower == "drop":
        assert set(of_others) == {1}
        assert abs(sum(of_pivots) - ratio * others / (1 - ratio)) <= 0.5 + 1e-9
    else:
        assert set(of_pivots) == {1}
        assert abs(sum(of_others) - pivots * (1 - ratio) / ratio) <= 0.5 + 1e-9


def test_ratio_keeps_pairs():
    table = Dataset.from_list(rows_of([(i, ["en", "sw", "th", "de"]) for i in range(50)]))
    for ratio in (0.6, 0.1):
        result = sample_pivot_ratio(table, ratio)
        others = [i for i, language in enumerate(result["language"]) if language != "en"]
        assert (find_pivots(result)[others] >= 0).all()
    dropped = sample_pivot_ratio(table, 0.1, lower="drop")
    assert dropped["language"][:].count("en") == 17 and len(dropped) == 167
    assert (find_pivots(dropped) >= 0).sum() == 3 * 17
    assert (find_pivots(dropped, pivot_dataset=table) >= 0).sum() == 150
    none = sample_pivot_ratio(table, 0, lower="drop")
    assert "en" not in none["language"][:] and (find_pivots(none, pivot_dataset=table) >= 0).all()


def test_dropped_pivots_are_logged_and_do_not_follow_the_order(caplog):
    rows = rows_of([(i, ["en", "sw"]) for i in range(40)])
    with caplog.at_level("INFO", "solar_trl"):
        one = sample_pivot_ratio(Dataset.from_list(rows), 0.2, lower="drop")
    assert "10 rows in the pivot language (of 40) and 40 others (of 40). The pivots of 30 rows are left" in caplog.text
    assert bag(sample_pivot_ratio(Dataset.from_list(rows[::-1]), 0.2, lower="drop")) == bag(one)
    assert bag(sample_pivot_ratio(Dataset.from_list(rows), 0.2, lower="drop", seed=1)) != bag(one)


def test_ratio_of_streams():
    rows = rows_of([(i, ["en", "sw", "th", "de"]) for i in range(600)])
    for ratio, lower in [(0.5, "repeat"), (0.1, "repeat"), (0.1, "drop"), (0, "drop")]:
        stream = carry_pivots(stream_of(rows, 4))
        result = sample_pivot_ratio(stream, ratio, lower, current_ratio=0.25)
        found = read_all(result, 2)
        assert bag(found) == bag(result)
        share = sum(row["language"] == "en" for row in found) / len(found)
        assert abs(share - ratio) < 0.03
        assert all((row["pivot"] is None) == (row["language"] == "en") for row in found)
        assert len(found) == pytest.approx(
            {0.5: 3600, 0.1: 6000 if lower == "repeat" else 2000, 0: 1800}[ratio], rel=0.05
        )


def test_ratio_of_tokens():
    rows = Dataset.from_dict({"input_ids": [[1], [2]], "language": ["en", "sw"], "parallel_id": [1, 1]})
    assert sample_pivot_ratio(rows, 0.75)["input_ids"][:] == [[1], [1], [1], [2]]


def test_wrong_options_of_ratio():
    table = Dataset.from_list(rows_of(ITEMS))
    for ratio in (0, 1, -0.1, 1.5, True, "0.5"):
        with pytest.raises(ValueError, match=re.escape(f"`ratio` is {ratio!r}, expected")):
            sample_pivot_ratio(table, ratio)
    with pytest.raises(ValueError, match="`lower` is 'cut'"):
        sample_pivot_ratio(table, 0.5, lower="cut")
    with pytest.raises(ValueError, match="but a table is counted"):
        sample_pivot_ratio(table, 0.5, current_ratio=0.5)
    with pytest.raises(ValueError, match="cannot be counted"):
        sample_pivot_ratio(table.to_iterable_dataset(), 0.5)
    with pytest.raises(ValueError, match="`current_ratio` is 1"):
        sample_pivot_ratio(table.to_iterable_dataset(), 0.5, current_ratio=1)
    with pytest.raises(ValueError, match="Apply `carry_pivots` before this"):
        sample_pivot_ratio(table.to_iterable_dataset(), 0.1, "drop", current_ratio=0.5)


# ---- Romanised copies


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("completion", [False, True])
def test_copies_against_brute_force(completion, form):
    rows = rows_of([(i, ["en", "hi", "th"]) for i in range(10)] + [(None, ["hi"])], form)
    result = add_romanized(Dataset.from_list(rows), lambda text, language: f"{language}~{text}", completion)
    new = added(rows, result)
    expected = []
    for row in rows:
        if row["language"] != "en":
            (before, question, answer), x = texts_of(row), row["language"]
            before = [
                f"{x}~{text}" if text == "Ready?" or (completion and text == "Yes.") else text for text in before
            ]
            answer = f"{x}~{answer}" if completion else answer
            expected.append((before, f"{x}~{question}", answer, f"{x}-Latn", row["parallel_id"]))
    found = [(*texts_of(row), row["language"], row["parallel_id"]) for row in new]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_what_is_romanised():
    rows = rows_of([(1, ["en", "de", "hi", "hin_Deva", "hi-Latn", "zh-Hant", "xx1", None, "sr"])])

    def copies(**options):
        return [
            row["language"]
            for row in added(rows, add_romanized(Dataset.from_list(rows), lambda text, _: f"~{text}", **options))
        ]

    assert sorted(copies()) == ["hi-Latn", "hin_Latn", "xx1-Latn", "zh-Latn"]
    assert sorted(copies(languages=["de", "zh-Hant"])) == ["de-Latn", "zh-Latn"]
    same = add_romanized(Dataset.from_list(rows), lambda text, language: text)
    assert bag(same) == bag(rows)
    labels = {"zh-Hant-TW": "zh-Latn-TW", "sr_Cyrl_RS": "sr_Latn_RS", "pt_BR": "pt_Latn_BR", "hi": "hi-Latn"}
    assert {label: romanized_label(label) for label in labels} == labels


def test_a_copy_can_pair_with_its_own_row():
    """Without parallel data: the native rows are the pivots."""
    rows = Dataset.from_list(rows_of([(i, ["hi"]) for i in range(5)]))
    result = add_romanized(rows, lambda text, _: text.lower(), pivot_language="hi")
    assert find_pivots(result, pivot_language="hi").tolist() == [-1] * 5 + [0, 1, 2, 3, 4]


def test_wrong_options_of_romanisation(monkeypatch):
    rows = Dataset.from_list(rows_of([(1, ["en", "hi"])]))
    with pytest.raises(TypeError, match="`romanize` is 'uroman', expected a function"):
        add_romanized(rows, "uroman")
    with pytest.raises(TypeError, match=r"`languages` is 'hi', expected a list such as \['hi'\]"):
        add_romanized(rows, str, languages="hi")
    with pytest.raises(ValueError, match="'hi-Latn', which is labelled as Latin already"):
        add_romanized(rows, str, languages=["hi-Latn"])
    with pytest.raises(TypeError, match=r"`romanize` gave None for 'Q 0\.1"):
        list(add_romanized(rows.to_iterable_dataset(), lambda text, language: None))
    monkeypatch.setitem(sys.modules, "uroman", None)
    package.romanized._uroman.cache_clear()
    with pytest.raises(ImportError, match="pip install uroman"):
        add_romanized(rows)


def test_uroman(monkeypatch):
    pytest.importorskip("uroman")
    package.romanized._uroman.cache_clear()
    rows = [row_of("नमस्ते, 2 + 2?", "चार", "hi", 1), row_of("สวัสดี", "สี่", "th", 1), row_of("Hi", "4", "en", 1)]
    result = add_romanized(Dataset.from_list(rows))
    assert [row["prompt"].isascii() for row in result] == [False, False, True, True, True]
    assert result[3]["prompt"].startswith("namaste") and "2 + 2?" in result[3]["prompt"]
    assert result[3]["completion"] == "चार"


# ---- Placebo


SPEC = st.lists(st.tuples(st.sampled_from(["en", "sw", "th", "de"]), st.integers(0, 6)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(SPEC, st.integers(0, 3), st.booleans(), st.booleans())
def test_no_row_keeps_its_pivot(spec, seed, apart, as_text):
    """Any number of rows per item and language, missing pivots and translations, pivots apart."""
    rows = [row_of(f"Q{i}", f"A{i}", language, f"k{n}" if as_text else n) for i, (language, n) in enumerate(spec)]
    table = Dataset.from_list(rows)
    pivots = table.filter(lambda row: row["language"] == "en") if apart else None
    if apart:
        pivots = pivots.remove_columns("language")
        rows = [row for row in rows if row["language"] != "en"]
        table = table.filter(lambda row: row["language"] != "en")
    have = {n for language, n in spec if language == "en"}
    pairs = [(language, n) for language, n in spec if language != "en" and n in have]
    if len(have) < 2 or not pairs:
        message = "Nothing pairs" if not pairs else "needs two items"
        with pytest.raises(ValueError, match=message):
            shuffle_parallels(table, pivots, seed=seed)
        return
    result = shuffle_parallels(table, pivots, seed=seed)
    assert result.features == table.features
    key = (lambda n: f"k{n}") if as_text else (lambda n: n)
    known = {key(n) for n in have}
    moves = defaultdict(dict)
    for before, after in zip(rows, result, strict=True):
        assert {**after, "parallel_id": 0} == {**before, "parallel_id": 0}
        if before["language"] != "en" and before["parallel_id"] in known:
            new = moves[before["language"]].setdefault(before["parallel_id"], after["parallel_id"])
            assert new == after["parallel_id"] != before["parallel_id"] and new in known
        else:
            assert after == before
    for mapping in moves.values():  # a permutation, unless there is nothing to permute
        assert len(mapping) == 1 or set(mapping) == set(mapping.values())
    found = find_pivots(result, pivot_dataset=pivots, multiple_pivots="first")
    assert (found >= 0).sum() == len(pairs)


def test_languages_are_shuffled_apart_whatever_the_order():
    rows = rows_of(FULL)
    result = list(shuffle_parallels(Dataset.from_list(rows)))
    new = defaultdict(dict)
    for before, after in zip(rows, result, strict=True):
        new[before["language"]][before["parallel_id"]] = after["parallel_id"]
    for a, b in itertools.combinations(["sw", "th", "de"], 2):
        assert sum(new[a][n] == new[b][n] for n in new[a]) < 8  # about 1 expected of 300
    assert all(new["en"][n] == n for n in new["en"])
    # One cycle through all items of a language
    start = here = "q0"
    steps = 0
    while not steps or here != start:
        here, steps = new["sw"][here], steps + 1
    assert steps == 300
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    shuffled = shuffle_parallels(Dataset.from_list([rows[i] for i in order]))
    assert bag(shuffled) == bag(result)
    assert bag(shuffle_parallels(Dataset.from_list(rows), seed=1)) != bag(result)


def check_placebo_stream(rows, found):
    """Texts stay, moved rows stand with the pivot of another item, the number of pairs is the same."""
    item = {row["prompt"]: row["parallel_id"] for row in rows}
    have = {row["parallel_id"] for row in rows if row["language"] == "en"} - {None}
    assert sorted(row["prompt"] for row in found) == sorted(item)
    pairs = 0
    for row in found:
        before = item[row["prompt"]]
        if row["language"] != "en" and before in have:
            pairs += 1
            assert row["parallel_id"] != before and row["pivot"]["parallel_id"] == row["parallel_id"]
            assert item[row["pivot"]["prompt"]] != before
        else:
            assert row["parallel_id"] == before and row["pivot"] is None
    return pairs


@pytest.mark.parametrize("block", [2, 3, 7, 1000])
@pytest.mark.parametrize("n", [2, 3, 8, 9, 29])
def test_placebo_of_streams(n, block):
    items = [(i, ["sw", "en", "th"][i % 3 :] if i % 4 == 3 else ["sw", "en", "th", "sw"]) for i in range(n)]
    rows = rows_of([*items, (None, ["en", "sw"]), (1000, ["th"])])
    stream = shuffle_parallels(stream_of(rows), block=block)
    found = list(carry_pivots(stream))
    assert check_placebo_stream(rows, found) == sum(
        row["language"] != "en"
        for row in rows
        if any(r["parallel_id"] == row["parallel_id"] != None and r["language"] == "en" for r in rows)  # noqa: E711
    )
    # Ids move no further than a block
    place = {row["prompt"]: i for i, row in enumerate(rows)}
    if block == 2:
        assert all(abs(place[row["prompt"]] - place[row["pivot"]["prompt"]]) < 40 for row in found if row["pivot"])


def test_placebo_of_shards_and_workers():
    rows = rows_of([(i, ["en", "sw", "th"]) for i in range(60)])
    stream = carry_pivots(shuffle_parallels(stream_of(rows, 4), block=5))
    for found in (list(stream), read_all(stream, 2)):
        assert check_placebo_stream(rows, found) == 120
    stream = carry_pivots(shuffle_parallels(stream_of(rows, 4), block=5), shuffle_buffer=10)
    first = list(stream)
    stream.set_epoch(1)
    second = list(stream)
    assert check_placebo_stream(rows, first) == check_placebo_stream(rows, second) == 120
    assert [row["prompt"] for row in first] != [row["prompt"] for row in second]


def test_placebo_streams_resume():
    rows = rows_of([(i, ["en", "sw", "th"][: 1 + i % 3]) for i in range(40)])
    whole = list(shuffle_parallels(stream_of(rows), block=3))
    for stop in (1, 7, 30, len(rows) - 1):
        stream = shuffle_parallels(stream_of(rows), block=3)
        head = list(itertools.islice(iter(stream), stop))
        state = stream.state_dict()
        again = shuffle_parallels(stream_of(rows), block=3)
        again.load_state_dict(state)
        assert [*head, *again] == whole


def test_placebo_holds_one_block():
    read = Counter()

    def rows():
        for i in range(10_000):
            for row in rows_of([(i, ["en", "sw"])]):
                read["rows"] += 1
                yield row

    next(iter(shuffle_parallels(IterableDataset.from_generator(rows), block=10)))
    assert read["rows"] <= 2 * 13
    read.clear()
    alone = IterableDataset.from_generator(lambda: (r for r in rows() if r["language"] == "en"))
    next(iter(shuffle_parallels(alone, block=10)))
    assert read["rows"] <= 6


def test_the_same_id_again_is_another_item():
    rows = rows_of([(1, ["en", "sw"]), (2, ["en", "sw"])] * 3)
    found = list(carry_pivots(shuffle_parallels(stream_of(rows))))
    partner = {row["prompt"].split(".")[0]: row["pivot"]["prompt"].split(".")[0] for row in found if row["pivot"]}
    assert len(partner) == 6 and all(a != b for a, b in partner.items()) and set(partner) == set(partner.values())


def test_wrong_options_of_the_placebo():
    table = Dataset.from_list(rows_of(ITEMS))
    for block in (1, 2.5, True):
        with pytest.raises(ValueError, match=f"`block` is {block}, expected an integer from 2"):
            shuffle_parallels(table, block=block)
    with pytest.raises(TypeError, match="`pivot_dataset` does not go with a stream"):
        shuffle_parallels(table.to_iterable_dataset(), pivot_dataset=table)
    with pytest.raises(ValueError, match=r"needs two items with a pivot.* there is one: 7"):
        shuffle_parallels(Dataset.from_list(rows_of([(7, ["en", "sw"])])))
    with pytest.raises(ValueError, match="needs two items"):
        list(shuffle_parallels(stream_of(rows_of([(7, ["en", "sw"]), (8, ["en"])]))))
    with pytest.raises(TypeError, match="holds 3; languages must be strings"):
        list(shuffle_parallels(stream_of([{**row, "language": 3} for row in rows_of(ITEMS)])))


def test_ids_of_other_types():
    """32-bit ids beside 64-bit ones in the pivots, and features that stay."""
    features = Features({"prompt": Value("string"), "language": Value("string"), "parallel_id": Value("int32")})
    rows = Dataset.from_dict(
        {"prompt": ["a", "b"], "language": ["sw", "sw"], "parallel_id": [1, 2]}, features=features
    )
    pivots = Dataset.from_dict({"prompt": ["c", "d"], "parallel_id": [1, 2]})
    result = shuffle_parallels(rows, pivots)
    assert result["parallel_id"][:] == [2, 1] and result.features == features


def test_examples_of_the_docstrings():
    runner, count = doctest.DocTestRunner(), 0
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for test in doctest.DocTestFinder().find(module):
            source = (test.docstring or "").replace("```python", "").replace("```", "")
            example = doctest.DocTestParser().get_doctest(source, {}, test.name, None, None)
            count += bool(example.examples)
            runner.run(example)
    assert count == 7 and not runner.failures
