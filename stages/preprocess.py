"""data/raw/<dataset>/ -> data/prepared/ and metrics/preprocess/quality.json."""

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from headway.atomic import write_text
from headway.data.prepare import PreprocessParams, prepare
from headway.data.report import summary
from headway.data.split import WindowsParams
from headway.errors import InputError
from headway.params import read_params


def main() -> None:
    records = {"dataset": str, "preprocess": PreprocessParams, "windows": WindowsParams}
    params = read_params("params.yaml", records)
    raw = Path("data/raw") / params["dataset"]
    quality = prepare(raw, Path("data/prepared"), params["preprocess"], params["windows"])
    logging.info("\n".join(summary(quality)))
    text = json.dumps(quality, sort_keys=True, indent=2) + "\n"
    write_text(Path("metrics/preprocess/quality.json"), text)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
