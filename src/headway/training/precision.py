"""Which arithmetic the wide layers use; scan, softmax, losses and metrics are float32 always.

`auto` is float32 on a CPU (bf16 autocast measured 0.7 times as fast there at our widths), bf16 on a GPU that
has it, else fp16 with a gradient scaler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from headway.errors import InputError

PrecisionChoice = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A resolved choice.

    Attributes:
        name: fp32 | bf16 | fp16.
        device_type: cpu | cuda.
    """

    name: Literal["fp32", "bf16", "fp16"]
    device_type: str

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device_type, dtype=dtype, enabled=self.name != "fp32")

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """Scales losses in fp16; passes them through otherwise."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def resolve_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """`auto` by what the device has."""
    if choice != "auto":
        return Precision(name=choice, device_type=device.type)
    if device.type != "cuda":
        return Precision(name="fp32", device_type=device.type)
    real_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # emulated it is slower than fp32
    return Precision(name="bf16" if real_bf16 else "fp16", device_type=device.type)


def resolve_device(choice: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """`auto` is a CUDA GPU where there is one.

    Raises: InputError when `cuda` is asked for and absent.
    """
    present = torch.cuda.is_available()
    if choice == "cuda" and not present:
        raise InputError("runtime.device is cuda and torch finds no CUDA GPU; set runtime.device: auto")
    if choice == "auto":
        choice = "cuda" if present else "cpu"
    return torch.device(choice)
