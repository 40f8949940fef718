"""Trains until it kills itself, like a node that goes down; or from the last checkpoint on; or straight through."""

import json
import os
import signal
import sys
from pathlib import Path


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
from datasets import Dataset
from helpers import QUIET, leave, solar_trainer, token_rows
from models import tiny_model
from peft import LoraConfig
from tiny_tokenizer import train_tokenizer
from transformers import BitsAndBytesConfig, TrainerCallback


SPEC = [(language, item) for item in range(6) for language in ("en", "sw", "th")]
CONFIG = {
    **QUIET,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 3,
    "save_strategy": "steps",
    "save_steps": 1,
    "alignment_schedule": "linear_decay",
}


class Kill(TrainerCallback):
    """`where`: "step" kills in the middle of an optimizer step, "save" while the checkpoint is being written."""

    def __init__(self, trainer, where: str, step: int):
        self.where, self.step = where, step
        if where == "save":
            save = trainer._save_optimizer_and_scheduler

            def torn(output_dir):
                if trainer.state.global_step == step:
                    (Path(output_dir) / "optimizer.pt").write_bytes(b"PK half of it")
                    os.kill(os.getpid(), signal.SIGKILL)
                return save(output_dir)

            trainer._save_optimizer_and_scheduler = torn

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.where == "step" and state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(case: dict, folder: Path, mode: str) -> None:
    torch.set_num_threads(1)
    kwargs, model = {}, tiny_model("qwen3")
    if case.get("lora"):
        kwargs["peft_config"] = LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj", "v_proj"])
    if case.get("nf4"):
        path = str(folder / "model")
        model.save_pretrained(path)
        model = path
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    trainer = solar_trainer(
        model,
        Dataset.from_list(token_rows(SPEC)),
        train_tokenizer(),
        folder,
        config={**CONFIG, **case.get("config", {})},
        **kwargs,
    )
    if mode == "kill":
        trainer.add_callback(Kill(trainer, *case["kill"]))
    trainer.train(resume_from_checkpoint=mode == "resume" or None)
    assert mode != "kill", "it was to be killed"
    if trainer.is_world_process_zero():
        # Not of a step; and TRL's count of tokens, which starts anew with each run
        drop = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")
        drop += ("num_tokens",)
        torch.save(
            {
                "world_size": trainer.accelerator.num_processes,
                "weights": {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad},
                "optimizer": trainer.optimizer.state_dict()["state"],
                "logs": [{k: v for k, v in log.items() if k not in drop} for log in trainer.state.log_history],
            },
            folder / f"{mode}.pt",
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    leave()
