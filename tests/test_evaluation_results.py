"""Whole evaluations: records, counts, files, and the logs of lm-evaluation-harness."""

import json
import math

import pytest
from datasets import Dataset
from models import tiny_model
from tiny_tokenizer import parallel_rows, train_tokenizer

from solar_trl.evaluation import (
    CrossLingualConsistency,
    EvaluationResult,
    MultilingualAccuracy,
    Response,
    compare_tables,
    evaluate_model,
    load_benchmark,
    read_harness_results,
    score_choices,
    score_records,
)


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in parallel_rows()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3", vocab_size=384)


def answer_with(monkeypatch, outputs):
    """A model that gives these outputs, one list of samples per prompt."""
    seen = {}

    def generate(model, tokenizer, prompts, **options):
        seen.update(prompts=prompts, options=options)
        samples = outputs(prompts)
        return [[Response(text, len(text), not text.endswith("...")) for text in texts] for texts in samples]

    monkeypatch.setattr("solar_trl.evaluation.evaluator.generate_responses", generate)
    return seen


def test_scripted_model(items, monkeypatch, caplog):
    dataset = load_benchmark(str(items))
    texts = {}
    for row in dataset:
        key = (row["language"], row["parallel_id"])
        texts[key] = row["response"] if row["language"] != "sw" else "This is not in Swahili: 7."
    texts["th", "1"], texts["th", "2"], texts["de", "3"] = "", "ไม่มีคำตอบเลยครับ", "Moment, das sind 6..."
    rows = list(dataset)
    seen = answer_with(monkeypatch, lambda prompts: [[texts[row["language"], row["parallel_id"]]] for row in rows])
    result = evaluate_model(None, train_tokenizer(), str(items), max_new_tokens=9)
    assert seen["options"] == {"max_new_tokens": 9} and seen["prompts"][0][0]["role"] == "user"
    assert result.counts["th"] == {"rows": 8, "correct": 6, "empty": 1, "unextractable": 1, "unfinished": 0}
    assert result.counts["all"] == {"rows": 32, "correct": 23, "empty": 1, "unextractable": 1, "unfinished": 1}
    assert "of 32 outputs, 1 empty, 1 unextractable, 1 unfinished" in caplog.text
    given = {
        "predictions": [record.extracted for record in result.records],
        "references": [record.reference for record in result.records],
        "languages": [record.language for record in result.records],
    }
    expected = MultilingualAccuracy().compute(**given)
    ids = [record.parallel_id for record in result.records]
    expected |= CrossLingualConsistency().compute(**given, parallel_ids=ids)
    for name, value in expected.items():
        assert result.metrics[name] == pytest.approx(value), name
        assert result.intervals[name].value == pytest.approx(value), name
    assert result.metrics["accuracy/sw"] == 1 / 8 and result.metrics["fidelity/sw"] == 0.0
    assert result.metrics["fidelity/th"] == 1.0 and result.metrics["empty"] == 1
    for name in ("fidelity", "fidelity/sw", "fidelity/th"):
        assert result.intervals[name].value == pytest.approx(result.metrics[name])
    assert 0 < result.intervals["fidelity"].low < result.metrics["fidelity"] < result.intervals["fidelity"].high < 1
    record = next(record for record in result.records if (record.language, record.parallel_id) == ("sw", "0"))
    assert record.output == "This is not in Swahili: 7." and record.correct and record.in_language is False
    assert record.language_by == "identifier" and record.prompt == seen["prompts"][ids.index("0", 16)]


def test_samples(items, monkeypatch):
    rows = list(load_benchmark(str(items)))
    answer_with(monkeypatch, lambda prompts: [[row["response"], "no idea", "11"] for row in rows])
    result = evaluate_model(None, train_tokenizer(), str(items), num_samples=3, temperature=0.6)
    assert len(result.records) == 96 and result.metrics["accuracy/th"] == pytest.approx(1 / 3)
    # First samples agree, the second never, the third always
    assert result.metrics["consistency"] == pytest.approx(2 / 3)
    low, high = result.intervals["accuracy"].low, result.intervals["accuracy"].high
    assert low == pytest.approx(1 / 3) and high == pytest.approx(1 / 3)  # every item has one right sample


def test_base_models_get_texts_and_stop(items, monkeypatch):
    tokenizer = train_tokenizer()
    tokenizer.chat_template = None
    seen = answer_with(monkeypatch, lambda prompts: [["7"] for _ in prompts])
    result = evaluate_model(None, tokenizer, str(items), ["en", "sw"], limit=2)
    assert all(isinstance(prompt, str) for prompt in seen["prompts"]) and len(seen["prompts"]) == 4
    assert seen["options"]["stop"] == result.settings["stop"] == ["\nQuestion:", "\nSwali:"]
    assert result.settings["chat"] is False
    dataset = load_benchmark(str(items))
    evaluate_model(None, tokenizer, dataset, ["sw"], limit=3, stop=["#"])
    assert seen["options"]["stop"] == ["#"] and len(seen["prompts"]) == 3


