"""Recipes and accelerate configs of `examples/`: each is parsed, and started with a tiny model of the same family."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset
from models import TRANSFORMERS_5
from tiny_tokenizer import LANGUAGES, parallel_rows
from transformers import AutoConfig, AutoModelForCausalLM

from solar_trl.scripts import sft


ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
ACCELERATE = {path.stem: path for path in sorted((ROOT / "examples" / "accelerate_configs").glob("*.yaml"))}
NAMES = [path.stem for path in RECIPES]
README = ROOT / "examples" / "README.md"
ARMS = ["compare_mid_align", "compare_sft", "compare_solar"]

# Model type, and the chat template of that model as TRL ships it. TRL has none of Mistral Nemo, and the preamble of
# Cohere's fills all of `max_length` in the tokens of a tiny tokenizer: ChatML there
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST]{{ message['content'] }}[/INST]"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
FAMILIES = {
    "Qwen/Qwen3-0.6B": ("qwen3", "qwen3.jinja"),
    "Qwen/Qwen3-4B-Instruct-2507": ("qwen3", "qwen3_instruct_2507.jinja"),
    "Qwen/Qwen3-8B": ("qwen3", "qwen3.jinja"),
    "google/gemma-3-1b-it": ("gemma3_text", "gemma3.jinja"),
    "meta-llama/Llama-3.2-3B-Instruct": ("llama", "llama3_2.jinja"),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", "llama3_1.jinja"),
    "mistralai/Mistral-Nemo-Instruct-2407": ("mistral", None),
    "CohereLabs/tiny-aya-global": ("cohere2", None),
}


def recipe(name: str) -> dict:
    return yaml.safe_load((ROOT / "examples" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


# Wide enough for bitsandbytes, whose CPU kernels of evaluation take blocks of 64 columns
DECODER = {
    "vocab_size": 389,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS = {
    "qwen3": {"head_dim": 32, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, **WINDOWS},
    "llama": {"tie_word_embeddings": True},
    "mistral": {"head_dim": 32, "sliding_window": None, "tie_word_embeddings": False},
    "cohere2": {"head_dim": 32, "logit_scale": 0.5, "tie_word_embeddings": True, **WINDOWS},
}


@pytest.fixture(scope="module")
def tiny(tokenizer, tmp_path_factory):
    """Folder of a tiny model of the same family, with that family's chat template."""

    def make(model_id: str) -> str:
        if model_id not in made:
            family, template = FAMILIES[model_id]
            if family == "gemma3_text" and not TRANSFORMERS_5:
                pytest.skip("TRL's fused head does not find Gemma 3's backbone on transformers 4")
            folder = tmp_path_factory.mktemp("model")
            torch.manual_seed(0)
            config = AutoConfig.for_model(family, **DECODER, **CONFIGS[family])
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            own = copy.deepcopy(tokenizer)
            templates = Path(trl.__file__).parent / "chat_templates"
            if template is not None:
                own.chat_template = (templates / template).read_text(encoding="utf-8")
            elif family == "mistral":
                own.chat_template = MISTRAL_TEMPLATE
            own.save_pretrained(folder)
            made[model_id] = str(folder)
        return made[model_id]

    made: dict[str, str] = {}
    return make


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """Rows as the recipes expect them, in four languages."""
    file = tmp_path_factory.mktemp("data") / "train.jsonl"
    keys = ("language", "parallel_id")
    rows = [
        {"prompt": row["question"], "completion": row["response"], **{key: row[key] for key in keys}}
        for row in parallel_rows()
    ]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def arguments(name: str, model: str, data_file: str, output_dir: Path) -> list[str]:
    """A recipe, made small: model, data, batches and steps. All else is as in the file."""
    return [
        *("--config", f"examples/recipes/{name}.yaml", "--model_name_or_path", model),
        *("--data_files", data_file, "--eval_data_files", data_file, "--output_dir", str(output_dir)),
        *("--max_steps", "2", "--logging_steps", "1", "--eval_steps", "2", "--save_strategy", "no"),
        *("--per_device_train_batch_size", str(len(LANGUAGES)), "--gradient_accumulation_steps", "1"),
    ]


