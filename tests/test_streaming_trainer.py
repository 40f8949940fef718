"""Training on streams whose rows carry their pivot."""

import itertools
import json
from collections import Counter

import pytest
import torch
from datasets import Dataset, IterableDataset, interleave_datasets, load_dataset
from datasets.distributed import split_dataset_by_node
from helpers import (
    QUIET,
    SEQUENTIAL,
    SGD,
    needs_sequential,
    relative_error,
    sft_trainer,
    solar_trainer,
    step_gradients,
    token_rows,
)
from models import tiny_model
from test_formats import EXTRA, FORMATS
from test_invariance import run_ranks
from trl import SFTConfig, SFTTrainer, maybe_convert_to_chatml

from solar_trl import SolarSFTConfig, SolarSFTTrainer
from solar_trl.data import PIVOT_COLUMN, TOKENIZED_PIVOT_COLUMN, carry_pivots
from solar_trl.data.stream_pairs import same_preparation


# An item without its pivot, one without translations, pivots first and last; ragged on purpose
STREAM_SPEC = [("sw", 1), ("en", 1), ("th", 1), ("en", 2), ("sw", 2), ("sw", 3), ("en", 4), ("de", 5), ("de", 6)]
STREAM_SPEC += [("th", 6), ("fr", 6), ("en", 6)]
OFF = {"alignment_weight": 0.0}


def stream(rows, num_shards=1, **options):
    return carry_pivots(Dataset.from_list(rows).to_iterable_dataset(num_shards), **options)


def first_rows(dataset, n_rows):
    return list(itertools.islice(dataset, n_rows))


def by_id(rows):
    """The same rows with the rows of an item next to each other."""
    return sorted(rows, key=lambda row: row["parallel_id"])


@needs_sequential
@pytest.mark.parametrize("config", [{}, {"detach_pivot": False}, {"remove_unused_columns": False}], ids=str)
@pytest.mark.parametrize(("batch_size", "accumulation"), [(12, 1), (3, 4), (1, 12)])
def test_a_step_is_that_on_a_dataset(batch_size, accumulation, config, tokenizer, tmp_path):
    rows = token_rows(STREAM_SPEC)
    config = {
        "max_steps": 1,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
        "alignment_weight": 3.0,
        **SEQUENTIAL,
        **config,
    }
    expected, got = (
        solar_trainer(tiny_model("qwen3"), data, tokenizer, tmp_path, config=config) for data in (rows, stream(rows))
    )
    assert relative_error(step_gradients(got), wanted := step_gradients(expected)) <= 1e-6
    reports = [dict(next(iter(trainer._pairs.reports.values())).to_dict()) for trainer in (expected, got)]
    assert reports[0].pop("name") == "train dataset" and reports[1].pop("name") == "First 12 rows of the train dataset"
    assert reports[0] == reports[1]
    logs = [trainer.state.log_history[0] for trainer in (expected, got)]
    assert logs[0]["aligned_pairs"] == 6
    assert {k: v for k, v in logs[0].items() if k != "epoch"} == pytest.approx(
        {k: v for k, v in logs[1].items() if k != "epoch"}, rel=1e-6
    )
    # Not vacuous: without the alignment term the gradient is another one
    off = sft_trainer(
        tiny_model("qwen3"), rows, tokenizer, tmp_path, config={k: config[k] for k in list(config)[:3]} | {"seed": 1}
    )
    assert relative_error(step_gradients(off), wanted) > 1e-3


