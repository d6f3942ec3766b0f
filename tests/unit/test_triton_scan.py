"""Whether mamba-ssm's kernel is used: a package of that name stands in for it, right, wrong, broken or absent."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from headway.nn import mamba, triton_scan
from headway.nn.gated_scan import why_not_in_c
from headway.nn.mamba import Mamba2
from headway.nn.triton_scan import kernel_for, kernel_name, load_kernel, tried_kernel

RIGHT = "return selective_scan(u, dt, A, B.squeeze(2), C.squeeze(2), D)"
SCAN = """
from headway.nn.selective_scan import selective_scan
from mamba_ssm.utils import determinism

assert determinism.mode, "block sizes are chosen when the file is read"

def mamba_chunk_scan_combined(u, dt, A, B, C, chunk_size, D=None):
    {body}
"""
DETERMINISM = "mode = False\ndef set_deterministic_mode(value):\n    global mode\n    mode = value\n"

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a mamba-ssm on the path whose scan has this body and whose `__init__` fails, as that of the pure build."""
    forget()
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str) -> None:
        files = {
            "__init__.py": "import selective_scan_cuda_which_nobody_built",
            **{f"{folder}/__init__.py": "" for folder in ("utils", "ops", "ops/triton")},
            "utils/determinism.py": DETERMINISM,
            "ops/triton/ssd_combined.py": SCAN.format(body=body),
        }
        for name, text in files.items():
            path = tmp_path / "mamba_ssm" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    yield write
    forget()


def forget() -> None:
    tried_kernel.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]


def test_a_kernel_with_our_numbers_is_used_and_the_package_is_left_as_it_was(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(RIGHT)
    with caplog.at_level(logging.INFO):
        assert tried_kernel("cpu") is tried_kernel("cpu") is not None
    assert caplog.messages == ["the selective scan runs on mamba-ssm's Triton kernel"]
    assert "mamba_ssm" not in sys.modules


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 1.01 * " + RIGHT.removeprefix("return "), "values are off by 1.0e-02 of the largest"),
        (
            "return selective_scan(u.detach() * 1 + 0 * u, dt, A, B.squeeze(2), C.squeeze(2), D)",
            "the gradient of u",
        ),
        ("return float('nan') * " + RIGHT.removeprefix("return "), "values are off by nan"),
        (
            "raise RuntimeError('no kernel image is available\\nfor this device')",
            "RuntimeError: no kernel image",
        ),
        ("return u[:1]", "RuntimeError: "),
    ],
)
def test_a_kernel_that_gives_other_numbers_or_breaks_is_not_used_and_one_line_says_why(
    install: Install, caplog: pytest.LogCaptureFixture, body: str, reason: str
) -> None:
    install(body)
    with caplog.at_level(logging.INFO):
        assert tried_kernel("cpu") is tried_kernel("cpu") is None
    (line,) = caplog.messages
    assert line.startswith("the selective scan runs on headway's own operators") and reason in line
    assert "\n" not in line


def test_rounding_to_tf32_is_no_reason(install: Install) -> None:
    install("return (1 + 2**-10) * " + RIGHT.removeprefix("return "))
    assert tried_kernel("cpu") is not None


def test_without_the_package_the_line_names_the_command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried_kernel.cache_clear()
    monkeypatch.setattr(triton_scan, "PACKAGE", "mamba_ssm_that_is_not_here")
    with caplog.at_level(logging.INFO):
        assert tried_kernel("cpu") is None
    tried_kernel.cache_clear()
    assert "mamba-ssm is not installed; `make kernel` installs it" in caplog.text


def test_a_cpu_and_float32_never_ask_for_it(install: Install) -> None:
    install("raise AssertionError('tried')")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernel_for(torch.ones(2)) is None
    assert kernel_name("cpu", "bf16") == ("native" if why_not_in_c() else "native, in C")
    assert kernel_name("cuda", "fp32") == "native"
    assert tried_kernel.cache_info().misses == 0


def test_the_model_card_names_what_ran_the_scan(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(RIGHT)
    monkeypatch.setattr(triton_scan, "version", lambda _: "2.3.2.post1")
    monkeypatch.setattr(triton_scan, "differing", lambda *_: "")
    assert kernel_name("cuda", "bf16") == "mamba-ssm 2.3.2.post1"
    tried_kernel.cache_clear()
    monkeypatch.setattr(triton_scan, "differing", lambda *_: "values are off")
    assert kernel_name("cuda", "bf16") == "native"


@pytest.mark.parametrize("steps", [7, 80])
def test_a_block_on_the_kernel_gives_its_numbers_and_keeps_no_more_than_it_reads(
    install: Install, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    install(RIGHT)
    torch.manual_seed(0)
    block = Mamba2(8, expand=2, head_dim=4, state_dim=5, conv_width=4)
    u = torch.randn(3, steps, 8, requires_grad=True)
    leaves = [u, *block.parameters()]
    own = block(u)
    expected = [own, *torch.autograd.grad(own.square().sum(), leaves)]
    kernel, calls = load_kernel(), []

    def counted(*given: Tensor) -> Tensor:
        calls.append(1)
        return kernel(*given)

    monkeypatch.setattr(mamba, "kernel_for", lambda _: counted)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = block(u)
    found = [made, *torch.autograd.grad(made.square().sum(), leaves)]
    assert len(calls) == 2, "forward, and once more for the gradient"
    assert sum(kept.values()) < 12_000 * steps / 7
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
