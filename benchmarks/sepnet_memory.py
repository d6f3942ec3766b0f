"""What a training step of ST-SepNet with a language model of 110 million parameters holds: planned, and measured.

    python benchmarks/sepnet_memory.py [--sensors 207] [--kind bert|gpt2] [--json FILE]

The preset st-sepnet, 48 steps -> 48, micro-batch 1, and a backbone in the shape of BERT-base or GPT-2 with random
weights, made in a temporary folder and loaded as a downloaded one would be. Measured are the tensors that a forward
pass keeps for the backward pass, and the resident size of a fresh process that takes two whole updates.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from headway.commands.presets import apply_preset
from headway.commands.sections import read_sections
from headway.commands.sizes import model_of_size
from headway.data.prepared import PreparedMeta
from headway.models.standardized import Standardized
from headway.training.memory import MIB
from headway.training.optimizer import make_optimizer
from headway.training.piece import backward_piece
from headway.training.precision import Precision
from headway.training.trace import windows_of_size
from headway.training.window_plan import WindowPlanner

STEP_SECONDS = 300
FP32 = Precision(name="fp32", device_type="cpu")


def main() -> None:
    arguments = parse_arguments()
    if arguments.folder:
        sys.stdout.write(json.dumps(measure(*build(arguments.folder, arguments.sensors))))
        return
    with tempfile.TemporaryDirectory(prefix="headway-") as place:
        folder = write_backbone(Path(place) / arguments.kind, arguments.kind)
        figures = plan(*build(folder, arguments.sensors))
        command = [sys.executable, __file__, "--folder", str(folder), "--sensors", str(arguments.sensors)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures |= json.loads(done.stdout)
    figures["difference"] = figures["planned_kept_mib"] / figures["measured_kept_mib"] - 1
    for name, value in figures.items():
        sys.stdout.write(f"{name:<22} {value:>10,.3f}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sensors", type=int, default=207)
    parser.add_argument("--kind", choices=("bert", "gpt2"), default="bert")
    parser.add_argument("--folder", type=Path, help="measure with this backbone, here")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def write_backbone(folder: Path, kind: str) -> Path:
    """Random weights in the shape of the model's own default, and a tokenizer that knows no word from another."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModel, BertConfig, GPT2Config, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModel.from_config(BertConfig() if kind == "bert" else GPT2Config())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"?": 0, ".": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    return folder


def build(folder: Path, sensors: int) -> tuple[Standardized, PreparedMeta]:
    """The model that training would build."""
    with tempfile.TemporaryDirectory() as place:
        params = Path(shutil.copy(ROOT / "params.yaml", place))
        apply_preset(params, ROOT / "presets", "st-sepnet")
        sections = read_sections(params)
    own = replace(sections["st_sepnet"], temporal="llm", backbone=str(folder))
    return model_of_size(sections | {"st_sepnet": own}, sensors, STEP_SECONDS)


def plan(model: Standardized, meta: PreparedMeta) -> dict[str, Any]:
    """What the planner says of one window at a time."""
    planner = WindowPlanner(model, meta, 16, FP32)
    judged, gpu = planner.judge(1, False, 4 * 2**30), planner.on_cuda().judge(1, False, 4 * 2**30)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return {
        "frozen_millions": frozen / 1e6,
        "trained_millions": model.parameter_count() / 1e6,
        "planned_cpu_mib": judged.needed / MIB,
        "planned_gpu_mib": gpu.needed / MIB,
        "planned_traced_mib": judged.memory.peak / MIB,
        "planned_weights_mib": judged.memory.parameters / MIB,
        "planned_kept_mib": judged.memory.activations / MIB,
    }


def measure(model: Standardized, meta: PreparedMeta) -> dict[str, Any]:
    """Storages kept for the backward pass, weights and windows aside; then the peak of a process of two updates."""
    model.train()
    batch = windows_of_size(meta, 1)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    known |= {getattr(batch, name).untyped_storage().data_ptr() for name in batch.__slots__}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    standardized = model.standardize(batch)
    known |= {getattr(standardized, name).untyped_storage().data_ptr() for name in batch.__slots__}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.forecast_standard(standardized)
    train = read_sections(ROOT / "params.yaml")["train"]
    optimizer = make_optimizer(model, train.lr, train.weight_decay)
    for _ in range(2):
        for _ in range(2):  # two pieces a group: gradients are there when the second begins
            backward_piece(model, batch, 1, FP32, torch.amp.GradScaler("cpu", enabled=False))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"measured_kept_mib": sum(kept.values()) / MIB, "measured_resident_mib": peak}


if __name__ == "__main__":
    main()
