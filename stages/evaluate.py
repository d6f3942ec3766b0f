"""data/prepared and models/train in; metrics/evaluate and data/predictions/test.parquet out."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from headway.data.prepared import open_prepared
from headway.data.windows import Windows
from headway.errors import InputError
from headway.evaluation.report import EvaluateParams, evaluate
from headway.models.folder import read_model_folder
from headway.params import read_params
from headway.training.precision import resolve_device
from headway.training.run import RuntimeParams


def main() -> None:
    params = read_params("params.yaml", {"evaluate": EvaluateParams, "runtime": RuntimeParams})
    device = resolve_device(params["runtime"].device)
    prepared = open_prepared("data/prepared")
    found = read_model_folder(Path("models/train"), device)
    found.require(prepared)
    gather = Windows(prepared, device).gather
    evaluate(
        prepared,
        gather,
        found.model,
        params["evaluate"],
        params["runtime"].forecast_windows(found.meta.sensors, found.meta.history),
        calibrator=found.calibrator,
        metrics=Path("metrics/evaluate"),
        predictions=Path("data/predictions/test.parquet"),
    )


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
