"""
One optimizer step per case, with sharded weights on two CPU ranks; rank 0 saves the gradients that were applied.

accelerate shards on accelerators only. Here it is told that gloo on CPUs is one: that checks the arithmetic of FSDP2's
real DTensors and of DeepSpeed's real partitions, not a GPU.
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path


os.environ["DS_ACCELERATOR"] = "cpu"
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import unset_hf_deepspeed_config


def shard_on_cpus() -> None:
    def set_device(self):
        self.device = torch.device("cpu")

    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device


FSDP = {
    "fsdp": "full_shard",
    "fsdp_config": {"fsdp_version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
}


def deepspeed(stage: int) -> dict:
    return {
        "deepspeed": {
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        }
    }


SHARDING = {"ddp": {}, "fsdp2": FSDP, "zero2": deepspeed(2), "zero3": deepspeed(3)}


def whole_weights(trainer) -> dict[str, torch.Tensor]:
    """All trainable parameters, put together from the ranks' shards."""
    weights = {}
    for name, parameter in trainer.model.named_parameters():
        if not parameter.requires_grad:
            continue
        context = nullcontext()
        if hasattr(parameter, "ds_id"):
            import deepspeed as ds

            context = ds.zero.GatheredParameters([parameter])
        with context:
            value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            weights[name.removeprefix("module.")] = value.detach().clone().double()
    return weights


def run(case: dict, folder: Path) -> dict:
    """One optimizer step and one evaluation."""
    from datasets import Dataset
    from distributed_worker import sorted_rows
    from helpers import SPEC, sft_trainer, solar_trainer, token_rows
    from models import tiny_model
    from peft import LoraConfig
    from tiny_tokenizer import train_tokenizer

    sharding = case["sharding"]
    config = {
        "max_steps": 1,
        "use_cpu": sharding in ("none", "ddp"),
        "per_device_train_batch_size": 2,
        **SHARDING.get(sharding, {}),
        **case.get("config", {}),
    }
    kwargs = {}
    if targets := case.get("lora"):
        kwargs["peft_config"] = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    model = tiny_model(case["model"], **case.get("model_options", {}))
    if case.get("by_name"):  # loaded by the trainer, under ZeRO-3 into partitions
        if int(os.environ.get("RANK", "0")) == 0:
            model.save_pretrained(folder / "model")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        model = str(folder / "model")
    if case.get("plain"):
        trainer = sft_trainer(model, sorted_rows(), train_tokenizer(), folder, config=config, **kwargs)
    else:
        config = {"alignment_weight": 3.0, "pivot_batching": "random", **config}
        kwargs["eval_dataset"] = Dataset.from_list(token_rows([*SPEC, ("th", 2)], seed=5))
        trainer = solar_trainer(model, sorted_rows(), train_tokenizer(), folder, config=config, **kwargs)
    before = whole_weights(trainer)
    trainer.train()
    metrics = {} if case.get("plain") else trainer.evaluate()
    after = whole_weights(trainer)
    return {
        "world_size": trainer.accelerator.num_processes,
        "kind": trainer.accelerator.distributed_type.value,
        "sharded": any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in trainer.model.parameters()),
        # Plain gradient descent with learning rate 1
        "gradients": {name: before[name] - after[name] for name in after},
        "logs": trainer.state.log_history[0],
        "eval": metrics,
    }


def main(cases: list[dict], out: str) -> None:
    torch.set_num_threads(1)
    if cases[0]["sharding"] not in ("none", "ddp"):
        shard_on_cpus()
    results = []
    for case in cases:
        results.append(run(case, Path(out).parent))
        AcceleratorState._reset_state()  # the process group stays
        unset_hf_deepspeed_config()
    if PartialState().is_main_process:
        torch.save(results, out)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
    from helpers import leave

    leave()
