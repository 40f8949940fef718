"""
The Triton tiles without a GPU: what they compute under Triton's interpreter, that the compiler takes them (the
interpreter accepts programs that it rejects), and that nothing needs Triton.
"""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from solar_trl.kernels import HeadMaths, HeadOptions, triton_tiles
from solar_trl.kernels.plan import accumulation_dtype
from solar_trl.kernels.segments import Segments
from solar_trl.kernels.tiles import HeadGradients, TokenStatistics


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def in_a_new_process(*args, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | environment
    done = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=env, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    return done.stdout


@needs_triton
def test_under_the_interpreter():
    """Triton must not have been imported before: other tests of this process may have done so."""
    tests = str(Path(__file__).with_name("triton_interpreted.py"))
    assert " passed" in in_a_new_process("-m", "pytest", "-p", "no:cacheprovider", tests, TRITON_INTERPRET="1")


def test_without_triton():
    program = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch
from solar_trl.kernels import soft_token_head, triton_tiles
assert not any(triton_tiles.available(torch.device(kind)) for kind in ("cpu", "cuda", "xpu", "mps"))
hidden = torch.randn(4, 3, requires_grad=True)
out = soft_token_head(hidden, torch.randn(5, 3), None, torch.randn(5, 2), torch.arange(4), [(0, 4)])
out[-1].sum().backward()
print(hidden.grad.abs().sum() > 0)
"""
    assert in_a_new_process("-c", program).split() == ["tensor(True)"]


@pytest.mark.skipif(INTERPRETED, reason="kernels are interpreted")
def test_the_cpu_has_torch_tiles():
    assert not triton_tiles.available(torch.device("cpu"))
    assert not triton_tiles.available(torch.device("meta"))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """
    Triton as on an H100: a launch compiles the kernel to machine code for exactly its arguments, and ends there. Gives
    what was compiled, by kernel.
    """
    if INTERPRETED or find_spec("triton") is None:
        pytest.skip("needs Triton's compiler")
    import triton
    from triton.backends.compiler import GPUTarget

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    h100 = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    driver = triton.runtime.driver
    monkeypatch.setattr(driver, "_active" if hasattr(driver, "_active") else "active", h100)
    kernels, made = triton_tiles._kernels(), {}
    for name in ("statistics_kernel", "pool_kernel", "gradient_kernel"):
        kernel = getattr(kernels, name)
        attribute = "device_caches" if hasattr(kernel, "device_caches") else "cache"
        caches, run, made[name] = getattr(kernel, attribute), kernel.run, {}
        monkeypatch.setattr(kernel, attribute, type(caches)(caches.default_factory))

        def compile_only(*args, warmup, run=run, made=made[name], **kwargs):
            binary = run(*args, warmup=True, **kwargs)
            assert binary.asm["cubin"]
            made[binary.hash] = binary

        monkeypatch.setattr(kernel, "run", compile_only)
    return made


def launch(
    dtype=torch.bfloat16, options=None, n=4, vocab_size=100, start=0, segments=((0, 2),), scored=True, which=(1, 1, 1)
):
    """The launches of one tile, on tensors that nothing reads."""
    options, wide, n_tokens = options or HeadOptions(), accumulation_dtype(dtype), start + n
    placed = Segments(segments, n_tokens, torch.device("cpu"))
    shift = start % 2  # where targets begin in memory need not be a multiple of 16 bytes
    targets = torch.zeros(n_tokens + shift, dtype=torch.int64)[shift:] if scored else None
    statistics = TokenStatistics.empty(n_tokens, options.two_partitions, wide, placed.device)
    mean_probs = torch.empty(len(placed), vocab_size, dtype=wide)
    incoming = (torch.empty(n_tokens, dtype=wide), torch.empty(n_tokens, dtype=wide), mean_probs)
    gradients = HeadGradients(*(x if wanted else None for x, wanted in zip(incoming, which, strict=True)))
    buffers, tile = torch.empty(1, n, vocab_size, dtype=dtype), slice(start, n_tokens)
    triton_tiles.forward_tile(buffers, tile, targets, placed, options, statistics, mean_probs)
    triton_tiles.backward_tile(buffers, tile, targets, placed, options, statistics, gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_compiler_takes_every_dtype_and_option(compiled, dtype):
    for scale, softcap, temperature in [(1.0, None, 1.0), (0.5, None, 0.6), (0.5, 30.0, 1.7)]:
        launch(dtype, HeadOptions(HeadMaths(scale, softcap), temperature))
    assert [len(made) for made in compiled.values()] == [3, 3, 3]


def test_the_compiler_takes_every_combination_of_gradients(compiled):
    for which in itertools.product([0, 1], repeat=3):
        launch(which=which)
    launch(segments=())
    launch(scored=False, which=(0, 0, 1))
    launch(scored=False, segments=(), which=(0, 1, 0))
    assert len(compiled["statistics_kernel"]) == 4 and len(compiled["pool_kernel"]) == 1
    assert len(compiled["gradient_kernel"]) == 8


def test_no_batch_shape_is_compiled_anew(compiled):
    for n, start in itertools.product([1, 2, 15, 16, 33], [0, 1, 16, 17]):
        for rows in (1, 2, 16):
            segments = tuple((i, i + 1) for i in range(min(rows, n + start)))
            launch(n=n, start=start, segments=(*segments[:-1], (segments[-1][0], n + start)))
    assert [len(made) for made in compiled.values()] == [1, 1, 1]
    launch(vocab_size=112)  # a multiple of 16: a new one
    assert [len(made) for made in compiled.values()] == [2, 2, 2]


def test_logits_are_read_16_bytes_at_a_time(compiled):
    launch(vocab_size=152064)
    assert all("ld.global.v4.b32" in binary.asm["ptx"] for made in compiled.values() for binary in made.values())
