"""4-bit NF4 through bitsandbytes, for real on CPU."""

import pytest
import torch
from helpers import SPEC, relative_error, solar_trainer, step_gradients, token_rows
from models import tiny_model
from peft import LoraConfig
from transformers import BitsAndBytesConfig


pytest.importorskip("bitsandbytes")


@pytest.fixture
def model_path(tokenizer, tmp_path):
    path = tmp_path / "model"
    tiny_model("qwen3", tied=False).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("double", [False, True])
def test_qlora(double, model_path, tokenizer, tmp_path):
    config = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.1, "gradient_checkpointing": True}
    trainer = solar_trainer(
        model_path,
        token_rows(SPEC),
        tokenizer,
        tmp_path,
        config=config,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    stored = trainer.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert stored.dtype == torch.uint8  # really 4-bit
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    logs = [log for log in trainer.state.log_history if "alignment_loss" in log]
    assert len(logs) == 3 and all(0 < log["alignment_loss"] < 2 for log in logs)
    moved = [n for n, p in trainer.model.named_parameters() if n in before and not torch.equal(before[n], p)]
    assert moved == list(before)
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_alignment_gradient_reaches_the_adapter(model_path, tokenizer, tmp_path):
    def gradients(weight):
        trainer = solar_trainer(
            model_path,
            token_rows(SPEC),
            tokenizer,
            tmp_path,
            config={"max_steps": 1, "per_device_train_batch_size": 8, "alignment_weight": weight},
            quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "down_proj"]),
        )
        return step_gradients(trainer)

    assert relative_error(gradients(3.0), gradients(1e-12)) > 0.01
