"""data/raw/<dataset>/ -> data/prepared/, metrics/preprocess/quality.json and quality.html."""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from headway.data.prepare import PreprocessParams, prepare
from headway.data.quality_page import write_report
from headway.data.report import summary
from headway.data.split import WindowsParams
from headway.errors import InputError
from headway.params import read_params


def main() -> None:
    records = {"dataset": str, "preprocess": PreprocessParams, "windows": WindowsParams}
    params = read_params("params.yaml", records)
    raw, out = Path("data/raw") / params["dataset"], Path("data/prepared")
    quality = prepare(raw, out, params["preprocess"], params["windows"])
    logging.info("\n".join(summary(quality)))
    write_report(Path("metrics/preprocess"), quality, out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
