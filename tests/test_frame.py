"""The frame: what is refused, how settings reach it, what it keeps in memory, and the code of docs/objectives.md."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers import SPEC, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, TrlParser

from solar_trl import SolarSFTConfig
from solar_trl._compat import decoder_blocks
from solar_trl.modeling import add_soft_token_head
from solar_trl.objectives import DISTANCES, FRAME_FIELDS, OBJECTIVES, Objective, layer_indices
from solar_trl.pooling import Pooling
from solar_trl.scripts.sft import make_parser
from solar_trl.sequence_tokens import SequenceTokens


CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}
PAGE = Path(__file__).parents[1] / "docs" / "objectives.md"
HIDDEN = {"representation": "hidden_state"}
CLOUDS = {"pooling": "none", "distance": "mmd"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"representation": "embedding"},
            "`representation` of the alignment objective is 'embedding', expected one of",
        ),
        ({"positions": "answers"}, "`positions` of the alignment objective is 'answers'"),
        ({"positions": ["prompt"]}, r"`positions` of the alignment objective is \['prompt'\]"),
        ({"pooling": "max"}, "`pooling` of the alignment objective is 'max'"),
        ({"pooling": None}, "`pooling` of the alignment objective is None"),
        ({"distance": "l1"}, "`distance` of the alignment objective is 'l1', expected one of 'cosine', 'mse'"),
        ({"pivot_gradient": True}, "`pivot_gradient` of the alignment objective is True"),
        ({"target": "mean"}, "`target` of the alignment objective is 'mean'"),
        ({"direction": "en"}, "`direction` of the alignment objective is 'en'"),
        ({"negatives": "all"}, "`negatives` of the alignment objective is 'all'"),
        ({"layer": 3}, "has no setting 'layer', expected one of 'representation', 'layers'"),
        ({"description": "x"}, "has no setting 'description'"),
        ({"source": None}, "has no setting 'source'"),
        ({"layers": []}, "`layers` of the alignment objective is empty"),
        ({"layers": [1.5]}, "has 1.5, expected an index"),
        ({"layers": -0.5}, "has -0.5, expected an index"),
        ({"temperature": 0}, "`temperature` of the alignment objective is 0, expected a number > 0"),
        ({"temperature": -1}, "`temperature` of the alignment objective is -1"),
        ({"temperature": float("nan")}, "`temperature` of the alignment objective is nan"),
        ({"momentum": 1.5}, "`momentum` of the alignment objective is 1.5, expected a finite number ≥ 0 and ≤ 1"),
        ({"anchor_weight": -1}, "`anchor_weight` of the alignment objective is -1"),
        ({"anchor_weight": float("inf")}, "`anchor_weight` of the alignment objective is inf"),
        ({"queue_size": -1}, "`queue_size` of the alignment objective is -1, expected an integer ≥ 0"),
        ({"queue_size": 2.5}, "`queue_size` of the alignment objective is 2.5"),
        ({"answer_tokens": 0}, "`answer_tokens` of the alignment objective is 0, expected an integer ≥ 1"),
        (
            {"embeddings": "head"},
            "`embeddings` of the alignment objective is 'head', expected one of 'input', 'output'",
        ),
        # Settings that do not fit together
        ({**HIDDEN, "embeddings": "output"}, "`embeddings` is 'output' but `representation='hidden_state'` has none"),
        ({"distance": "mmd"}, "`pooling='mean'` does not fit `distance='mmd'`, which compares token clouds"),
        ({"pooling": "none"}, "`pooling='none'` does not fit `distance='cosine'`, which compares one vector"),
        ({"pooling": "none", "distance": "kl"}, "belong together.*Got 'soft_token', 'response' and 'kl'"),
        ({"representation": "logits"}, "belong together"),
        ({"positions": "answer"}, "belong together"),
        ({**CLOUDS, "target": "centroid"}, "token clouds, which have no centroid"),
        ({**CLOUDS, "pivot_gradient": "anchored"}, "are not kept"),
        ({**CLOUDS, "pivot_gradient": "momentum"}, "are not kept"),
        ({"target": "centroid", "pivot_gradient": "anchored"}, "which are not anchored"),
        ({"target": "centroid", "distance": "info_nce"}, "no distinct pivots"),
        ({"anchor_weight": 1.0}, "`anchor_weight` is 1.0"),
        ({"anchor_weight": 1.0, "pivot_gradient": "both", "distance": "info_nce"}, "`anchor_weight` is 1.0"),
        ({"anchor_weight": 1.0, "pivot_gradient": "both", **CLOUDS}, "`anchor_weight` is 1.0"),
        ({"gather": True}, "`gather` is True but `distance='cosine'` has no negatives"),
        ({"queue_size": 8}, "`queue_size` is 8 but `distance='cosine'` has no negatives"),
        ({"queue_size": 8, "distance": "info_nce"}, "`queue_size` is 8: pivots of past steps"),
        (
            {"queue_size": 8, "distance": "info_nce", "pivot_gradient": "momentum", "direction": "both"},
            "`queue_size` is 8: pivots of past steps",
        ),
    ],
    ids=str,
)
def test_refused_values(changes, message):
    with pytest.raises(ValueError, match=message):
        SolarSFTConfig("x", **CPU, alignment_kwargs=changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gather": "yes"}, "`gather` of the alignment objective must be `True` or `False`, got 'yes'"),
        ({"normalize": 1}, "`normalize` of the alignment objective must be `True` or `False`, got 1"),
        ({"temperature": "warm"}, "`temperature` of the alignment objective must be a number, got 'warm'"),
        ({"temperature": True}, "`temperature` of the alignment objective must be a number, got True"),
        ({"momentum": None}, "`momentum` of the alignment objective must be a number, got None"),
        ({"layers": "middle"}, "`layers` of the alignment objective must be numbers, got 'middle'"),
        ({"layers": [True]}, "`layers` of the alignment objective must be numbers"),
        ({"layers": [float("nan")]}, "`layers` of the alignment objective must be numbers"),
        ("layers=1", "`alignment_kwargs` must be a dict .*, got 'layers=1'"),
        ("[1]", r"`alignment_kwargs` must be a dict .*, got '\[1\]'"),
        ([("layers", 1)], "`alignment_kwargs` must be a dict"),
        ({1: 2}, "`alignment_kwargs` must be a dict"),
    ],
    ids=str,
)
def test_wrong_types(changes, message):
    with pytest.raises(TypeError, match=message):
        SolarSFTConfig("x", **CPU, alignment_kwargs=changes)


def test_presets_are_points_that_can_be_moved():
    for name, preset in OBJECTIVES.items():
        config = SolarSFTConfig("x", **CPU, alignment_objective=name)
        assert config.objective == preset
        assert SolarSFTConfig("x", **CPU, alignment_objective=name, alignment_weight=0).objective is None
        if preset is None:
            continue
        assert (
            preset.description and preset.choices and preset.status in ("abstract", "adapted", "verified", "control")
        )
        assert (preset.source is None) == (preset.status == "control")
        # Every field of a preset, given back as a setting, is the preset again: through JSON too
        fields = {field: getattr(preset, field) for field in FRAME_FIELDS}
        for changes in (fields, json.dumps(fields)):
            again = SolarSFTConfig("x", **CPU, alignment_objective=name, alignment_kwargs=changes)
            assert again.objective == preset
        assert set(preset.settings) <= set(FRAME_FIELDS)
    with pytest.raises(ValueError, match="`alignment_objective='none'` has no settings"):
        SolarSFTConfig("x", **CPU, alignment_objective="none", alignment_kwargs={"layers": 1})


def test_detach_pivot():
    moving = SolarSFTConfig("x", **CPU, detach_pivot=False)
    assert moving.objective.pivot_gradient == "both" and moving.alignment_kwargs is None
    assert SolarSFTConfig("x", **CPU, detach_pivot=False, alignment_kwargs={"pivot_gradient": "both"}).objective
    assert SolarSFTConfig("x", **CPU, alignment_objective="mid_align").objective.pivot_gradient == "both"
    stopped = SolarSFTConfig(
        "x", **CPU, alignment_objective="mid_align", alignment_kwargs={"pivot_gradient": "detached"}
    )
    assert stopped.objective.pivot_gradient == "detached"
    for value in ("detached", "anchored", "momentum"):
        with pytest.raises(ValueError, match=f"`detach_pivot=False` .* `pivot_gradient='{value}'`"):
            SolarSFTConfig("x", **CPU, detach_pivot=False, alignment_kwargs={"pivot_gradient": value})


WANTED = {"layers": [0.5, -1], "positions": "prompt", **HIDDEN}


@pytest.mark.parametrize("parser", ["hf", "trl", "script"])
@pytest.mark.parametrize("source", ["json", "yaml", "yaml with json"])
def test_settings_from_the_command_line(parser, source, tmp_path):
    arguments = ["--output_dir", "x", "--use_cpu", "--bf16", "false", "--report_to", "none"]
    arguments += ["--alignment_objective", "mid_align"]
    if source == "json":
        arguments += ["--alignment_kwargs", json.dumps(WANTED)]
    elif parser == "hf":
        pytest.skip("reads no YAML next to arguments")
    else:
        text = json.dumps(WANTED)
        path = tmp_path / "config.yaml"
        path.write_text("alignment_kwargs: " + (f"'{text}'" if source == "yaml with json" else text) + "\n")
        arguments += ["--config", str(path)]
    if parser == "hf":
        (config,) = HfArgumentParser(SolarSFTConfig).parse_args_into_dataclasses(arguments)
    elif parser == "trl":
        (config,) = TrlParser(SolarSFTConfig).parse_args_and_config(arguments)
    else:
        arguments += ["--model_name_or_path", "m", "--data_files", "a.jsonl"]
        config = next(c for c in make_parser().parse_args_and_config(arguments) if isinstance(c, SolarSFTConfig))
    assert config.alignment_kwargs == WANTED
    assert config.objective == OBJECTIVES["mid_align"].override(WANTED)
    assert config.objective.layers == (0.5, -1)


def test_settings_survive_dictionaries_and_conversions():
    config = SolarSFTConfig("x", **CPU, alignment_objective="afp", alignment_kwargs={"layers": [1, -1]})
    assert config.to_dict()["alignment_kwargs"] == {"layers": [1, -1]}
    assert json.loads(config.to_json_string())["alignment_kwargs"] == {"layers": [1, -1]}
    clone = SolarSFTConfig(
        "x",
        **CPU,
        alignment_objective=config.alignment_objective,
        alignment_kwargs=config.to_dict()["alignment_kwargs"],
    )
    assert clone.objective == config.objective
    assert SolarSFTConfig.from_arguments(config) is config
    assert SolarSFTConfig.from_arguments(SFTConfig("x", **CPU)).objective == OBJECTIVES["solar"]
    config.alignment_kwargs = {"layers": []}  # set since: seen when a trainer is made
    with pytest.raises(ValueError, match="`layers`"):
        SolarSFTConfig.from_arguments(config)
    # A dict that the caller goes on to change is not the configuration's
    mine = {"layers": [1]}
    config = SolarSFTConfig("x", **CPU, alignment_objective="afp", alignment_kwargs=mine)
    mine["layers"] = [2]
    assert config.objective.layers == (1,)


def test_saved_arguments_keep_the_settings(tokenizer, tmp_path):
    config = {"alignment_kwargs": {**HIDDEN, "layers": [1]}, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer = solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config)
    trainer.train()
    (folder,) = (tmp_path / "solar").glob("checkpoint-*")
    saved = torch.load(folder / "training_args.bin", weights_only=False)
    assert saved.objective == trainer.args.objective and saved.alignment_kwargs == config["alignment_kwargs"]


def test_layer_indices():
    assert layer_indices((0, 1, -1, -2, 0.5, 2 / 3), 12) == (0, 1, 12, 11, 6, 8)
    assert layer_indices((0.01, 0.99), 4) == (0, 4)
    for layer in (5, -6):
        with pytest.raises(ValueError, match=f"asks for layer {layer}, but the model has 5 hidden states"):
            layer_indices((layer,), 4)


def test_layers_that_a_model_does_not_have(tokenizer, tmp_path):
    for layer in (3, -4):
        config = {"alignment_kwargs": {**HIDDEN, "layers": [layer]}}
        with pytest.raises(ValueError, match=f"asks for layer {layer}, but the model has 3 hidden states"):
            solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config)
    blockless = tiny_model("qwen3")
    blockless.config.num_hidden_layers = 7
    with pytest.raises(ValueError, match=r"The 7 blocks of Qwen3ForCausalLM were not found"):
        decoder_blocks(blockless)


def test_hard_tokens_need_embeddings_that_move(tokenizer, tmp_path):
    def make(config=None, **kwargs):
        config = {"alignment_objective": "hard_token", **(config or {})}
        return solar_trainer(tiny_model("qwen3"), token_rows(SPEC), tokenizer, tmp_path, config=config, **kwargs)

    frozen = "compares the embeddings of given tokens, .* not trained here"
    with pytest.raises(ValueError, match=frozen):
        make(peft_config=LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=frozen):
        make({"detach_embeddings": True})
    make(peft_config=LoraConfig(target_modules=["q_proj", "embed_tokens"]))


def test_prompts_that_are_not_marked(tokenizer, tmp_path):
    rows = token_rows(SPEC)
    for row in rows:
        row["labels"] = list(row["input_ids"])
    with pytest.raises(ValueError, match="nothing says what the prompt is"):
        solar_trainer(tiny_model("qwen3"), rows, tokenizer, tmp_path, config={"alignment_objective": "mid_align"})


# Memory


def kept_bytes(n_tokens, **options):
    """Bytes that the backward of one step needs, of a model with many layers; one entry per storage."""
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=256,
        intermediate_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        max_position_embeddings=1024,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    add_soft_token_head(model)
    labels = torch.randint(50, (4, n_tokens))
    tokens = SequenceTokens.count(labels, [n_tokens] * 4)
    pooling = Pooling(tokens=tokens, rows=(0, 1, 2, 3) if options else (), **options)
    storages = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(input_ids=labels, labels=labels, soft_token_pooling=pooling)
        loss = outputs.loss + outputs.summaries.square().sum() if options else outputs.loss
    total = sum(size for size, _ in storages.values())
    loss.backward()
    return total


@pytest.mark.parametrize("positions", ["response", "all"])
@pytest.mark.parametrize("layers", [(3,), (6,), (0, 2, 4, 6)], ids=str)
def test_hidden_states_cost_rows_not_tokens(layers, positions):
    """More than the SFT loss alone: a weight and an index per position, next to 1 KiB that one hidden state takes."""
    hidden = {"representation": "hidden_state", "layers": layers, "positions": positions}
    short, long = 32, 256
    extra = [kept_bytes(n, **hidden) - kept_bytes(n) for n in (short, long)]
    grown_per_position = (extra[1] - extra[0]) / (4 * (long - short))
    assert 0 <= grown_per_position <= len(layers) * 40 < 4 * 256
    assert extra[0] <= len(layers) * (40 * 4 * short + 4 * 256 * 4)


def test_soft_tokens_cost_rows_not_tokens():
    extra = [kept_bytes(n, representation="soft_token") - kept_bytes(n) for n in (32, 256)]
    assert (extra[1] - extra[0]) / (4 * 224) <= 8


# docs/objectives.md


def test_the_page_shows_the_frame_as_it_is():
    page = PAGE.read_text(encoding="utf-8")
    for name, preset in OBJECTIVES.items():
        assert f"`{name}`" in page
        if preset is None:
            continue
        (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        values = [preset.representation, preset.positions, preset.pooling, preset.distance, preset.pivot_gradient]
        values += [preset.status] if preset.source is None else [preset.status, preset.source.number]
        for value in values:
            assert value in row, f"{name}: {value}"
    for name in FRAME_FIELDS:
        assert f"`{name}`" in page
    for name in DISTANCES:
        assert f'`"{name}"`' in page


def test_the_code_of_the_page_runs(tokenizer, tmp_path):
    """What it adds works in a trainer, and is gone afterwards."""
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python(?: (\w+))?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("add") == 1
    distances, objectives = dict(DISTANCES), dict(OBJECTIVES)
    names = {"tokenizer": tokenizer}
    try:
        for kind, code in blocks:
            if kind == "add":
                exec(code, names)
                (added,) = OBJECTIVES.keys() - objectives.keys()
                trainer = solar_trainer(
                    tiny_model("qwen3"),
                    token_rows(SPEC),
                    tokenizer,
                    tmp_path,
                    config={"alignment_objective": added, "max_steps": 2},
                )
                trainer.train()
                assert trainer.state.log_history[0]["alignment_loss"] > 0
            else:
                for line in re.findall(r"^SolarSFTConfig\(.*\)$", code, re.MULTILINE):
                    config = eval(line, {"SolarSFTConfig": lambda **kw: SolarSFTConfig(**CPU, **kw)})
                    assert isinstance(config, SolarSFTConfig)
    finally:
        for registry, before in ((DISTANCES, distances), (OBJECTIVES, objectives)):
            registry.clear()
            registry.update(before)


def test_objective_is_a_value():
    one, other = Objective(description="a", layers=[1]), Objective(description="a", layers=(1,))
    assert one == other and hash(one) == hash(other)
