"""data/prepared in; models/train and metrics/train out. Interrupted, it continues: run `dvc repro` again."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from headway.data.prepared import open_prepared
from headway.errors import InputError, Stopped
from headway.models import ModelParams, section_records
from headway.params import read_params
from headway.serving.publish import publish
from headway.training.course import TrainParams
from headway.training.distributed import take_seat
from headway.training.experiment import run_experiment
from headway.training.ladder import beside_the_steps
from headway.training.memory import out_of_memory_says
from headway.training.runtime import RuntimeParams
from headway.training.transfer import read_transfer


def main() -> None:
    choice = read_params("params.yaml", {"model": ModelParams})["model"]
    sections = {"model": ModelParams, **section_records(choice), "train": TrainParams}
    params = read_params("params.yaml", {**sections, "runtime": RuntimeParams})
    runtime = params.pop("runtime")
    seat = take_seat(runtime, Path(__file__))
    prepared = open_prepared("data/prepared")
    pretrained = read_transfer(Path("models/pretrain/transfer.safetensors"))
    curves = Path("metrics/train")
    trained = run_experiment(prepared, params, runtime, Path(__file__), curves, pretrained, seat)
    if seat is None or seat.rank == 0:
        publish(Path("models/train"), trained, prepared, params)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with out_of_memory_says(beside_the_steps):
            main()
    except (InputError, Stopped, OSError) as error:
        sys.exit(f"error: {error}")
