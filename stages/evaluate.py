"""data/prepared and models/train in; metrics/evaluate and data/predictions/test.parquet out."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import torch

from headway.data.prepared import Prepared, open_prepared
from headway.data.windows import Windows
from headway.errors import InputError, Stopped
from headway.evaluation.report import EvaluateParams, evaluate
from headway.models.folder import read_model_folder
from headway.params import read_params
from headway.training.memory import out_of_memory_says
from headway.training.precision import resolve_device
from headway.training.runtime import RuntimeParams


def main() -> None:
    params = read_params("params.yaml", {"evaluate": EvaluateParams, "runtime": RuntimeParams})
    runtime = params["runtime"]
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device = resolve_device(runtime.device)
    prepared = open_prepared("data/prepared")
    at_once = runtime.forecast_windows(prepared.meta.sensors, prepared.meta.history)

    def advice() -> str:
        fewer = f"set runtime.micro_batch: {at_once // 2} in params.yaml, " if at_once > 1 else ""
        return (
            f" with {at_once} window(s) forecast at once (runtime.micro_batch: {runtime.micro_batch}); {fewer}free "
            "some memory, or set runtime.device: cpu, then `dvc repro`"
        )

    with out_of_memory_says(advice):
        judge(prepared, device, params["evaluate"], at_once)


def judge(prepared: Prepared, device: torch.device, params: EvaluateParams, at_once: int) -> None:
    """Evaluate models/train on the test split, so many windows at once."""
    found = read_model_folder(Path("models/train"), device)
    found.require(prepared)
    evaluate(
        prepared,
        Windows(prepared, device).gather,
        found.model,
        params,
        at_once,
        calibrator=found.calibrator,
        metrics=Path("metrics/evaluate"),
        predictions=Path("data/predictions/test.parquet"),
    )


if __name__ == "__main__":
    try:
        main()
    except (InputError, Stopped, OSError) as error:
        sys.exit(f"error: {error}")