@pytest.mark.parametrize("truncated", [False, True], ids=["whole", "truncated"])
@pytest.mark.parametrize("name", FORMATS)
def test_pivots_are_tokenized_as_rows(name, truncated, tokenizer, tmp_path):
    """The pivot that a row carries has the tokens and labels that TRL gives to the pivot's own row."""
    kwargs = {"formatting_func": lambda row: row["q"] + row["a"]} if name == "formatting_func" else {}
    rows = by_id(FORMATS[name](tokenizer))
    extra = dict(EXTRA.get(name, {}))

    def of_trl():
        trainer = SFTTrainer(
            tiny_model("qwen3"),
            SFTConfig(str(tmp_path), **QUIET, max_steps=1, **extra),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **kwargs,
        )
        return [
            (row["parallel_id"], row["language"], row["input_ids"], row["labels"]) for row in trainer.train_dataset
        ]

    expected = of_trl()
    if truncated:
        lengths = sorted(len(ids) for _, language, ids, _ in expected if language == "en")
        extra["max_length"] = lengths[5]  # two pivots are cut
        assert lengths[5] < lengths[-1]
        expected = of_trl()
    pivots = {parallel_id: (ids, labels) for parallel_id, language, ids, labels in expected if language == "en"}
    assert len(pivots) == 8

    trainer = solar_trainer(
        tiny_model("qwen3"),
        stream(rows, shuffle_buffer=3),
        tokenizer,
        tmp_path,
        config={**QUIET, "per_device_train_batch_size": 8, "max_steps": 4, **extra},
        **kwargs,
    )
    prepared = first_rows(trainer.train_dataset, len(expected))
    assert sorted(expected) == sorted(
        (row["parallel_id"], row["language"], row["input_ids"], row["labels"]) for row in prepared
    )
    assert len({row[PIVOT_COLUMN] for row in prepared}) == 8
    for row in prepared:
        carried = row[TOKENIZED_PIVOT_COLUMN]
        assert (carried is None) == (row["language"] == "en")
        if carried is not None:
            assert (carried["input_ids"], carried["labels"]) == pivots[row["parallel_id"]]
            assert set(carried) == {"input_ids", "labels"}
    trainer.train()
    if not truncated:
        # Items are whole, and so is a batch of two of them: no pivot has to be appended
        assert [log["aligned_pairs"] for log in trainer.state.log_history if "aligned_pairs" in log] == [6, 6, 6, 6]


def test_a_preparation_of_streams_for_rows():
    """As often as wanted, for other rows each time, which stay as they are; dropped rows are told."""

    def prepare(dataset):
        dataset = dataset.map(maybe_convert_to_chatml, remove_columns="conversations")  # converts in place
        return dataset.filter(lambda row: row["messages"][0]["content"] != "drop")

    def row(text):
        return {"conversations": [{"from": "human", "value": text}]}

    tokenize = same_preparation(prepare, row("a"))
    for texts in (["a"], ["drop", "b", "drop", "c", "b"], []):
        rows = [row(text) for text in texts]
        assert tokenize(rows) == [
            None if text == "drop" else {"messages": [{"role": "human", "content": text}]} for text in texts
        ]
        assert rows == [row(text) for text in texts]


def prompts(spec):
    return [
        {"prompt": f"{language} {item}", "completion": f" {language} says {item} is {item}", "language": language}
        | {"parallel_id": item}
        for language, item in spec
    ]


def test_pivots_that_are_not_in_the_batch(tokenizer, tmp_path):
    """Each distinct one is appended once; identical pivots of two items are one."""
    rows = prompts([("en", 1), ("sw", 1), ("th", 1), ("en", 2), ("sw", 2)])
    rows[3] |= {"prompt": rows[0]["prompt"], "completion": rows[0]["completion"]}
    trainer = solar_trainer(tiny_model("qwen3"), stream(rows), tokenizer, tmp_path, config={"max_steps": 1})
    prepared = first_rows(trainer.train_dataset, 5)
    collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
    alignment = collate([prepared[i] for i in (1, 2, 4)])["alignment"]
    assert alignment["pivot_batch"]["input_ids"].tolist() == [prepared[0]["input_ids"]]
    assert alignment["pivots"].tolist() == [3, 3, 3] and alignment["rows"] == [0, 1, 2]
    alignment = collate([prepared[i] for i in (4, 3, 1)])["alignment"]
    assert alignment["pivot_batch"] is None and alignment["pivots"].tolist() == [1, 1]


