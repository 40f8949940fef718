"""What is odd and no error is said once; what a beginner gets wrong is answered with the way out."""

import logging

import pytest
from datasets import Dataset
from helpers import SPEC, solar_trainer, token_rows
from models import tiny_model
from tiny_tokenizer import parallel_rows

from solar_trl import SolarSFTConfig
from solar_trl.run_summary import final_summary


def model():
    """Tied, since of untied embeddings there is something to say."""
    return tiny_model("qwen2", tied=True)


CLEAN = token_rows([(language, item) for item in range(5) for language in ("en", "sw")])


def warnings_of(caplog, tokenizer, tmp_path, rows, **kwargs) -> list[str]:
    caplog.clear()
    solar_trainer(model(), rows, tokenizer, tmp_path, **kwargs)
    return [
        record.message for record in caplog.records if record.name == "solar_trl" and record.levelno == logging.WARNING
    ]


def respond(row: dict, n_tokens: int) -> dict:
    """The row with a response of other length."""
    prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
    response = [5] * n_tokens
    return {**row, "input_ids": prompt + response, "labels": [-100] * len(prompt) + response}


def test_nothing_is_said_of_clean_data(caplog, tokenizer, tmp_path):
    rows = [respond(row, 4) for row in CLEAN]
    assert warnings_of(caplog, tokenizer, tmp_path, rows) == []


def test_empty_translations_are_named(caplog, tokenizer, tmp_path):
    rows = [respond(row, 1 if row["language"] == "sw" and row["parallel_id"] < 3 else 6) for row in CLEAN]
    (said,) = warnings_of(caplog, tokenizer, tmp_path, rows)
    assert said.startswith("3 pairs of the train dataset have a response of one token on one side only")
    assert "parallel_id=0; parallel_id=1; parallel_id=2" in said and "parallel_report" in said
    # Answers of one token on both sides are no empty translations
    assert warnings_of(caplog, tokenizer, tmp_path, [respond(row, 1) for row in CLEAN]) == []


def test_truncated_pairs_are_named(caplog, tokenizer, tmp_path):
    rows = [respond(row, 30 if row["parallel_id"] < 2 else 4) for row in CLEAN]
    (said,) = warnings_of(caplog, tokenizer, tmp_path, rows, config={"max_length": 20})
    assert said.startswith("40% of the pairs of the train dataset fill `max_length=20`")
    skipped = {"max_length": 20, "truncated_pairs": "skip"}
    assert warnings_of(caplog, tokenizer, tmp_path, rows, config=skipped) == []
    few = [respond(row, 30 if row["parallel_id"] < 1 else 4) for row in token_rows([*SPEC, ("sw", 4)])]
    assert warnings_of(caplog, tokenizer, tmp_path, few, config={"max_length": 40}) == []


def test_pivots_that_a_pivot_dataset_displaces_are_named(caplog, tokenizer, tmp_path):
    rows = [respond(row, 4) for row in CLEAN]
    pivots = Dataset.from_list([respond(row, 4) for row in token_rows([("en", 0), ("en", 1)], seed=1)])
    (said,) = warnings_of(caplog, tokenizer, tmp_path, rows, pivot_dataset=pivots)
    assert said.startswith("2 rows of the train dataset are in the pivot language and have translations there")
    assert "e.g. parallel_id=0; parallel_id=1." in said
    translations = [row for row in rows if row["language"] == "sw"]
    assert warnings_of(caplog, tokenizer, tmp_path, translations, pivot_dataset=pivots) == []


def test_an_evaluation_set_without_pivots_is_sent_to_its_own_argument(caplog, tokenizer, tmp_path):
    rows = [respond(row, 4) for row in CLEAN]
    translations = Dataset.from_list([row for row in rows if row["language"] == "sw"])
    english = Dataset.from_list([row for row in rows if row["language"] == "en"])
    (said,) = warnings_of(caplog, tokenizer, tmp_path, rows, eval_dataset={"low": translations})
    assert said.startswith("The eval dataset 'low' gets the SFT metrics only")
    assert "pass it as `eval_pivot_dataset`" in said
    pivots = {"eval_dataset": {"low": translations}, "eval_pivot_dataset": {"low": english}}
    assert warnings_of(caplog, tokenizer, tmp_path, rows, **pivots) == []
    with pytest.raises(ValueError, match="pass it as `pivot_dataset`"):
        solar_trainer(model(), translations, tokenizer, tmp_path)
    with pytest.raises(ValueError, match="The pivot dataset has no pivot rows") as info:
        solar_trainer(model(), translations, tokenizer, tmp_path, pivot_dataset=translations)
    assert "pass it as" not in str(info.value) and "normalize_languages" in str(info.value)


