"""The tiny experiment in the current folder, as a process: train_here.py PREPARED CODE_DIGEST SECONDS_A_STEP

It says `training` before its first step and trains no faster than that, so that there is time to interrupt it.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from headway.data.prepared import open_prepared
from headway.errors import Stopped
from headway.training import experiment, loop
from tiny_run import train_tiny


def main(prepared: Path, digest: str, seconds: float) -> None:
    original = loop.take_step

    begun = iter(["training\n"])

    def take_step(*arguments: Any) -> float:
        sys.stdout.write(next(begun, ""))
        sys.stdout.flush()
        loss = original(*arguments)
        time.sleep(seconds)
        return loss

    loop.take_step = take_step
    experiment.code_digest = lambda *_: digest
    train_tiny(Path(), open_prepared(prepared), checkpoint_steps=1000)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
    except Stopped as error:
        sys.exit(f"error: {error}")