def test_workers(tokenizer, tmp_path):
    """In workers too, pivots are tokenized and every row is read once."""
    rows = by_id(FORMATS["prompt-completion"](tokenizer))
    seen = []
    trainer = solar_trainer(
        tiny_model("qwen3"),
        stream(rows, num_shards=2, shuffle_buffer=4),
        tokenizer,
        tmp_path,
        config={"max_steps": 4, "per_device_train_batch_size": 8, "dataloader_num_workers": 2},
    )
    compute_loss = trainer.compute_loss

    def record(model, inputs, *args, **kwargs):
        seen.extend(
            tuple(ids[mask].tolist()) for ids, mask in zip(inputs["input_ids"], inputs["labels"] != -100, strict=True)
        )
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = record
    trainer.train()
    assert len(seen) == len(set(seen)) == 32
    assert [log["aligned_pairs"] for log in trainer.state.log_history if "aligned_pairs" in log] == [6, 6, 6, 6]


def test_no_more_is_read_than_needed(tokenizer, tmp_path):
    """Sources that never end, mixed, with ids in common."""
    reads = []

    def rows(source):
        reads.append(n_read := Counter())
        for item in itertools.count():
            for row in prompts([("sw", item), ("en", item)]):
                n_read["rows"] += 1
                yield {**row, "prompt": f"{source} {row['prompt']}"}

    sources = [
        carry_pivots(IterableDataset.from_generator(rows, gen_kwargs={"source": source}), shuffle_buffer=10)
        for source in ("a", "b")
    ]
    trainer = solar_trainer(
        tiny_model("qwen3"),
        interleave_datasets(sources),
        tokenizer,
        tmp_path,
        config={"max_steps": 3, "per_device_train_batch_size": 4},
    )
    (report,) = trainer._pairs.reports.values()
    assert (report.rows, report.pairs, report.pivots) == (1000, 500, 500)
    assert report.languages["sw"].length_ratio == 1 and report.languages["sw"].truncated == 0
    buffered = 2 * (10 + 2 + 1)
    assert 500 <= max(n_read["rows"] for n_read in reads) <= 500 + buffered
    reads.clear()
    trainer.train()
    # 3 steps of 4 rows, a batch that accelerate has at hand, and the rest of the rows tokenized together
    assert len(reads) == 2 and 16 <= sum(n_read["rows"] for n_read in reads) <= 32 + 2 * buffered
    assert sum(log.get("aligned_pairs", 0) for log in trainer.state.log_history) == 6
    texts = {"".join(tokenizer.batch_decode([row["input_ids"]])) for row in first_rows(trainer.train_dataset, 200)}
    for row in first_rows(trainer.train_dataset, 100):
        if (tokens := row[TOKENIZED_PIVOT_COLUMN]) is not None:
            pivot = tokenizer.decode(tokens["input_ids"])
            assert pivot == tokenizer.decode(row["input_ids"]).replace("sw", "en") and pivot in texts


