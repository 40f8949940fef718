"""What is read from TRL, transformers and PEFT is what they themselves use."""

import copy
import inspect
import subprocess
import sys

import pytest
import torch
from helpers import SPEC, solar_trainer, token_rows
from models import MODEL_NAMES, tiny_model
from reference import effective_embedding as read_off
from test_step import ADAPTERS
from transformers import AutoConfig
from trl.trainer.utils import add_fused_lm_head

from solar_trl import _compat
from solar_trl.kernels import HeadMaths
from solar_trl.modeling import Pooling, add_soft_token_head
from solar_trl.sequence_tokens import SequenceTokens


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_head_maths_is_that_of_trl(name):
    """TRL keeps the scale and the cap in the closure of its fused forward."""
    model = tiny_model(name)
    add_fused_lm_head(model)
    theirs = inspect.getclosurevars(model.forward.__func__).nonlocals
    ours = _compat.head_maths(model.config)
    assert (ours.scale, ours.softcap) == (theirs["logit_scale"], theirs["final_logit_softcapping"])


@pytest.mark.parametrize(
    ("model_type", "values", "scale"),
    [("falcon_h1", {"lm_head_multiplier": 0.3}, 0.3), ("granitemoe", {"logits_scaling": 4.0}, 0.25), ("mpt", {}, 1.0)],
)
def test_head_maths_of_other_families(model_type, values, scale):
    assert _compat.head_maths(AutoConfig.for_model(model_type, **values)) == HeadMaths(scale, None)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_soft_token_forward_is_the_models_own(name):
    """Log-probabilities of the fused forward are those of the model's own logits, and other calls are left alone."""
    model = tiny_model(name)
    ids = torch.randint(3, 380, (2, 9))
    labels = ids.clone()
    labels[0, :4] = -100
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        theirs = model(input_ids=ids, labels=labels, fused_lm_head=True)
        add_soft_token_head(model)
        pooling = Pooling(SequenceTokens.count(labels, [9, 9]), rows=(1,))
        ours = model(input_ids=ids, labels=labels, fused_lm_head=True, soft_token_pooling=pooling)
        assert torch.equal(model(input_ids=ids).logits, logits)
        generated = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert generated.shape == (2, 11)
    mask = labels[:, 1:] != -100
    expected = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0] * mask
    torch.testing.assert_close(ours.log_probs, expected, rtol=1e-4, atol=1e-4)
    for key in ("log_probs", "entropy", "is_top1", "label_mask", "loss"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-4)
    assert ours.summaries.shape == (1, 32)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_effective_embedding_is_the_lookup(adapter, tokenizer, tmp_path):
    trainer = solar_trainer(
        tiny_model("gemma2"), token_rows(SPEC), tokenizer, tmp_path, peft_config=copy.deepcopy(ADAPTERS[adapter])
    )
    model = _compat.base_model(trainer.model)
    probs = torch.eye(389)
    torch.testing.assert_close(_compat.effective_embedding(model).mix(probs), read_off(model), rtol=1e-4, atol=1e-5)
    if adapter != "lora":
        # A test that could not tell the adapters from the base matrix would be none
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "embed_tokens" in name and parameter.requires_grad:
                    parameter.mul_(2.0)
        now = _compat.effective_embedding(model).mix(probs)
        torch.testing.assert_close(now, read_off(model), rtol=1e-4, atol=1e-5)
        with trainer.model.disable_adapter():
            off = _compat.effective_embedding(model).mix(probs)
            torch.testing.assert_close(off, read_off(model), rtol=1e-4, atol=1e-5)
        assert (now - off).abs().max() > 1e-3


def test_moved_names_fail_early():
    """At import, with the installed version and the supported range, not in the middle of a run."""
    _compat.require_hooks()
    without = type("SFTTrainer", (), {name: None for names in _compat._HOOKS.values() for name in names})
    _compat.require_hooks(without)
    del without._prepare_dataset
    with pytest.raises(
        ImportError, match=r"`SFTTrainer._prepare_dataset` is not in trl .*made for trl(>=1.16,<2|<2,>=1.16)"
    ):
        _compat.require_hooks(without)
    # In a process of its own, since modules are imported once
    program = (
        "import trl.trainer.utils as utils; del utils.FusedCausalLMOutput\n"
        "try: import solar_trl.trainer\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert "`trl.trainer.utils.FusedCausalLMOutput` is not in trl" in done.stdout
