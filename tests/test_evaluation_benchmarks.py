"""Benchmarks from files and from the Hub's layouts, and the prompts made of them."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from tiny_tokenizer import parallel_rows

from solar_trl.evaluation import BENCHMARKS, Benchmark, build_prompts, load_benchmark, register_benchmark
from solar_trl.evaluation.templates import TEMPLATES


DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "mgsm").exists(), reason="the benchmark files are not here")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


MATH = [
    {"language": "en", "id": 1, "question": "What is 2 + 3?", "answer": "5"},
    {"language": "en", "id": 2, "question": "What is 1000 + 500?", "answer": "1,500"},
    {"language": "sw", "id": 1, "question": "2 + 3 ni ngapi?", "answer": 5},
    {"language": "sw", "id": 2, "question": "1000 + 500 ni ngapi?", "answer": 1500.0},
]


def test_own_file(tmp_path):
    dataset = load_benchmark(str(write(tmp_path / "items.jsonl", MATH)))
    assert dataset["language"][:] == ["en", "en", "sw", "sw"] and dataset["parallel_id"][:] == ["1", "2", "1", "2"]
    assert dataset["answer"][:] == ["5", "1,500", "5", "1500"] and set(dataset["kind"]) == {"number"}
    assert dataset[0] == {
        "language": "en",
        "parallel_id": "1",
        "kind": "number",
        "question": "What is 2 + 3?",
        "context": "",
        "relation": "",
        "choices": [],
        "answer": "5",
        "response": "",
        "subject": "",
    }


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("layout", ["one file", "folder"])
def test_every_format_and_layout(tmp_path, suffix, layout):
    def save(path, rows):
        if suffix == "jsonl":
            write(path, rows)
        elif suffix == "json":
            path.write_text(json.dumps(rows), encoding="utf-8-sig")
        elif suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif suffix == "tsv":
            lines = ["\t".join(rows[0])] + ["\t".join(map(str, row.values())) for row in rows]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)

    rows = [{**row, "question": f'He said: "{row["question"]}"', "answer": str(row["answer"])} for row in MATH]
    if layout == "one file":
        path = tmp_path / f"items.{suffix}"
        save(path, rows)
    else:
        path = tmp_path
        for language in ("en", "sw"):
            kept = [{key: row[key] for key in row if key != "language"} for row in rows if row["language"] == language]
            save(tmp_path / f"{language}.{suffix}", kept)
    dataset = load_benchmark("mine", path=path)
    assert sorted(dataset["language"]) == ["en", "en", "sw", "sw"]
    assert dataset.filter(lambda row: row["language"] == "sw")["question"][0] == 'He said: "2 + 3 ni ngapi?"'
    assert load_benchmark("mine", ["sw"], path)["parallel_id"][:] == ["1", "2"]


@pytest.mark.parametrize("name", ["mgsm_sw.tsv", "test_Swahili.json", "swh_Latn.jsonl", "sw.csv"])
def test_language_from_the_file_name(tmp_path, name):
    path = tmp_path / name
    if path.suffix in (".tsv", ".csv"):
        path.write_text("2 + 3 ni ngapi?" + ("\t" if path.suffix == ".tsv" else ",") + "5\n", encoding="utf-8")
    else:
        write(path, [{"question": "2 + 3 ni ngapi?", "answer": 5}])
    dataset = load_benchmark("mgsm", path=tmp_path)
    assert dataset["language"][:] == ["swh_Latn" if "_Latn" in name else "sw"]
    assert dataset["question"][:] == ["2 + 3 ni ngapi?"] and dataset["parallel_id"][:] == ["0"]


def test_choices_in_every_form(tmp_path):
    forms = [
        {"choices": ["red", "blue"], "answer": "B"},
        {"choices": ["red", "blue"], "answer": 2},
        {"choices": ["red", "blue"], "answer": "blue"},
        {"choice1": "red", "choice2": "blue", "label": "b"},
        {"option_a": "red", "option_b": "blue", "answer": "２"},
    ]
    rows = [{"language": "en", "id": i, "question": "Sky?", **form} for i, form in enumerate(forms)]
    dataset = load_benchmark(str(write(tmp_path / "items.jsonl", rows)))
    assert dataset["answer"][:] == ["B"] * 5 and set(dataset["kind"]) == {"choice"}
    assert dataset["choices"][:] == [["red", "blue"]] * 5


def test_other_names_and_kind(tmp_path):
    rows = [{"language": "de", "nummer": 4, "frage": "Was ist \\frac{1}{2}?", "loesung": "0.5"}]
    names = {"frage": "question", "nummer": "id", "loesung": "answer"}
    dataset = load_benchmark(str(write(tmp_path / "items.jsonl", rows)), columns=names, kind="math")
    assert dataset[0]["kind"] == "math" and dataset[0]["parallel_id"] == "4"


def test_limit_keeps_the_same_items(tmp_path):
    rows = [MATH[0], MATH[1], MATH[3], MATH[2]]
    dataset = load_benchmark(str(write(tmp_path / "items.jsonl", rows)), limit=1)
    assert list(zip(dataset["language"], dataset["parallel_id"], strict=True)) == [("en", "1"), ("sw", "1")]


def test_counted_warnings(tmp_path, caplog):
    rows = [*MATH[:3], {**MATH[3], "answer": 7}, {**MATH[0], "id": 3}]
    load_benchmark(str(write(tmp_path / "items.jsonl", rows)))
    assert "1 of 3 items are missing in some languages" in caplog.text
    assert "the answers of 1 of 3 items differ between languages ('2')" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*MATH, MATH[0]], "en/1 is there twice"),
        ([MATH[0], MATH[3]], "share an id"),
        ([{**MATH[0], "question": " "}], "en/1 has no question"),
        ([{**MATH[0], "answer": " "}], "en/1 has no answer"),
        ([{"language": "en", "id": 1, "answer": 5}], "none of the fields 'question'"),
        ([{"language": "en", "question": "Sky?", "choices": ["a", "b"], "answer": "C"}], "'C'"),
        ([{"language": "en", "question": "Sky?", "choices": "a, b", "answer": "A"}], "must be a list"),
        ([{"id": 1, "question": "2?", "answer": 5}], "no field 'language'"),
        ([["a"]], "named fields"),
        ([], "no rows"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark(str(write(tmp_path / "items.jsonl", rows)))


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        load_benchmark("mgsm", path=tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="holds no"):
        load_benchmark("mgsm", path=tmp_path)
    (tmp_path / "en.jsonl").write_text('{"question": "1?", "answer": 1}\n{"quest', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        load_benchmark("mgsm", path=tmp_path)
    (tmp_path / "en.jsonl").unlink()
    (tmp_path / "en.tsv").write_text("id\tquestion\tanswer\n1\t2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="row 1 has 2 columns"):
        load_benchmark("mgsm", path=tmp_path)
    (tmp_path / "en.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match=r"'\.txt'"):
        load_benchmark("mgsm", path=tmp_path / "en.txt")


def test_bad_options(tmp_path):
    path = str(write(tmp_path / "items.jsonl", MATH))
    with pytest.raises(ValueError, match=r"no benchmark 'mgsn'; there are mgsm, msvamp"):
        load_benchmark("mgsn")
    with pytest.raises(ValueError, match=r"'fr'.*languages are en, sw"):
        load_benchmark(path, ["fr"])
    with pytest.raises(ValueError, match=r"no 'quy' on the Hub"):
        load_benchmark("mgsm", ["quy"])
    with pytest.raises(ValueError, match="'poem'"):
        load_benchmark(path, kind="poem")
    with pytest.raises(TypeError, match="must be a list"):
        load_benchmark(path, "en")
    with pytest.raises(ValueError, match="`limit` is 0"):
        load_benchmark(path, limit=0)


# Rows as they are on the Hub: (benchmark, row, expected fields)
HUB_ROWS = [
    (
        "mgsm",
        {"question": "2 + 3?", "answer": None, "answer_number": 5, "equation_solution": None},
        {"question": "2 + 3?", "answer": "5", "parallel_id": "0", "kind": "number", "response": ""},
    ),
    (
        "mgsm",
        {"question": "Swali: 2 + 3?", "answer": "Jibu la hatua: ni 2 + 3 = 5.", "answer_number": 5},
        {"question": "2 + 3?", "response": "ni 2 + 3 = 5.", "answer": "5"},
    ),
    ("msvamp", {"m_query": "2 + 3?", "response": "5.0", "equation": "2+3"}, {"question": "2 + 3?", "answer": "5.0"}),
    (
        "xcopa",
        {"premise": "It fell.", "choice1": "It was wet.", "choice2": "It broke.", "question": "effect", "label": 1,
         "idx": 7, "changed": False},
        {"question": "It fell.", "relation": "effect", "choices": ["It was wet.", "It broke."], "answer": "B",
         "parallel_id": "7", "kind": "choice"},
    ),
    (
        "belebele",
        {"link": "http://a", "question_number": 2, "flores_passage": "A text.", "question": "What?",
         "mc_answer1": "p", "mc_answer2": "3", "mc_answer3": "r", "mc_answer4": "s", "correct_answer_num": "3",
         "dialect": "eng_Latn"},
        {"context": "A text.", "choices": ["p", "3", "r", "s"], "answer": "C", "parallel_id": "http://a#2"},
    ),
    (
        "global_mmlu",
        {"sample_id": "law/test/3", "subject": "law", "question": "What?", "option_a": "1", "option_b": "2",
         "option_c": "3", "option_d": "0", "answer": "D"},
        {"choices": ["1", "2", "3", "0"], "answer": "D", "parallel_id": "law/test/3", "subject": "law"},
    ),
    (
        "mmlu_prox",
        {"question_id": 70, "question": "What?", "answer": "B", "answer_index": 1, "category": "law",
         "question_id_src": 4, **{f"option_{i}": "pqrs"[i] if i < 4 else None for i in range(10)}},
        {"choices": ["p", "q", "r", "s"], "answer": "B", "parallel_id": "70", "subject": "law"},
    ),
    ("aime2024", {"problem": "$x$?", "answer": "073", "solution": "..."}, {"question": "$x$?", "answer": "073"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), HUB_ROWS)
def test_rows_of_the_hub(name, row, expected, monkeypatch):
    asked = []

    def load(repository, config=None, split=None):
        asked.append((repository, config, split))
        return Dataset.from_list([row])

    monkeypatch.setattr("solar_trl.evaluation.benchmarks.load_from_hub", load)
    dataset = load_benchmark(name, ["en" if name != "xcopa" else "it", "sw"])
    assert [dataset[0][key] for key in expected] == list(expected.values())
    benchmark = BENCHMARKS[name]
    if benchmark.by_split:
        assert asked == [(benchmark.repository, None, "en"), (benchmark.repository, None, "sw")]
    else:
        assert [ask[1] for ask in asked] == [
            benchmark.languages[name] for name in ("it" if name == "xcopa" else "en", "sw")
        ]
        assert {ask[2] for ask in asked} == {"test"}


def test_hub_options(monkeypatch):
    asked = []

    def load(repository, config, split):
        asked.append((repository, config, split))
        row = dict(HUB_ROWS[4][1])
        return Dataset.from_list([row, row | {"question_number": 1}])

    monkeypatch.setattr("solar_trl.evaluation.benchmarks.load_from_hub", load)
    load_benchmark("belebele", ["en", "wol_Latn"], split="dev", repository="me/copy")
    assert asked == [("me/copy", "eng_Latn", "dev"), ("me/copy", "wol_Latn", "dev")]


def test_repeated_ids_of_belebele(monkeypatch, caplog):
    rows = Dataset.from_list([HUB_ROWS[4][1]] * 2)
    monkeypatch.setattr("solar_trl.evaluation.benchmarks.load_from_hub", lambda *args, **kwargs: rows)
    dataset = load_benchmark("belebele", ["en", "sw"])
    assert (
        dataset["parallel_id"][:2] == ["http://a#2", "http://a#2/2"] and "2 ids stand in several rows" in caplog.text
    )


def test_failing_hub_names_the_way_out(monkeypatch):
    def load(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("solar_trl.evaluation.benchmarks.load_from_hub", load)
    with pytest.raises(ConnectionError) as caught:
        load_benchmark("mgsm", ["en"])
    assert "juletxara/mgsm" in caught.value.__notes__[0] and "`path=`" in caught.value.__notes__[0]


def test_a_new_benchmark_is_one_entry(tmp_path):
    benchmark = Benchmark(
        "riddles", "text", "me/riddles", {"en": "en"}, lambda row: {"question": row["q"], "answer": row["a"]}
    )
    try:
        assert register_benchmark(benchmark) is register_benchmark(benchmark)
        dataset = load_benchmark("riddles", path=write(tmp_path / "en.jsonl", [{"q": "Who?", "a": "Me"}]))
        assert dataset[0]["kind"] == "text" and dataset[0]["answer"] == "Me"
        with pytest.raises(ValueError, match="already is"):
            register_benchmark(Benchmark("riddles", "number", "me/riddles", {}, benchmark.read))
    finally:
        BENCHMARKS.pop("riddles")


@needs_data
def test_real_files():
    mgsm = load_benchmark("mgsm", path=DATA / "mgsm")
    assert len(mgsm) == 11 * 250 and len(set(mgsm["parallel_id"])) == 250
    by_item = {}
    for row in mgsm:
        by_item.setdefault(row["parallel_id"], set()).add(row["answer"])
    assert all(len(answers) == 1 for answers in by_item.values())
    xcopa = load_benchmark("xcopa", ["qu", "en"], path=DATA / "xcopa")
    assert len(xcopa) == 2 * 500 and xcopa["language"][0] == "qu"
    assert len(load_benchmark("xcopa", path=DATA / "xcopa", split="validation")) == 12 * 100
    with pytest.raises(ValueError, match="no split 'dev2'"):
        load_benchmark("xcopa", path=DATA / "xcopa", split="dev2")


# Prompts


@pytest.fixture
def rows(tmp_path):
    return load_benchmark(str(write(tmp_path / "rows.jsonl", parallel_rows(["en", "sw", "th"]))))


def test_prompts_are_in_the_language(rows):
    prompts = build_prompts(rows)
    for row, messages in zip(rows, prompts, strict=True):
        (message,) = messages
        template = TEMPLATES[row["language"]]
        asked = template.solve.format(cue=template.cues[0])
        assert message == {"role": "user", "content": f"{row['question']}\n\n{asked}"}
    text = build_prompts(rows, chat=False)[8]
    assert text.startswith("Tatua swali") and text.endswith("Ana matofaa mangapi?\nJibu:")


def test_few_shot_examples_are_parallel(rows):
    items = rows.filter(lambda row: int(row["parallel_id"]) >= 4)
    exemplars = rows.filter(lambda row: int(row["parallel_id"]) < 4)
    order = sorted(range(len(exemplars)), key=lambda i: -i if exemplars[i]["language"] == "en" else i)
    exemplars = exemplars.select(order)  # other orders in other languages
    chat = build_prompts(items, exemplars, num_shots=2)
    texts = build_prompts(items, exemplars, num_shots=2, chat=False)
    known = {(row["language"], row["question"]): row for row in exemplars}
    ids = set()
    for row, messages, text in zip(items, chat, texts, strict=True):
        assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
        shown = [known[row["language"], message["content"].partition("\n")[0]] for message in messages[:4:2]]
        assert [message["content"] for message in messages[1:4:2]] == [example["response"] for example in shown]
        ids.add(tuple(example["parallel_id"] for example in shown))
        template = TEMPLATES[row["language"]]
        for example in shown:
            assert f"{template.question}: {example['question']}\n{template.answer}: {example['response']}\n\n" in text
    assert ids == {("3", "2")}  # in every language as in the first one, English


def test_multiple_choice_prompts(tmp_path):
    choices = [
        {"language": name, "id": i, "premise": f"{i} {name}", "choice1": "x", "choice2": "y", "label": 1,
         "question": "cause" if i else "effect"}
        for name in ("it", "sw")
        for i in range(3)
    ]  # fmt: skip
    rows = load_benchmark("xcopa", path=write(tmp_path / "x.jsonl", choices))
    items, exemplars = rows.select([0, 3]), rows.select([1, 2, 4, 5])
    (first, _) = build_prompts(items, chat=False)
    assert "0 it\nChe cosa è successo di conseguenza?\nA. x\nB. y\nRisposta:" in first
    messages = build_prompts(items, exemplars, num_shots=1)[1]
    assert messages[0]["content"].startswith("1 sw\nSababu ilikuwa nini?\nA. x\nB. y\n\nChagua")
    assert messages[1]["content"] == "Jibu ni B"
    passage = Dataset.from_list([{**items[0], "context": "A story."}])
    assert build_prompts(passage)[0][0]["content"].startswith("A story.\n0 it\n")


def test_fallback_and_own_instructions(tmp_path, caplog):
    quechua = [{"language": name, "id": 0, "question": "2 + 3?", "answer": 5} for name in ("qu", "en")]
    dataset = load_benchmark(str(write(tmp_path / "q.jsonl", quechua)))
    prompts = build_prompts(dataset)
    assert prompts[0] == prompts[1] and "'qu': no template in this language" in caplog.text
    own = build_prompts(dataset, instruction={"qu": "Yupay."})
    assert own[0][0]["content"] == "2 + 3?\n\nYupay." and own[1] == prompts[1]
    assert build_prompts(dataset, instruction="Go.")[1][0]["content"] == "2 + 3?\n\nGo."


def test_bad_exemplars(rows):
    items = rows.filter(lambda row: row["parallel_id"] == "7")
    examples = rows.filter(lambda row: row["parallel_id"] != "7")
    with pytest.raises(ValueError, match="needs `exemplars`"):
        build_prompts(items, num_shots=1)
    with pytest.raises(ValueError, match="is one of the items"):
        build_prompts(items, rows.filter(lambda row: row["parallel_id"] == "7"), num_shots=1)
    with pytest.raises(ValueError, match="no exemplars in 'th'"):
        build_prompts(items, examples.filter(lambda row: row["language"] != "th"), num_shots=1)
    with pytest.raises(ValueError, match="Only 7 exemplars"):
        build_prompts(items, examples, num_shots=8)
    with pytest.raises(ValueError, match="`num_shots` is -1"):
        build_prompts(items, examples, num_shots=-1)
    unsolved = examples.remove_columns("response").add_column("response", [""] * len(examples))
    with pytest.raises(ValueError, match="no `response`"):
        build_prompts(items, unsolved, num_shots=1)


@needs_data
def test_real_few_shot_prompts():
    exemplars = load_benchmark("mgsm", path=DATA / "mgsm_cot", split="train")
    prompts = build_prompts(load_benchmark("mgsm", path=DATA / "mgsm", limit=2), exemplars, num_shots=8)
    assert len(prompts) == 22 and all(len(messages) == 17 for messages in prompts)