def test_truncation_and_missing_pivots(tokenizer, tmp_path):
    rows = prompts([("en", 1), ("sw", 1), ("en", 2), ("sw", 2), ("th", 2), ("de", 3), ("en", 4), ("sw", 4)])
    rows[0]["prompt"] = "word " * 400  # nothing is left of its completion
    rows[4]["completion"] = " word" * 400  # cut

    def trainer(**config):
        return solar_trainer(
            tiny_model("qwen3"),
            stream(rows),
            tokenizer,
            tmp_path,
            config={"max_steps": 1, "max_length": 100, **config},
        )

    def report(**config):
        (found,) = trainer(**config)._pairs.reports.values()
        return found

    found = report()
    assert found.name == "First 7 rows of the train dataset"
    assert (found.rows, found.pairs, found.pivots, found.unpaired, found.dropped, found.skipped) == (7, 3, 2, 2, 0, 0)
    assert found.languages["th"].truncated == 1 and found.languages["sw"].truncated == 0
    found = report(truncated_pairs="skip")
    assert (found.pairs, found.unpaired, found.skipped) == (2, 2, 1)
    assert report(missing_pivot="drop").dropped == 2
    languages = []
    for config in ({}, {"missing_pivot": "drop"}):
        dataset = trainer(**config).train_dataset
        n_rows = 7 - 2 * bool(config)
        taken = [row["language"] for row in first_rows(dataset, 2 * n_rows)]
        assert taken[:n_rows] == taken[n_rows:]
        languages.append(taken[:n_rows])
    assert languages == [["sw", "en", "sw", "th", "de", "en", "sw"], ["en", "sw", "th", "en", "sw"]]
    with pytest.raises(ValueError, match=r"language='sw', parallel_id=1 \(`missing_pivot='error'`\)"):
        trainer(missing_pivot="error")
    with pytest.raises(ValueError, match="Nothing is left to align in the first"):
        trainer(max_length=8, truncated_pairs="skip")


def test_languages_that_come_late(tokenizer, tmp_path):
    """All ranks must have the same list, so what comes after the first rows is logged together."""
    rows = token_rows([(language, i) for i in range(501) for language in ("en", "sw")])
    rows += token_rows([("en", 600), ("th", 600), ("de", 600)])
    trainer = solar_trainer(
        tiny_model("qwen3"),
        stream(rows),
        tokenizer,
        tmp_path,
        config={"max_steps": 2, "per_device_train_batch_size": 4},
    )
    (report,) = trainer._pairs.reports.values()
    assert report.rows == 1000 and trainer._pairs.languages == ["en", "sw", "other"]
    tail = first_rows(trainer.train_dataset, 1005)[-4:]
    assert [row["solar_language"] for row in tail] == [1, 0, 2, 2]


def run(tokenizer, path, dataset, resume=None, **config):
    trainer = solar_trainer(
        tiny_model("qwen3"),
        dataset,
        tokenizer,
        path,
        config={
            "optim": "adamw_torch",
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 7,
            "save_strategy": "steps",
            "save_steps": 1,
            "alignment_schedule": "linear_decay",
            **config,
        },
    )
    trainer.train(resume_from_checkpoint=resume)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return weights, [log["loss"] for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 5])
def test_resume_is_the_straight_run(step, workers, tokenizer, tmp_path):
    """7 steps of 8 rows over a stream of 18: within a pass, and in a later one, which has another order."""
    rows = token_rows([(language, item) for item in range(6) for language in ("en", "sw", "th")])

    def go(resume=None):
        return run(
            tokenizer, tmp_path, stream(rows, 2, shuffle_buffer=4), resume=resume, dataloader_num_workers=workers
        )

    weights, losses = go()
    again, losses_again = go(str(tmp_path / "solar" / f"checkpoint-{step}"))
    assert losses == losses_again and all(torch.equal(value, again[name]) for name, value in weights.items())


