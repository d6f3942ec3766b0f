"""data/prepared in; models/pretrain and metrics/pretrain out. Interrupted, it continues: run `dvc repro` again."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from headway.data.prepared import open_prepared
from headway.errors import InputError, Stopped
from headway.nn.ha_gat import HAGATParams
from headway.nn.sgmp import SGMPParams
from headway.params import read_params
from headway.training.ladder import beside_the_steps
from headway.training.memory import out_of_memory_says
from headway.training.pretrain_experiment import run_pretraining
from headway.training.pretraining import PretrainParams
from headway.training.runtime import RuntimeParams


def main() -> None:
    sections = {"pretrain": PretrainParams, "sgmp": SGMPParams, "ha_gat": HAGATParams}
    params = read_params("params.yaml", {**sections, "runtime": RuntimeParams})
    runtime = params.pop("runtime")
    prepared = open_prepared("data/prepared")
    out, curves = Path("models/pretrain"), Path("metrics/pretrain")
    run_pretraining(prepared, params, runtime, Path(__file__), out, curves)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with out_of_memory_says(beside_the_steps):
            main()
    except (InputError, Stopped, OSError) as error:
        sys.exit(f"error: {error}")
