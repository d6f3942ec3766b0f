"""The progress line: step, loss, samples a second, time left, peak memory.

On a terminal one line, refreshed; elsewhere (DVC, CI and files buffer) a plain line now and then. Speed and time
are for people: nothing here enters a metric or a model.
"""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress

import torch

from headway.training.memory import peak_mib
from headway.training.state import Progress

TERMINAL_SECONDS, PLAIN_SECONDS = 0.5, 20.0

log = logging.getLogger(__name__)


class ProgressLine:
    """Shows how far a run of `total` steps is."""

    def __init__(self, total: int, step: int, device: torch.device) -> None:
        self._total, self._first, self._device = total, step, device
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = self._epoch_started = time.monotonic()
        self._samples = self._epoch_samples = 0
        self._width = 0

    def advance(self, step: int, samples: int, loss: float) -> None:
        """`step` steps are done; the last one saw `samples` windows at this loss."""
        self._samples += samples
        self._epoch_samples += samples
        now = time.monotonic()
        if now - self._shown < (TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS):
            return
        self._shown = now
        seconds = now - self._started
        left = seconds / max(1, step - self._first) * (self._total - step)
        text = (
            f"step {step}/{self._total}  loss {loss:.4f}  {self._samples / seconds:.0f} samples/s  "
            f"{clock(left)} left  peak {peak_mib(self._device):.0f} MiB"
        )
        if self._terminal:
            _show("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            log.info(text)

    def close_epoch(self, progress: Progress) -> dict[str, float]:
        """Log the row just closed. Returns: seconds of the epoch, validation included, and its samples a second."""
        if self._terminal and self._width:
            _show("\r" + " " * self._width + "\r")
            self._width = 0
        row = progress.curve[-1]
        best = "  best" if progress.epochs_since_best == 0 else ""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        log.info("epoch %d  %s%s", len(progress.curve), numbers, best)
        now = time.monotonic()
        seconds, self._epoch_started = now - self._epoch_started, now
        samples, self._epoch_samples = self._epoch_samples, 0
        return {"seconds": round(seconds, 3), "samples_per_second": round(samples / seconds, 1)}


def _show(text: str) -> None:
    with suppress(OSError):  # a terminal that was closed; the run is about to be saved
        sys.stderr.write(text)
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
