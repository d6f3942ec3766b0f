"""Stage 1: make the embedded road world, data/raw/simulated."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from headway.data.simulate import SimulateParams, simulate
from headway.errors import InputError
from headway.params import read_params


def main() -> None:
    try:
        params = read_params("params.yaml", {"simulate": SimulateParams})
        simulate(params["simulate"], Path("data/raw/simulated"))
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
