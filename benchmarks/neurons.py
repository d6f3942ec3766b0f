"""What an encoder learns of trees that are no roads, and whether that helps to tell them apart by few labels.

    python benchmarks/neurons.py --data DIR [--seeds 3] [--splits 5] [--labels 5] [--steps 1440] [--points 60]
        [--hidden 64] [--class-steps 60] [--json FILE]

DIR has trees.parquet and nodes.parquet (`headway.data.tree_files`). An encoder is pretrained by the loop of the
pretrain stage on four trees of five, and judged by the fifth, which it has not seen; so are two controls: shuffled
nodes, whose growth still tells the scale of a tree, and random targets. Beside the growth stand the best constant,
and the best of each tree in hindsight. Then every tree is the mean and the maximum of the embeddings of its nodes,
and a linear map is trained on `--labels` trees a class: on the frozen pretrained encoder, on a frozen random
one, together with the pretrained one, and together with a fresh one. Accuracy is that of all other trees.

JSON: {"pretraining": {targets: [last row of each seed]}, "accuracy": {way: [one a split]}}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headway.commands.sections import read_sections
from headway.data.tree_files import LabeledTree, read_trees
from headway.nn.tree_encoder import TreeBatch, TreeEncoder
from headway.objectives.gt_ssl import best_constant
from headway.training.precision import Precision
from headway.training.pretrain_experiment import make_encoder
from headway.training.pretraining import PretrainParams, pretrain
from headway.training.run import Run
from headway.training.tree_batches import make_batch
from headway.training.tree_sources import GivenTrees

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("tree", "shuffled_tree", "random")
COLUMNS = {
    "growth": "val/growth",
    "best constant": "val/growth_of_constant",
    "of each tree": "constant_of_each_tree",
    "order violations": "val/order_violations",
    "ancestors violated": "val/ancestors_violated",
    "unrelated confused": "val/unrelated_confused",
}
FROZEN = ("frozen, pretrained", "frozen, random")
WAYS = (*FROZEN, "trained on, pretrained", "from scratch")
LOOKS = 8  # at the validation trees
FP32 = Precision(name="fp32", device_type="cpu")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    trees = read_trees(arguments.data, arguments.points)
    log(f"{len(trees)} trees, {np.median([len(each.tree) for each in trees]):.0f} points each (median)")
    sections = sections_of(arguments)
    rows, encoders = pretrain_all(trees, sections, arguments.seeds)
    print_pretraining(rows)
    accuracy = classify_all(trees, sections, encoders, arguments)
    print_accuracy(accuracy, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"pretraining": rows, "accuracy": accuracy}, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with trees.parquet, nodes.parquet")
    parser.add_argument("--seeds", type=int, default=3, help="of pretraining, and of each control")
    parser.add_argument("--splits", type=int, default=5, help="draws of the labeled trees")
    parser.add_argument("--labels", type=int, default=5, help="labeled trees a class")
    parser.add_argument("--steps", type=int, default=1440, help="of each pretraining, of four trees each")
    parser.add_argument("--points", type=int, default=60, help="of a tree, beside its branch points")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--class-steps", type=int, default=60, help="of each classifier")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


def sections_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """params.yaml with a method, as long and as wide as asked for."""
    sections = read_sections(ROOT / "params.yaml")
    steps = -(-arguments.steps // LOOKS)
    own = replace(
        sections["pretrain"], method="gt_ssl", epochs=LOOKS, epoch_steps=steps, validation_trees=1000
    )
    return sections | {"pretrain": own, "sgmp": replace(sections["sgmp"], hidden_dim=arguments.hidden)}


def source_of(trees: Sequence[LabeledTree], seed: int) -> GivenTrees:
    """Every fifth tree of a shuffle is kept for validation."""
    order = np.random.default_rng(seed).permutation(len(trees))
    kept, others = order[: len(trees) // 5], order[len(trees) // 5 :]
    return GivenTrees([trees[each].tree for each in others], [trees[each].tree for each in kept], seed)


def pretrain_all(
    trees: Sequence[LabeledTree], sections: dict[str, Any], seeds: int
) -> tuple[dict[str, list[dict[str, float]]], list[TreeEncoder]]:
    """Last rows of the curves by targets, and the encoders of the real targets."""
    rows: dict[str, list[dict[str, float]]] = {targets: [] for targets in TARGETS}
    encoders = []
    for targets in TARGETS:
        for seed in range(seeds):
            params = replace(sections["pretrain"], targets=targets, seed=seed)
            encoder, row = pretrain_one(source_of(trees, seed), sections | {"pretrain": params}, params)
            rows[targets].append(row)
            if targets == "tree":
                encoders.append(encoder)
            growth, constant = row["val/growth"], row["val/growth_of_constant"]
            log(f"{targets}, seed {seed}: growth {growth:.4f}, best constant {constant:.4f}")
    return rows, encoders


def pretrain_one(
    source: GivenTrees, sections: dict[str, Any], params: PretrainParams
) -> tuple[TreeEncoder, dict[str, float]]:
    """The pretrain stage's loop in a folder of its own."""
    encoder = make_encoder(sections, source, attributes=1)
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        os.environ["DVC_ROOT"] = folder
        runtime = replace(sections["runtime"], micro_batch=params.batch_size)
        with Run("pretrain", {"code": "benchmark"}, runtime) as run:
            progress = pretrain(encoder, source, params, run, FP32, Path(folder) / "curves")
    return encoder, progress.curve[-1] | {"constant_of_each_tree": constant_of_each(source, params)}