@pytest.mark.parametrize("name", ["prompt-completion", "ShareGPT conversations"])
def test_evaluation_streams(name, tokenizer, tmp_path, caplog):
    rows = by_id(FORMATS[name](tokenizer))
    table = Dataset.from_list(rows)
    plain = Dataset.from_list(rows).remove_columns(["language", "parallel_id"]).to_iterable_dataset()
    sets = {
        "table": table,
        "stream": carry_pivots(table.to_iterable_dataset(2)),
        "plain": plain,
        "swahili": carry_pivots(table.filter(lambda row: row["language"] == "sw").to_iterable_dataset()),
    }
    config = {"max_steps": 1, "per_device_eval_batch_size": 8}
    trainer = solar_trainer(tiny_model("qwen3"), table, tokenizer, tmp_path, config=config, eval_dataset=sets)
    assert (
        "The eval dataset 'plain' gets the SFT metrics only, without alignment: it is streaming and has no"
        in caplog.text
    )
    assert "The eval dataset 'swahili' gets the SFT metrics only" in caplog.text
    metrics = trainer.evaluate()
    of = {name: {k.removeprefix(f"eval_{name}_"): v for k, v in metrics.items() if f"_{name}_" in k} for name in sets}
    for name in ("alignment_loss", "sft_loss", "aligned_pairs", "pivot_similarity/sw", "sft_loss/en", "loss"):
        assert of["stream"][name] == pytest.approx(of["table"][name], rel=1e-5), name
    assert of["stream"]["aligned_pairs"] == 24
    assert "loss" in of["plain"] and "alignment_loss" not in of["plain"]
    assert "loss" in of["swahili"] and "alignment_loss" not in of["swahili"]
    # Passed later, and again; and named
    for passed in (sets["stream"], trainer.eval_dataset["stream"], "stream"):
        assert trainer.evaluate(passed)["eval_alignment_loss"] == pytest.approx(
            of["table"]["alignment_loss"], rel=1e-5
        )
    assert trainer.evaluate({"a": table, "b": sets["stream"]})["eval_b_aligned_pairs"] == 24
    assert "eval_alignment_loss" not in trainer.evaluate(plain)
    trainer.train()


def test_off_is_sft(tokenizer, tmp_path):
    """Without alignment, a stream is TRL's alone: no pivots, no peeking, bit for bit."""
    rows = token_rows(STREAM_SPEC)
    config = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    weights = []
    for kind, arguments, extra in ((SFTTrainer, SFTConfig, {}), (SolarSFTTrainer, SolarSFTConfig, OFF)):
        trainer = kind(
            tiny_model("qwen3"),
            arguments(str(tmp_path), **{**SGD, **config, **extra}),
            train_dataset=Dataset.from_list(rows).to_iterable_dataset(),
            processing_class=tokenizer,
        )
        trainer.train()
        weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.distributed
@pytest.mark.parametrize(("num_shards", "workers"), [(1, 0), (2, 0), (4, 2)])
def test_two_ranks_read_every_row_once(num_shards, workers, tmp_path):
    result = run_ranks(
        {
            "stream": num_shards,
            "dataloader_num_workers": workers,
            "per_device_train_batch_size": 2,
            "max_steps": 6,
            "pivot_batching": "grouped",
        },
        2,
        tmp_path,
    )
    assert [len(rows) for rows in result["rows"]] == [12, 12]
    rows = [tuple(row) for part in result["rows"] for row in part]
    assert sorted(rows) == sorted(tuple(row) for row in result["all_rows"])


