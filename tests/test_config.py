"""The configuration: documented twice, parsed from everywhere, converted without loss."""

import dataclasses
import re
import subprocess
import sys

import pytest
from helpers import QUIET, SPEC, solar_trainer, token_rows
from models import tiny_model
from transformers import HfArgumentParser, TrainingArguments
from trl import SFTConfig, TrlParser

from solar_trl import SolarSFTConfig


CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}
NEW = [f for f in dataclasses.fields(SolarSFTConfig) if f.name not in {g.name for g in dataclasses.fields(SFTConfig)}]


def test_documented_twice():
    """Each field is in the class docstring with its default, and has a help text."""
    assert len(NEW) == 18
    doc = SolarSFTConfig.__doc__
    for field in NEW:
        entry = re.search(rf"\n        {field.name} \((.*?)\):\n", doc)
        assert entry, f"{field.name} is not in the docstring"
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is None:
            assert "defaults" not in entry[1]
        else:
            default = f'"{value}"' if isinstance(value, str) else str(value)
            assert f"defaults to `{default}`" in entry[1]
        assert len(field.metadata["help"]) > 30
        assert "%" not in field.metadata["help"]  # argparse would choke on it


def test_command_line():
    arguments = [
        "--output_dir",
        "x",
        "--alignment_weight",
        "0.3",
        "--pivot_language",
        "en",
        "eng",
        "--parallel_id_column",
        "source",
        "id",
    ]
    arguments += [
        "--soft_token_top_k",
        "20",
        "--detach_pivot",
        "false",
        "--use_cpu",
        "--bf16",
        "false",
        "--alignment-schedule",
        "linear_decay",
    ]
    (config,) = HfArgumentParser(SolarSFTConfig).parse_args_into_dataclasses(arguments)
    assert config.alignment_weight == 0.3 and config.soft_token_top_k == 20 and config.detach_pivot is False
    assert config.pivot_language == ["en", "eng"] and config.parallel_id_column == ["source", "id"]
    assert config.alignment_schedule == "linear_decay" and config.language_column == "language"


@pytest.mark.parametrize("parser", [HfArgumentParser, TrlParser])
def test_defaults_survive_the_parsers(parser):
    (config,) = parser(SolarSFTConfig).parse_args_into_dataclasses(
        ["--output_dir", "x", "--use_cpu", "--bf16", "false"]
    )
    direct = SolarSFTConfig("x", **{**CPU, "report_to": config.report_to})
    for field in NEW:
        assert getattr(config, field.name) == getattr(direct, field.name), field.name


def test_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "output_dir: x\nuse_cpu: true\nbf16: false\nalignment_weight: 1e-1\npivot_language: [en, "
        "eng]\nsoft_token_top_k: 5\n"
    )
    (config,) = TrlParser(SolarSFTConfig).parse_args_and_config(["--config", str(path)])
    assert config.alignment_weight == 0.1  # YAML reads 1e-1 as a string
    assert config.pivot_language == ["en", "eng"] and config.soft_token_top_k == 5
    assert config.parallel_id_column == "parallel_id"


def test_help_renders():
    code = "import solar_trl, trl; trl.TrlParser(solar_trl.SolarSFTConfig).parse_args(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--alignment_weight" in done.stdout, done.stderr[-2000:]


# One value that is not the default for as many fields as can be set without their own machinery
CHANGED = {
    **CPU,
    "learning_rate": 3e-4,
    "per_device_train_batch_size": 3,
    "hub_token": "hf_secret",
    "hub_model_id": "me/model",
    "seed": 7,
    "warmup_steps": 5,
    "optim": "sgd",
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 9,
    "logging_steps": 4,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr": 1e-6},
    "gradient_checkpointing": False,
    "label_names": ["labels"],
    "run_name": "r",
    "dataloader_num_workers": 2,
    "accelerator_config": {"even_batches": False},
    "remove_unused_columns": False,
    "metric_for_best_model": "eval_loss",
}
CHANGED_SFT = {
    "max_length": 77,
    "eos_token": "<|im_end|>",
    "completion_only_loss": True,
    "dataset_text_field": "body",
    "model_init_kwargs": {"revision": "main"},
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "loss_type": "dft",
    "pad_to_multiple_of": 8,
    "assistant_only_loss": True,
    "eval_packing": False,
    "chat_template_path": "x.jinja",
}


@pytest.mark.parametrize(
    ("cls", "values"), [(SFTConfig, {**CHANGED, **CHANGED_SFT}), (TrainingArguments, CHANGED)], ids=["SFT", "plain"]
)
def test_conversion_loses_nothing(cls, values, tmp_path):
    args = cls(str(tmp_path), **values)
    args.max_grad_norm = 0.123  # set after construction
    converted = SolarSFTConfig.from_arguments(args)
    assert type(converted) is SolarSFTConfig
    for field in dataclasses.fields(args):
        if field.init:
            assert getattr(converted, field.name) == getattr(args, field.name), field.name
    assert converted.hub_token == "hf_secret" and converted.max_grad_norm == 0.123
    assert converted.alignment_weight == SolarSFTConfig(str(tmp_path), **CPU).alignment_weight
    assert SolarSFTConfig.from_arguments(converted) is converted


def test_conversion_of_foreign_fields(tmp_path):
    @dataclasses.dataclass
    class Other(SFTConfig):
        temperature: float = 0.7

    with pytest.raises(TypeError, match="Other has fields that `SolarSFTConfig` does not: temperature"):
        SolarSFTConfig.from_arguments(Other(str(tmp_path), **CPU))


def test_enabled(tmp_path):
    assert SolarSFTConfig(str(tmp_path), **CPU).objective.distance == "cosine"
    assert SolarSFTConfig(str(tmp_path), alignment_weight=0, **CPU).objective is None
    assert SolarSFTConfig(str(tmp_path), alignment_objective="none", **CPU).objective is None


def test_schedule_is_followed_and_logged(tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("qwen3"),
        token_rows(SPEC),
        tokenizer,
        tmp_path,
        config={
            **QUIET,
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "alignment_weight": 2.0,
            "alignment_schedule": "linear_decay",
            "alignment_warmup_ratio": 0.25,
        },
    )
    used = []
    current = trainer._current_weight
    trainer._current_weight = lambda: used.append(current()) or used[-1]
    trainer.train()
    assert used == pytest.approx([0, 1, 2, 5 / 3, 4 / 3, 1, 2 / 3, 1 / 3])
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["alignment_weight"] for log in logs] == used  # what the step used, like the logged learning rate
    for log in logs:
        assert log["loss"] == pytest.approx(
            log["sft_loss"] + log["alignment_weight"] * log["alignment_loss"], rel=1e-5
        )


def test_light_import():
    """`import solar_trl` loads neither torch nor TRL until a name is used."""
    code = (
        "import sys, solar_trl; heavy = {'torch', 'transformers', 'trl', 'datasets', 'peft'} & set(sys.modules); "
        "assert not heavy, heavy; assert set(solar_trl.__all__) <= set(dir(solar_trl)); solar_trl.SolarSFTConfig; "
        "assert 'trl' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