def constant_of_each(source: GivenTrees, params: PretrainParams) -> float:
    """Growth loss of the best constant of every validation tree, fitted to the nodes it is judged by."""
    drawn = source.validation(params.validation_trees)
    asked, planar = params.asked(), source.scale.planar
    rows = [
        make_batch([tree], [seed], source.scale, asked).growth
        for tree, seed in zip(drawn.trees, drawn.seeds, strict=True)
    ]
    summed = sum(len(growth) * best_constant(growth, source.scale.reach, planar=planar) for growth in rows)
    return summed / sum(map(len, rows))


def classify_all(
    trees: Sequence[LabeledTree],
    sections: dict[str, Any],
    encoders: Sequence[TreeEncoder],
    arguments: argparse.Namespace,
) -> dict[str, list[float]]:
    """Accuracy of every way in every split."""
    names = sorted({each.label for each in trees})
    labels = np.array([names.index(each.label) for each in trees])
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for split in range(arguments.splits):
        seed = split % len(encoders)
        source, params = source_of(trees, seed), sections["pretrain"]
        random = np.random.default_rng(1000 + split)
        shown = np.concatenate(
            [
                random.permutation(np.flatnonzero(labels == name))[: arguments.labels]
                for name in range(len(names))
            ]
        )
        fresh = make_encoder(
            {**sections, "pretrain": replace(params, seed=100 + split)}, source, attributes=1
        )
        cases = Cases([each.tree for each in trees], labels, shown, source, params)
        starts = {"pretrained": encoders[seed], "random": fresh, "from scratch": fresh}
        for way in WAYS:
            start = deepcopy(starts[way.split(", ")[-1]])
            found[way].append(cases.accuracy(start, way in FROZEN, arguments.class_steps, 1000 + split))
        log(f"split {split}: " + ", ".join(f"{way} {scores[-1]:.1%}" for way, scores in found.items()))
    return found


class Cases:
    """Labeled trees as batches: those shown together, the others a few at a time."""

    def __init__(
        self,
        trees: Sequence[Any],
        labels: np.ndarray,
        shown: np.ndarray,
        source: GivenTrees,
        params: PretrainParams,
    ) -> None:
        hidden = np.setdiff1d(np.arange(len(trees)), shown)
        self.shown, *self.hidden = (
            self._batch(trees, labels, part, source, params)
            for part in (shown, *np.array_split(hidden, -(-len(hidden) // 32)))
        )

    @staticmethod
    def _batch(
        trees: Sequence[Any], labels: np.ndarray, part: np.ndarray, source: GivenTrees, params: PretrainParams
    ) -> tuple[TreeBatch, Tensor, Tensor]:
        """Trees, the tree of each node, the label of each tree."""
        chosen = [trees[each] for each in part]
        batch = make_batch(chosen, [(7, int(each)) for each in part], source.scale, params.asked())
        owner = np.repeat(np.arange(len(part)), [len(tree) for tree in chosen])
        return batch, torch.from_numpy(owner), torch.from_numpy(labels[part])

    def accuracy(self, encoder: TreeEncoder, frozen: bool, steps: int, seed: int) -> float:
        """Train a linear map on the shown trees, and the encoder unless it is frozen; judge the hidden ones."""
        torch.manual_seed(seed)
        batch, owner, label = self.shown
        for parameter in encoder.parameters():
            parameter.requires_grad_(not frozen)
        known = pooled(encoder, batch, owner).detach()
        middle, spread = known.mean(0), known.std(0).clamp(min=1e-3)
        head = nn.Linear(known.shape[1], int(label.max()) + 1)
        groups = [{"params": head.parameters(), "lr": 0.01}]
        groups += [] if frozen else [{"params": encoder.parameters(), "lr": 0.001}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        for _ in range(5 * steps if frozen else steps):
            features = known if frozen else pooled(encoder, batch, owner)
            loss = nn.functional.cross_entropy(head((features - middle) / spread), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = [
                (head((pooled(encoder, *case[:2]) - middle) / spread).argmax(1) == case[2]).sum()
                for case in self.hidden
            ]
        return float(sum(right)) / sum(len(case[2]) for case in self.hidden)


def pooled(encoder: TreeEncoder, batch: TreeBatch, owner: Tensor) -> Tensor:
    """Mean and maximum of the embeddings of each tree's nodes."""
    h = encoder.encode(batch.features, batch.around)
    trees = int(owner.max()) + 1
    count = torch.bincount(owner, minlength=trees)[:, None]
    mean = torch.zeros(trees, h.shape[1]).index_add(0, owner, h) / count
    most = torch.zeros(trees, h.shape[1]).scatter_reduce(0, owner[:, None].expand_as(h), h, "amax")
    return torch.cat([mean, most], 1)


def print_pretraining(rows: dict[str, list[dict[str, float]]]) -> None:
    """Markdown: a row a kind of targets, of what its curves end with."""
    shown = {name: key for name, key in COLUMNS.items() if key in rows[TARGETS[0]][0]}
    log(f"\n| targets | {' | '.join(shown)} |\n|---|{'---:|' * len(shown)}")
    for targets, found in rows.items():
        cells = [spread([row[key] for row in found]) for key in shown.values()]
        log(f"| {targets} | {' | '.join(cells)} |")


def print_accuracy(accuracy: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    log(
        f"\n| encoder | accuracy with {arguments.labels} labels a class, {arguments.splits} splits |\n|---|---:|"
    )
    for way, scores in accuracy.items():
        log(f"| {way} | {spread([100 * score for score in scores], 1)} % |")


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def log(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