class Recorder(sft.SolarSFTTrainer):
    """Keeps the texts of each training batch."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.batches = [*getattr(self, "batches", []), inputs["input_ids"].tolist()]
        return super().training_step(model, inputs, *args, **kwargs)


@pytest.fixture
def start(tiny, data_file, tmp_path, monkeypatch):
    """Train by a recipe for two steps."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sft, "SolarSFTTrainer", Recorder)

    def run(name: str) -> Recorder:
        model = tiny(recipe(name)["model_name_or_path"])
        options = [*arguments(name, model, data_file, tmp_path / name), "--use_cpu", "--disable_tqdm", "true"]
        return sft.main(*sft.make_parser().parse_args_and_config(options))

    return run


@pytest.mark.parametrize("name", NAMES)
def test_recipe_starts(name, start, tmp_path):
    wanted = recipe(name)
    if wanted.get("load_in_4bit"):
        pytest.importorskip("bitsandbytes")
    trainer = start(name)
    logs = trainer.state.log_history
    assert trainer.state.global_step == 2
    losses = [log["loss"] for log in logs if "loss" in log]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    assert any("eval_loss" in log for log in logs)

    base = trainer.model.get_base_model() if wanted.get("use_peft") else trainer.model
    assert base.config.model_type == FAMILIES[wanted["model_name_or_path"]][0]
    trainable = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    if wanted.get("use_peft"):
        adapted = {n.split(".lora_")[0].rsplit(".", 1)[-1] for n in trainable}
        assert adapted >= {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        assert not adapted & {"lm_head", "embed_tokens"} and all(".lora_" in n for n in trainable)
        assert (tmp_path / name / "adapter_model.safetensors").exists()
    else:
        assert len(trainable) == len(list(trainer.model.parameters()))
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        assert (tmp_path / name / "model.safetensors").exists()
    projection = base.model.layers[0].self_attn.q_proj
    weight = getattr(projection, "base_layer", projection).weight
    if wanted.get("load_in_4bit"):
        assert weight.dtype == torch.uint8 and weight.quant_state.quant_type == "nf4"
        assert base.config.quantization_config.bnb_4bit_use_double_quant
        assert base.get_input_embeddings().weight.dtype == torch.bfloat16
    else:
        assert weight.dtype == getattr(torch, wanted["dtype"])

    pairs = [log["aligned_pairs"] for log in logs if "aligned_pairs" in log]
    if wanted["alignment_objective"] == "none":
        assert not pairs
    elif wanted["pivot_batching"] == "grouped":
        assert pairs == [len(LANGUAGES) - 1] * 2  # whole items
    else:
        assert len(pairs) == 2 and all(pairs)


def test_arms_see_the_same_batches(start):
    batches = {name: start(name).batches for name in [*ARMS, "qwen3_4b_lora"]}
    assert batches["compare_sft"] == batches["compare_solar"] == batches["compare_mid_align"]
    assert len(batches["compare_sft"]) == 2 and batches["qwen3_4b_lora"] != batches["compare_solar"]


def test_arms_differ_in_the_objective_alone():
    differing = set()
    first, *others = (recipe(name) for name in ARMS)
    for other in others:
        differing |= {key for key in first.keys() | other.keys() if first.get(key) != other.get(key)}
    objective = {"alignment_objective", "alignment_weight", "alignment_schedule"}
    assert {"alignment_objective", "output_dir"} <= differing <= objective | {"output_dir"}


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_parsing_is_strict_and_defaults_are_of_the_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # Whether the machine has bfloat16 is no question of the file
    options = ["--config", str(path), "--use_cpu", "--output_dir", str(tmp_path)]
    script_args, args, model_args = sft.make_parser().parse_args_and_config(options)
    for key, value in recipe(path.stem).items():
        if key != "output_dir":
            (holder,) = [group for group in (script_args, args, model_args) if hasattr(group, key)]
            assert getattr(holder, key) == value, key
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text(encoding="utf-8") + "alignment_wieght: 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="alignment_wieght"):
        sft.make_parser().parse_args_and_config(["--config", str(wrong), "--use_cpu"])


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_header(path):
    """What a reader needs before the start is there, and the command is that of this file."""
    text, wanted = header(path), recipe(path.stem)
    for word in ("Launch:", "Licence:", "Data:", "Memory:", "Time:", "not measured"):
        assert word in text, word
    command = re.search(r"accelerate launch --config_file (\S+) \\\s+(\S+) --config (\S+)", text)
    assert command, text
    config, script, own = (ROOT / part for part in command.groups())
    assert config in ACCELERATE.values() and script == ROOT / "examples" / "sft_solar.py" and own == path
    assert ("solar-trl[quantization]" in text) == bool(wanted.get("load_in_4bit"))
    processes = load_config_from_file(str(config)).num_processes
    assert (f"solar-trl sft --config examples/recipes/{path.name}" in text) == (processes == 1)
    assert processes * wanted["gradient_accumulation_steps"] == 16  # the same step on any number of GPUs
    assert wanted["output_dir"].startswith("outputs/") and wanted["model_name_or_path"] in FAMILIES
    prepare = re.search(r"python (\S+\.py) --output_dir (\S+)", text)
    assert (ROOT / prepare[1]).is_file()
    assert wanted["data_files"] == [f"{prepare[2]}/train.jsonl"]


# As public programs read GSM8KInstruct_Parallel: the language stands in the instructions, English comes first
WRAPPED = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request in "
    "{language}. Please answer in {language}.\n\n### Instruction:\n{question}\n\n### Response:"
)
GSM8K_NAMES = {"en": "English", "de": "German", "sw": "Swahili", "th": "Thai"}