def test_published_exemplars(monkeypatch):
    def load(repository, config, split):
        shown = {"question": "Question: 1 + 1?", "answer": f"Steps: it is 2 ({config}).", "answer_number": 2}
        asked = {"question": "2 + 3?", "answer": None, "answer_number": 5}
        return Dataset.from_list([shown if split == "train" else asked])

    monkeypatch.setattr("solar_trl.evaluation.benchmarks.load_from_hub", load)
    seen = answer_with(monkeypatch, lambda prompts: [["5"] for _ in prompts])
    result = evaluate_model(None, train_tokenizer(), "mgsm", ["en", "sw"], num_shots=1)
    assert [messages[1]["content"] for messages in seen["prompts"]] == ["it is 2 (en).", "it is 2 (sw)."]
    assert result.metrics["accuracy"] == 1.0
    monkeypatch.setattr(
        "solar_trl.evaluation.benchmarks.load_from_hub",
        lambda *a, split: Dataset.from_list([{"problem": "2?", "answer": 5}]),
    )
    with pytest.raises(ValueError, match="needs `exemplars`"):
        evaluate_model(None, train_tokenizer(), "aime2024", ["en"], num_shots=1)


def test_real_model_to_a_file_and_back(items, model, tokenizer, tmp_path):
    options = {"max_new_tokens": 6, "progress": False, "resamples": 20}
    result = evaluate_model(model, tokenizer, str(items), output_file=tmp_path / "out.jsonl", name="tiny", **options)
    path = tmp_path / "results" / "tiny.json"
    result.save(path)
    json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    again = EvaluationResult.load(path)
    assert again.records == result.records and again.counts == result.counts and again.name == "tiny"
    assert again.metrics == pytest.approx(result.metrics, nan_ok=True)
    assert math.isnan(again.metrics["co"]) == math.isnan(result.metrics["co"])
    assert again.intervals["accuracy"] == result.intervals["accuracy"]
    assert (
        evaluate_model(model, tokenizer, str(items), output_file=tmp_path / "out.jsonl", **options).records
        == result.records
    )
    same = compare_tables(result.table(), again.table(), resamples=10)
    assert same["macro_accuracy"].difference == 0 and same["macro_accuracy"].p_value == 1


def test_likelihood(model, tokenizer, tmp_path):
    rows = [
        {"language": name, "id": i, "question": f"{i} {name}?", "choices": ["x", "y", "z"][: 2 + i % 2], "answer": "A"}
        for name in ("en", "sw")
        for i in range(4)
    ]
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = evaluate_model(model, tokenizer, str(path), method="likelihood", chat=False, progress=False)
    prompts = [record.prompt for record in result.records]
    scores = score_choices(
        model, tokenizer, prompts, [[" A", " B", " C"][: 2 + i % 2] for i in range(4)] * 2, progress=False
    )
    assert [record.extracted for record in result.records] == ["abc"[int(values.argmax())] for values in scores]
    assert [record.correct for record in result.records] == [int(values.argmax()) == 0 for values in scores]
    assert "fidelity" not in result.metrics and result.counts["all"]["empty"] == 0


def test_bad_evaluations(items, model, tokenizer):
    with pytest.raises(ValueError, match="'guess'"):
        evaluate_model(model, tokenizer, str(items), method="guess")
    with pytest.raises(ValueError, match="some items have none"):
        evaluate_model(model, tokenizer, str(items), method="likelihood")
    with pytest.raises(TypeError, match="int"):
        evaluate_model(model, tokenizer, 5)
    dataset = load_benchmark(str(items))
    with pytest.raises(ValueError, match="are for benchmarks by name"):
        evaluate_model(model, tokenizer, dataset, split="test")
    with pytest.raises(ValueError, match=r"no \['fr'\]"):
        evaluate_model(model, tokenizer, dataset, ["fr"])
    with pytest.raises(ValueError, match="`chat=`"):
        evaluate_model("path", None, dataset, backend="vllm")
    with pytest.raises(ValueError, match="no records"):
        score_records([])


# lm-evaluation-harness: lines as 0.4.13 writes them


def generated(place, target, output, extracted, right, filter="flexible-extract", **doc):
    return {
        "doc_id": place,
        "doc": {"question": "2 + 3?", **doc},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": "2 + 3?\nAnswer:", "arg_1": {"until": ["\n\n"], "do_sample": False}}},
        "resps": [[output]],
        "filtered_resps": [extracted],
        "filter": filter,
        "metrics": ["exact_match"],
        "exact_match": right,
    }


def scored(place, target, values, right):
    return {
        "doc_id": place,
        "doc": {"premise": "It fell."},
        "target": str(target),
        "arguments": {
            f"gen_args_{i}": {"arg_0": "It fell because", "arg_1": f" option {i}"} for i in range(len(values))
        },
        "resps": [[[str(value), "False"]] for value in values],
        "filtered_resps": [[str(value), "False"] for value in values],
        "filter": "none",
        "metrics": ["acc"],
        "acc": right,
    }