@pytest.mark.distributed
def test_two_ranks_equal_one_on_a_stream(tmp_path):
    """Same rows in a step, same gradient and logs; the evaluation stream has shards of different lengths."""
    config = {"stream": 1, "pivot_batching": "grouped", "max_steps": 1}
    two = run_ranks({**config, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 2, tmp_path)
    one = run_ranks({**config, "per_device_train_batch_size": 24}, 1, tmp_path)
    assert two["logs"]["aligned_pairs"] == one["logs"]["aligned_pairs"] > 0
    assert relative_error(two["gradients"], one["gradients"]) <= 1e-5
    for key in ("alignment_loss", "sft_loss", "pivot_similarity", "sft_loss/sw", "summary_variance"):
        assert two["logs"][key] == pytest.approx(one["logs"][key], rel=1e-5, abs=1e-6), key
    assert two["eval"]["eval_aligned_pairs"] == one["eval"]["eval_aligned_pairs"] > 0
    assert two["eval"]["eval_alignment_loss"] == pytest.approx(one["eval"]["eval_alignment_loss"], rel=1e-5)


@pytest.mark.distributed
def test_shards_of_different_lengths_do_not_stop_ranks(tmp_path):
    """One rank comes to the end of its shards in the middle of an accumulation, the other goes on."""
    result = run_ranks(
        {
            "stream": 3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "max_steps": 6,
            "pivot_batching": "grouped",
        },
        2,
        tmp_path,
    )
    assert [len(rows) for rows in result["rows"]] == [36, 36]
    rows = {tuple(row) for part in result["rows"] for row in part}
    assert rows == {tuple(row) for row in result["all_rows"]}


def refuses(error, message, tokenizer, tmp_path, dataset, **kwargs):
    with pytest.raises(error) as info:
        solar_trainer(tiny_model("qwen3"), dataset, tokenizer, tmp_path, **kwargs)
    assert message in str(info.value)


def test_bad_input(tokenizer, tmp_path):
    rows = token_rows(STREAM_SPEC)
    one = {"max_steps": 1}
    raw = Dataset.from_list(rows).to_iterable_dataset()
    refuses(TypeError, "`solar_trl.data.carry_pivots`", tokenizer, tmp_path, raw, config=one)
    scattered = stream([row for language in ("en", "sw", "th") for row in rows if row["language"] == language])
    refuses(ValueError, "must be adjacent", tokenizer, tmp_path, scattered, config=one)
    refuses(ValueError, "'sw' (3 rows)", tokenizer, tmp_path, scattered, config=one)
    good = stream(rows)
    refuses(ValueError, "no column 'lang'", tokenizer, tmp_path, good, config={**one, "language_column": "lang"})
    refuses(
        ValueError,
        "`multiple_pivots='sample'`",
        tokenizer,
        tmp_path,
        good,
        config={**one, "multiple_pivots": "sample"},
    )
    table = Dataset.from_list(rows)
    refuses(ValueError, "a pivot dataset for it", tokenizer, tmp_path, good, config=one, pivot_dataset=table)
    refuses(TypeError, "cannot be streamed", tokenizer, tmp_path, table, config=one, pivot_dataset=raw)
    pivots = {"eval_dataset": good, "eval_pivot_dataset": table}
    refuses(ValueError, "a pivot dataset for it", tokenizer, tmp_path, table, config=one, **pivots)
    split = split_dataset_by_node(good, rank=0, world_size=2)
    refuses(ValueError, "`split_dataset_by_node`", tokenizer, tmp_path, split, config=one)
    texts = IterableDataset.from_generator(lambda: ({**row, "pivot": "a text"} for row in rows))
    refuses(TypeError, "holds 'str', expected a dict", tokenizer, tmp_path, texts, config=one)
    numbers = IterableDataset.from_generator(lambda: ({**row, "language": 3, "pivot": None} for row in rows))
    refuses(TypeError, "holds 3; languages must be strings", tokenizer, tmp_path, numbers, config=one)
    refuses(ValueError, "max_steps", tokenizer, tmp_path, good)


def test_files(tokenizer, tmp_path):
    """From JSON Lines in two files, with an optional column."""
    rows = prompts([(language, item) for item in range(8) for language in ("en", "sw")])
    lines = [json.dumps({**row, "note": None if i % 3 else "a note"}) for i, row in enumerate(rows)]
    for part in range(2):
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines[8 * part : 8 * part + 8]), encoding="utf-8")
    files = [str(tmp_path / f"{part}.jsonl") for part in range(2)]
    dataset = load_dataset("json", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path / "cache"))
    assert dataset.num_shards == 2
    trainer = solar_trainer(
        tiny_model("qwen3"),
        carry_pivots(dataset, shuffle_buffer=5),
        tokenizer,
        tmp_path,
        config={"max_steps": 2, "per_device_train_batch_size": 8},
    )
    trainer.train()
    assert [log["aligned_pairs"] for log in trainer.state.log_history if "aligned_pairs" in log] == [4, 4]
    trainer.create_model_card()
    assert (
        "Trained on"
        not in (tmp_path / "solar" / "README.md")
        .read_text(encoding="utf-8")
        .partition("### Framework")[0]
        .partition("### Cross-lingual")[2]
    )