@pytest.fixture(scope="module")
def prepare():
    pytest.importorskip("langcodes")
    path = ROOT / "examples" / "recipes" / "prepare_gsm8k_instruct.py"
    spec = importlib.util.spec_from_file_location("prepare_gsm8k_instruct", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wrapped_rows():
    rows = sorted(parallel_rows(), key=lambda row: (row["parallel_id"], list(GSM8K_NAMES).index(row["language"])))
    rows = [row for row in rows if (row["parallel_id"], row["language"]) != (2, "th")]  # one translation is missing
    rows[1] = {**rows[1], "question": rows[1]["question"] + "\n\nUnd mit Absatz?"}
    wrapped = [
        {
            "prompt": WRAPPED.format(language=GSM8K_NAMES[row["language"]], question=row["question"]),
            "chosen": f" {row['response']}\n#### {row['answer']}",
        }
        for row in rows
    ]
    return rows, wrapped


def test_prepared_data(prepare, wrapped_rows, tmp_path, monkeypatch, capsys):
    """What comes out is what the recipes expect, and evaluation shares no problem with training."""
    rows, wrapped = wrapped_rows
    source = tmp_path / "source.json"
    source.write_text("".join(json.dumps(row) + "\n" for row in wrapped), encoding="utf-8")
    command = ["prepare", "--dataset", str(source), "--output_dir", str(tmp_path / "data"), "--num_eval", "2"]
    monkeypatch.setattr(sys, "argv", command)
    prepare.main()
    printed = capsys.readouterr().out
    splits = {
        name: [json.loads(line) for line in (tmp_path / "data" / f"{name}.jsonl").open(encoding="utf-8")]
        for name in ("train", "eval")
    }
    assert all(set(row) == {"prompt", "completion", "language", "parallel_id"} for row in splits["train"])
    found = splits["train"] + splits["eval"]
    assert f"train.jsonl: {len(splits['train'])} rows in 4 languages" in printed
    expected = {(row["language"], row["question"]): row for row in rows}
    assert len(found) == len(rows) and {(row["language"], row["prompt"]) for row in found} == set(expected)
    for row in found:
        of = expected[row["language"], row["prompt"]]
        assert row["completion"] == f"{of['response']}\n#### {of['answer']}"
        same = {
            expected[r["language"], r["prompt"]]["parallel_id"]
            for r in found
            if r["parallel_id"] == row["parallel_id"]
        }
        assert same == {of["parallel_id"]}
    train_ids, eval_ids = ({row["parallel_id"] for row in splits[name]} for name in ("train", "eval"))
    assert len(eval_ids) == 2 and not train_ids & eval_ids


def test_data_of_another_form(prepare, wrapped_rows):
    _, wrapped = wrapped_rows
    with pytest.raises(ValueError, match="not of the form of GSM8KInstruct_Parallel: 'How much"):
        prepare.prepare(Dataset.from_list([*wrapped, {"prompt": "How much is 1 + 1?", "chosen": "2"}]), 1)
    for number in (0, 100):
        with pytest.raises(ValueError, match=f"`num_eval` is {number}"):
            prepare.prepare(Dataset.from_list(wrapped), number)


def test_output_folders_differ():
    assert len({recipe(name)["output_dir"] for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_config_is_parsed(name, tmp_path):
    config = load_config_from_file(str(ACCELERATE[name]))  # unknown keys fail
    kinds = {"single_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert config.distributed_type == kinds[name] and config.mixed_precision == "bf16" and not config.use_cpu
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name in ("zero2", "zero3"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
    command = re.search(r"--config (\S+)", header(ACCELERATE[name]) or "")
    assert command and (ROOT / command[1]).is_file()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(ACCELERATE[name].read_text(encoding="utf-8") + "num_procs: 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="num_procs"):
        load_config_from_file(str(wrong))


def test_readme_lists_every_recipe():
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert {f"recipes/{name}.yaml" for name in NAMES} <= set(links)
    for link in links:
        assert (README.parent / link).exists(), link


@pytest.mark.slow
def test_readme_commands(tmp_path):
    """The commands to try a recipe, in a folder with the examples and data as its section on data shows."""
    text = README.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in re.search(r"```json\n(.+?)```", text, re.S)[1].splitlines()]
    (tmp_path / "data").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for name in ("train", "eval"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (commands,) = re.findall(r"```bash\n(.+?)```", text, re.S)
    env = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert (tmp_path / "outputs" / "try" / "adapter_model.safetensors").exists()


# What accelerate shards on CPUs, told that gloo is an accelerator (see sharded_worker.py)
SHARDED_SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from sharded_worker import shard_on_cpus
shard_on_cpus()
from solar_trl.scripts import sft
trainer = sft.main(*sft.make_parser().parse_args_and_config())
parameters = list(trainer.model.parameters())
kind = trainer.accelerator.distributed_type.value
sharded = any(hasattr(p, "ds_id") or type(p).__name__ == "DTensor" for p in parameters)
logged = [float(log["aligned_pairs"]) for log in trainer.state.log_history if "aligned_pairs" in log]
if trainer.accelerator.is_main_process:
    fsdp2 = trainer.accelerator.is_fsdp2
    print(f"kind: {{kind}}, fsdp2: {{fsdp2}}, sharded: {{sharded}}, pairs: {{logged}}", flush=True)
from helpers import leave
leave()
"""


def launch(config: str, script: str, *options: str, processes: int = 2, precision: str = "bf16") -> str:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE[config])]
    command += ["--num_processes", str(processes), "--mixed_precision", precision, "--main_process_port", "0"]
    command += [script, *options]
    env = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_command_of_the_header(tiny, data_file, tmp_path):
    """`accelerate launch ... sft_solar.py --config` and `solar-trl sft --config` are the same code."""
    model = tiny("Qwen/Qwen3-4B-Instruct-2507")
    options = [*arguments("qwen3_4b_lora", model, data_file, tmp_path / "out"), "--use_cpu"]
    out = launch("single_gpu", "examples/sft_solar.py", *options, processes=1)
    assert "Training on 1 process(es)." in out
    first = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "out")
    env = {**os.environ, "CI": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "solar_trl.scripts.cli", "sft", *options]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == first


@pytest.mark.slow
@pytest.mark.distributed
def test_ddp(tiny, data_file, tmp_path):
    options = arguments("llama3.2_3b_lora", tiny("meta-llama/Llama-3.2-3B-Instruct"), data_file, tmp_path / "out")
    out = launch("ddp", "examples/sft_solar.py", *options, "--use_cpu")
    assert "Training on 2 process(es)." in out
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(not TRANSFORMERS_5, reason="tiny models are sharded on CPUs with transformers 5 only")
@pytest.mark.parametrize(
    ("config", "name", "kind", "sharded"),
    [
        ("fsdp2", "qwen3_4b_full", "FSDP", True),
        ("fsdp2", "tiny_aya_3b_full", "FSDP", True),
        ("zero2", "llama3.2_3b_full", "DEEPSPEED", False),
        ("zero3", "qwen3_8b_full", "DEEPSPEED", True),
    ],
)
def test_sharded(config, name, kind, sharded, tiny, data_file, tmp_path):
    if kind == "DEEPSPEED" and shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles an operator on its first CPU run")
    script = tmp_path / "script.py"
    script.write_text(SHARDED_SCRIPT.format(tests=str(ROOT / "tests"), root=str(ROOT)), encoding="utf-8")
    options = arguments(name, tiny(recipe(name)["model_name_or_path"]), data_file, tmp_path / "out")
    # Without `use_cpu`, which would turn sharding off, the Trainer takes no bfloat16 here
    out = launch(config, str(script), *options, "--bf16", "false", precision="no")
    assert "Training on 2 process(es)." in out
    pairs = [2.0 * (len(LANGUAGES) - 1)] * 2  # an item on each rank
    assert f"kind: {kind}, fsdp2: {kind == 'FSDP'}, sharded: {sharded}, pairs: {pairs}" in out
    assert (tmp_path / "out" / "model.safetensors").exists()
