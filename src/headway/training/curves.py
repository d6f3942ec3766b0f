"""The curves of a training, or of a pretraining, as dvclive writes them: a row an epoch, and the best of them.

Enters: the progress of a run. Leaves: the folder of metrics, replayed from a checkpoint when a run continues.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from dvclive.live import Live

from headway.training.state import Progress


class Curves:
    """Writes while its `with` block lasts; without a folder it does nothing."""

    def __init__(self, folder: Path | None, measure: str) -> None:
        """`measure`: name of what the weights are chosen by, `mae` or `loss`."""
        self._folder, self._measure, self._open = folder, measure, ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Curves:
        if self._folder is not None:
            self._live = self._open.enter_context(Live(str(self._folder), dvcyaml=None, save_dvc_exp=False))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # pyright: ignore[reportArgumentType] - what a `with` block hands over

    def replay(self, progress: Progress) -> None:
        """Write the rows of every epoch closed so far."""
        for number, row in enumerate(progress.curve, start=1):
            self._log(number, row)

    def add(self, progress: Progress) -> None:
        """Write the newest row."""
        self._log(len(progress.curve), progress.curve[-1])
        if self._live is not None:
            self._live.next_step()

    def summarize(self, progress: Progress, weights: int) -> None:
        """Add the best epoch, and the number of weights, to the summary."""
        if self._live is not None:
            self._live.summary["best"] = {
                self._measure: progress.best_error,
                "step": progress.best_step,
                "epoch": progress.best_epoch,
            }
            self._live.summary["weights"] = weights

    def _log(self, number: int, row: dict[str, float]) -> None:
        if self._live is None:
            return
        self._live.step = number
        for name, value in row.items():
            self._live.log_metric(name, value)
        self._live.summary.pop("lr", None)  # a curve, not a metric: every diff would show it
        self._live.summary["step"] = number