def log(folder, task, samples, date="2026-01-02T03-04-05.678901"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(sample, ensure_ascii=False) for sample in samples]
    (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "out" / "my__model"
    for language, rights in (("en", [1.0, 1.0, 0.0]), ("sw", [1.0, 0.0, 0.0])):
        samples = []
        for place, right in enumerate(rights):
            output = f"It is {5 if right else 6}.\u2028Ok"
            samples.append(generated(place, "5", output, "5" if right else "6", right, id=f"q{place}"))
            samples.append(generated(place, "5", output, "[invalid]", 0.0, "strict-match", id=f"q{place}"))
        log(folder, f"mgsm_direct_{language}", samples)
    return folder


def test_generated_logs(logs):
    records = read_harness_results(logs.parent)
    assert len(records) == 6
    first = records[0]
    assert (first.language, first.parallel_id, first.prompt) == ("en", "mgsm_direct/0", "2 + 3?\nAnswer:")
    assert (first.output, first.extracted, first.reference, first.correct) == ("It is 5.\u2028Ok", "5", "5", True)
    result = score_records(records, "harness", resamples=20)
    assert result.metrics["accuracy/en"] == 2 / 3 and result.metrics["accuracy/sw"] == 1 / 3
    assert result.metrics["consistency"] == 2 / 3 and result.metrics["clc"] == 1 / 3
    strict = read_harness_results(logs, filter="strict-match")
    assert [record.extracted for record in strict] == [None] * 6
    assert score_records(strict, resamples=1).counts["all"]["unextractable"] == 6
    named = read_harness_results(logs, ["mgsm_direct_sw"], id_fields=["id"])
    assert [record.parallel_id for record in named] == ["q0", "q1", "q2"]


def test_scored_logs(tmp_path):
    for language, place in (("et", 1), ("zh", 0)):
        log(tmp_path, f"xcopa_{language}", [scored(0, 1, [-3.0, -1.5], float(place)), scored(1, 0, [-3.0, -4.0], 1.0)])
    records = read_harness_results(tmp_path)
    assert [(r.language, r.parallel_id, r.extracted, r.reference, r.correct) for r in records] == [
        ("et", "xcopa/0", "b", "B", True),
        ("et", "xcopa/1", "a", "A", True),
        ("zh", "xcopa/0", "b", "B", False),
        ("zh", "xcopa/1", "a", "A", True),
    ]
    result = score_records(records, resamples=5)
    assert "fidelity" not in result.metrics and result.counts["all"]["empty"] == 0


@pytest.mark.parametrize(
    ("tasks", "languages", "ids"),
    [
        (["belebele_swh_Latn", "belebele_eng_Latn"], {"swh_Latn", "eng_Latn"}, 1),
        (["global_mmlu_full_sw_stem", "global_mmlu_full_en_stem", "global_mmlu_full_sw_law"], {"sw", "en"}, 2),
        (["mmlu_prox_te_math", "mmlu_prox_lite_te_math"], {"te"}, 2),
        (["mgsm_native_cot_th", "mgsm_native_cot_id"], {"th", "id"}, 1),
    ],
)
def test_languages_of_task_names(tasks, languages, ids, tmp_path):
    for task in tasks:
        log(tmp_path, task, [generated(0, "5", "5", "5", 1.0)])
    records = read_harness_results(tmp_path)
    assert {record.language for record in records} == languages
    assert len({record.parallel_id for record in records}) == ids


def test_given_languages(tmp_path):
    log(tmp_path, "riddles", [generated(0, "5", "5", "5", 1.0)])
    with pytest.raises(ValueError, match=r"'riddles' tells no language"):
        read_harness_results(tmp_path)
    assert read_harness_results(tmp_path, languages={"riddles": "sw"})[0].language == "sw"
    assert read_harness_results(tmp_path, languages=lambda task: "th")[0].language == "th"
    with pytest.raises(ValueError, match="does not name"):
        read_harness_results(tmp_path, languages={"other": "sw"})


def test_latest_run(logs, caplog):
    log(logs, "mgsm_direct_sw", [generated(0, "5", "5", "5", 1.0)], "2026-01-03T03-04-05.678901")
    records = read_harness_results(logs)
    assert sum(record.language == "sw" for record in records) == 1 and "1 files hold older runs" in caplog.text


def test_bad_logs(logs, tmp_path):
    with pytest.raises(FileNotFoundError, match="--log_samples"):
        read_harness_results(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no samples of 'xnli_sw'"):
        read_harness_results(logs, ["xnli_sw"])
    with pytest.raises(ValueError, match="no filter 'loose'; it has 'flexible-extract', 'strict-match'"):
        read_harness_results(logs, filter="loose")
    with pytest.raises(ValueError, match="no metric 'bleu'"):
        read_harness_results(logs, metric="bleu")
    with pytest.raises(ValueError, match="no field 'link'"):
        read_harness_results(logs, id_fields=["link"])
    log(tmp_path / "graded", "mgsm_direct_sw", [generated(0, "5", "5", "5", 0.5)])
    with pytest.raises(ValueError, match=r"is 0\.5, expected 0 or 1"):
        read_harness_results(tmp_path / "graded")