def test_only_english_and_nothing_at_all(tokenizer, tmp_path):
    english = [row for row in CLEAN if row["language"] == "en"]
    with pytest.raises(ValueError, match=r"all of its 5 rows are in the pivot language \(language 'en'\)"):
        solar_trainer(model(), english, tokenizer, tmp_path)
    with pytest.raises(ValueError, match="The train dataset has no rows"):
        solar_trainer(model(), Dataset.from_list(CLEAN).select([]), tokenizer, tmp_path)


TEXTS = Dataset.from_list(parallel_rows()[:9]).rename_columns({"question": "prompt", "response": "completion"})


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"prompt": "question", "completion": "response"}, "has no column that TRL trains on"),
        ({"completion": "response"}, "has 'prompt' but no 'completion'"),
    ],
)
def test_columns_that_trl_does_not_know(columns, found, tokenizer, tmp_path):
    renamed = TEXTS.rename_columns(columns)
    with pytest.raises(ValueError, match=f"The train dataset {found}: it takes 'prompt' and 'completion'") as info:
        solar_trainer(model(), renamed, tokenizer, tmp_path)
    assert "'response'" in str(info.value) and "rename_columns" in str(info.value)
    with pytest.raises(ValueError, match=f"The eval dataset 'b' {found}"):
        solar_trainer(model(), TEXTS, tokenizer, tmp_path, eval_dataset={"a": TEXTS, "b": renamed})


def test_columns_that_the_user_names(tokenizer, tmp_path):
    renamed = TEXTS.rename_columns({"prompt": "question", "completion": "body"})
    solar_trainer(model(), renamed, tokenizer, tmp_path, config={"dataset_text_field": "body"})
    solar_trainer(model(), renamed, tokenizer, tmp_path, formatting_func=lambda row: row["body"])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"alignment_kwargs": {"layers": [0.25]}}, "`layers` is [0.25]"),
        ({"alignment_kwargs": {"direction": "both"}}, "`direction` is 'both'"),
        ({"alignment_kwargs": {"answer_tokens": 3}}, "`answer_tokens` is 3"),
        ({"alignment_kwargs": {"momentum": 0.9}}, "`momentum` is 0.9"),
        ({"alignment_objective": "mid_align", "soft_token_temperature": 0.5}, "`soft_token_temperature` is 0.5"),
        ({"alignment_objective": "hard_token", "soft_token_top_k": 5}, "`soft_token_top_k` is 5"),
    ],
)
def test_settings_that_the_objective_does_not_read(settings, name):
    with pytest.raises(ValueError) as info:
        SolarSFTConfig("out", use_cpu=True, bf16=False, **settings)
    assert name in str(info.value)


def test_weight_zero_says_whose_order_it_is(caplog, tokenizer, tmp_path):
    with caplog.at_level(logging.INFO, logger="solar_trl"):
        config = {"alignment_weight": 0, "pivot_batching": "grouped"}
        solar_trainer(model(), CLEAN, tokenizer, tmp_path, config=config)
        said = [record.message for record in caplog.records if "Alignment is off" in record.message]
        assert len(said) == 1 and "`alignment_weight=1e-9`" in said[0]
        caplog.clear()
        for config in ({"alignment_objective": "none"}, {"alignment_weight": 0}):
            solar_trainer(model(), CLEAN, tokenizer, tmp_path, config=config)
    assert not [record for record in caplog.records if record.name == "solar_trl"]


def test_one_window_is_not_called_two():
    history = [{"sft_loss": 2.0, "sft_loss/sw": 3.0}, {"sft_loss": 1.0}]
    lines = final_summary(history).splitlines()
    assert lines[1].split()[1:] == ["2.0000", "->", "1.0000"]
    assert lines[2].split()[1:] == ["3.0000", "(logged", "once)"]


def test_one_item_has_no_variance(tokenizer, tmp_path):
    config = {
        "per_device_train_batch_size": 2, "logging_steps": 1, "max_steps": 4, "pivot_batching": "grouped",
    }  # fmt: skip
    trainer = solar_trainer(model(), CLEAN, tokenizer, tmp_path, config=config)
    trainer.train()
    windows = [logs for logs in trainer.state.log_history if "alignment_loss" in logs]
    assert len(windows) >= 4 and not any("summary_variance" in logs for logs in windows)
    config["per_device_train_batch_size"] = 10
    trainer = solar_trainer(model(), CLEAN, tokenizer, tmp_path, config=config)
    trainer.train()
    assert all(logs["summary_variance"] > 0 for logs in trainer.state.log_history if "alignment_loss" in logs)
