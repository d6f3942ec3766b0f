"""What is said of time (O1) and of space (O2), made one: gates over forecasts [batch, horizon, node] in z-units.

    adaptive    g O1 + (1 - g) O2            g = sigmoid(W [O1 ; O2]), W from 2 N to N sensors; above JOINT_SENSORS
                                             one small network of the two numbers of a sensor, shared by all
    attention   O1 + softmax(Q K^T / sqrt N) V      over steps; Q from O1, K and V from O2
    lstm        W h_t                        h the states of an LSTM along O1 that starts from the last step of O2

Source: brief D; models.md 3c. There Q, K and V are N x N maps and the LSTM has N x N weights; here Q, K and V scale
each sensor, and the LSTM runs along one sensor at a time with shared weights, so that memory grows with the sensors.
"""

from __future__ import annotations

import math
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

JOINT_SENSORS = 512  # above, W would be the largest part of the model
SHARED_WIDTH = 16

GateName = Literal["adaptive", "attention", "lstm", "spatial_only", "temporal_only"]


def make_gate(name: GateName, nodes: int) -> nn.Module | None:
    """None where there is only one branch."""
    match name:
        case "adaptive":
            return AdaptiveGate(nodes)
        case "attention":
            return AttentionGate(nodes)
        case "lstm":
            return LSTMGate()
        case "spatial_only" | "temporal_only":
            return None
        case unknown:
            assert_never(unknown)


class AdaptiveGate(nn.Module):
    """A share of each for every step and sensor; by W, or, for many sensors, by a network they share."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        joint = nodes <= JOINT_SENSORS
        self.joint = nn.Linear(2 * nodes, nodes) if joint else None
        self.shared = (
            None
            if joint
            else nn.Sequential(nn.Linear(2, SHARED_WIDTH), nn.ReLU(), nn.Linear(SHARED_WIDTH, 1))
        )

    def forward(
        self, time: Float[Tensor, "batch horizon node"], space: Float[Tensor, "batch horizon node"]
    ) -> Float[Tensor, "batch horizon node"]:
        return torch.lerp(space, time, self.share(time, space))

    def share(
        self, time: Float[Tensor, "batch horizon node"], space: Float[Tensor, "batch horizon node"]
    ) -> Float[Tensor, "batch horizon node"]:
        """Of O1."""
        if self.joint is not None:
            return torch.sigmoid(self.joint(torch.cat([time, space], -1)).float())
        assert self.shared is not None
        return torch.sigmoid(self.shared(torch.stack([time, space], -1)).squeeze(-1).float())


class AttentionGate(nn.Module):
    """O1 looks up the steps of O2 that resemble its own."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(nodes))
        self.key = nn.Parameter(torch.ones(nodes))
        self.value = nn.Parameter(torch.ones(nodes))

    def forward(
        self, time: Float[Tensor, "batch horizon node"], space: Float[Tensor, "batch horizon node"]
    ) -> Float[Tensor, "batch horizon node"]:
        with torch.autocast(time.device.type, enabled=False):
            scores = (time * self.query) @ (space * self.key).transpose(1, 2) / math.sqrt(time.shape[-1])
            return time + scores.softmax(-1) @ (space * self.value)


class LSTMGate(nn.Module):
    """An LSTM reads O1 step by step, knowing where O2 ends."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(1, SHARED_WIDTH)
        self.cell = nn.LSTMCell(1, SHARED_WIDTH)
        self.out = nn.Linear(SHARED_WIDTH, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, time: Float[Tensor, "batch horizon node"], space: Float[Tensor, "batch horizon node"]
    ) -> Float[Tensor, "batch horizon node"]:
        steps = time.transpose(0, 1).flatten(1).unsqueeze(-1)  # horizon (batch node) 1
        with torch.autocast(time.device.type, enabled=False):
            hidden = self.start(space[:, -1].reshape(-1, 1))
            cell = torch.zeros_like(hidden)
            states = []
            for step in steps:
                hidden, cell = self.cell(step, (hidden, cell))
                states.append(hidden)
            out = self.out(torch.stack(states)).squeeze(-1)
        return out.unflatten(1, (len(time), -1)).transpose(0, 1)
