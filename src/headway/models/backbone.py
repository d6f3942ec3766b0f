"""A language model from a folder on this machine: checked, loaded without running code of its own, and frozen.

Enters: a folder in the layout of the Hugging Face Hub - config.json, weights as safetensors, a tokenizer. Leaves:
`Backbone`, whose state is what is trained of it (LoRA), and the SHA-256 of every file that was read. There is no
network access: what is missing is told with the place to get it.

transformers and peft are imported when a language model is asked for, and nowhere else.

Source: LoRA is Hu et al. 2022, arXiv 2106.09685; models.md 3d.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from headway.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
TOKENIZER = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
READ = (  # of a folder; whatever else lies there is not looked at
    CONFIG,
    WEIGHTS,
    "*.safetensors.index.json",
    *TOKENIZER,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")
RECEIPTS = ".cache/huggingface/download"  # where `hf download` notes the revision of each file
SCALE = 2  # lora_alpha / r
UNLIMITED = 2**30  # tokens, of a model that names no limit

Tokens = Callable[[str], list[int]]


def inspect_backbone(folder: Path, source: str) -> None:
    """Raise InputError naming all that is missing and where to get it.

    Args: source: name on the Hub, with @revision where one is meant.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. {advice(folder, source)}")
    problems = []
    if not (folder / CONFIG).is_file():
        problems.append(f"{CONFIG} is missing")
    if not any(folder.glob(WEIGHTS)):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        other = f"; {', '.join(pickles)} may hold code and is not read" if pickles else ""
        problems.append(f"no {WEIGHTS}: weights must be safetensors{other}")
    if not any((folder / name).is_file() for name in TOKENIZER):
        problems.append(f"no tokenizer: one of {', '.join(TOKENIZER)}")
    wanted, found = source.partition("@")[2], revision(folder)
    if wanted and found and not found.startswith(wanted):
        problems.append(f"it is of revision {found}, st_sepnet.backbone_source asks for {wanted}")
    if problems:
        raise InputError.from_problems(f"{folder} is no language model. {advice(folder, source)}:", problems)


def advice(folder: Path, source: str) -> str:
    """Where to get the files."""
    name, _, wanted = source.partition("@")
    files = f"Expected: {CONFIG}, {WEIGHTS} and a tokenizer"
    if not name:
        return (
            f"{files}; put them there and name their origin in st_sepnet.backbone_source (docs/models.md, 3d)"
        )
    asked = f" --revision {wanted}" if wanted else ""
    include = "".join(f" --include '{pattern}'" for pattern in READ)
    return f"{files}, from https://huggingface.co/{name}: hf download {name}{asked} --local-dir {folder}{include}"


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that is read."""
    paths = {path for pattern in READ for path in folder.glob(pattern) if path.is_file()}
    hashes = {}
    for path in sorted(paths):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def revision(folder: Path) -> str:
    """The commit that the weights were downloaded at, where the download noted it, else nothing."""
    receipts = sorted((folder / RECEIPTS).glob(f"{WEIGHTS}.metadata"))
    lines = [path.read_text(encoding="utf-8").splitlines() for path in receipts]
    return next((line[0].strip() for line in lines if line), "")


def record(folder: Path, source: str) -> dict[str, Any]:
    """What a model that was trained with this folder says of it."""
    return {"source": source, "revision": revision(folder), "files": fingerprint(folder)}


def find_recorded(recorded: Mapping[str, Any], asked: Path, beside: Path) -> Path:
    """The folder that a trained model was trained with: where it was, or in `beside`.

    Raises: InputError naming what is missing or changed, with the expected hashes.
    """
    folder = asked if asked.is_dir() or not beside.is_dir() else beside
    source, files = str(recorded["source"]), dict(recorded["files"])
    known = "@".join(part for part in (source.partition("@")[0], recorded["revision"]) if part)
    found = fingerprint(folder) if folder.is_dir() else {}
    problems = [
        f"{name}: {'changed' if name in found else 'missing'}, expected SHA-256 {digest}"
        for name, digest in files.items()
        if found.get(name) != digest
    ]
    if problems:
        heading = f"the language model that this model was trained with is not in {asked} or {beside}."
        raise InputError.from_problems(f"{heading} {advice(asked, known)}:", problems)
    return folder


def open_backbone(folder: Path, source: str, layers: int, rank: int) -> tuple[Backbone, Tokens]:
    """The model of a folder, frozen, and its tokenizer.

    Args: layers: the first so many of its layers; 0 for all. rank: of LoRA on all linear layers; 0 for none.
    Raises: InputError when it is not there, not whole, or of a kind that cannot be used.
    """
    inspect_backbone(folder, source)
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ImportError as error:
        raise InputError(
            f"a language model needs transformers and peft ({error}); requirements.txt"
        ) from None
    _quiet()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        if layers:
            config.num_hidden_layers = min(layers, config.num_hidden_layers)
        model = AutoModel.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=torch.bfloat16, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder} cannot be loaded ({reason}). {advice(folder, source)}") from None
    model.requires_grad_(False)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # reads the first token for a task that is not ours
    limit = getattr(config, "max_position_embeddings", None) or UNLIMITED

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return Backbone(_with_lora(model, rank) if rank else model, limit), tokens


def _quiet() -> None:
    """A report of the weights that a shortened model does not use is no news."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _with_lora(model: PreTrainedModel, rank: int) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())  # GPT-2's linear layers
    config = LoraConfig(
        r=rank,
        lora_alpha=SCALE * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
        fan_in_fan_out=transposed,
    )
    adapted = inject_adapter_in_model(config, model)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # what is trained is float32
    return adapted


class Backbone(nn.Module):
    """A frozen model in bfloat16, always in evaluation mode, with low-rank maps that are trained.

    Its state is the low-rank maps alone: checkpoints and published models do not hold the frozen weights.

    Attributes:
        limit: most tokens that it reads.
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        super().__init__()
        self.model: Any = model
        self.limit = limit

    def words(self) -> Float[Tensor, "word width"]:
        """The table of word embeddings; it is not trained."""
        return self.model.get_input_embeddings().weight

    def forward(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        with torch.autocast(tokens.device.type, enabled=False):
            said = self.model(
                inputs_embeds=tokens,
                use_cache=False,
                output_attentions=False,
                output_hidden_states=False,
                return_dict=True,
            )
        return said.last_hidden_state

    def train(self, mode: bool = True) -> Backbone:
        """Dropout of a frozen model would only be noise."""
        super().train(mode)
        self.model.eval()
        return self

    def state_dict(
        self, *_: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """What is trained."""
        held = {} if destination is None else destination
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                held[prefix + name] = parameter if keep_vars else parameter.detach()
        return held

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The frozen part is what it is, whatever a state says."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        for name, held in super().state_dict().items():
            if name not in trained:
                state_dict[prefix + name] = held
        super()._load_from_state_dict(state_dict, prefix, *rest)
