"""Offline, quiet, reproducible: two workers share two cores, so one thread each."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tiny_tokenizer import train_tokenizer


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_precision():
    """transformers 4 leaves `bf16=True` behind in the environment, for every trainer to come."""
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer()
