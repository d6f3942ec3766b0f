"""What a language model is told before it reads the patches: the data set, the task, and statistics of the window.

    Dataset description: ... Task description: forecast the next 48 steps given the previous 48 steps.
    Input statistics: min value -1.5, max value 2.0, median value 0.5, the trend of input is upward,
    top 5 lags are 24 12 6 8 4, from Monday 7 o'clock to Monday 18 o'clock

Every word that can occur is known beforehand: numbers are rounded to steps of 0.5 standard deviations, lags are
whole, hours and days are few. So all tokens are made once, their embeddings are kept, and a prompt is put together by
gathers: no text is handled while training, and no embedding is made twice. Shorter words of a list are filled up
with a full stop. Where training spans less than two weeks no day is named.

Source: brief D, after Jin et al. 2024 (Time-LLM), arXiv 2310.01728; models.md 3d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

LARGEST, STEP = 6.0, 0.5  # of the numbers, in deviations
LAGS = 5
HOURS = 24
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TREND = (" downward", " upward")  # words begin with a space, as tokenizers learned them

Tokens = Callable[[str], list[int]]


class Prompt(nn.Module):
    """The embedded prompt of each window of a batch.

    Args:
        description: of the data set. tokens: text -> token ids, without special tokens.
        words: the embedding table; what is kept of it is not saved with the model.
        knows_weeks: whether training is long enough to tell the days of the week.
        statistics: without them every window has the same prompt.
    """

    def __init__(
        self,
        description: str,
        tokens: Tokens,
        words: Float[Tensor, "word width"],
        *,
        history: int,
        horizon: int,
        slots_per_day: int,
        knows_weeks: bool,
        statistics: bool,
    ) -> None:
        super().__init__()
        self.slots_per_day, self.knows_weeks, self.statistics = slots_per_day, knows_weeks, statistics
        task = f"forecast the next {horizon} steps given the previous {history} steps."
        self._keep("opening", [f"Dataset description: {description} Task description: {task}"], tokens, words)
        if not statistics:
            return
        numbers = [f" {STEP * place - LARGEST:.1f}" for place in range(int(2 * LARGEST / STEP) + 1)]
        names = ("minimum", "maximum", "median", "trend", "lags", "first", "last")
        texts = (
            "Input statistics: min value",
            ", max value",
            ", median value",
            ", the trend of input is",
            ", top 5 lags are",
            ", from",
            " to",
        )
        for name, text in zip(names, texts, strict=True):
            self._keep(f"before_{name}", [text], tokens, words)
        self._keep("number", numbers, tokens, words)
        self._keep("direction", TREND, tokens, words)
        self._keep("lag", [f" {lag}" for lag in range(max(2, history))], tokens, words)
        days = [f" {day}" for day in DAYS] if knows_weeks else [""]
        self._keep("time", [f"{day} {hour} o'clock" for day in days for hour in range(HOURS)], tokens, words)

    def _keep(
        self, name: str, texts: Sequence[str], tokens: Tokens, words: Float[Tensor, "word width"]
    ) -> None:
        ids = [tokens(text) for text in texts]
        longest, (stop, *_) = max(map(len, ids)), tokens(".")
        table = torch.tensor([row + [stop] * (longest - len(row)) for row in ids], device=words.device)
        self.register_buffer(name, words.detach()[table], persistent=False)

    def forward(
        self, series: Float[Tensor, "batch time"], calendar: Int[Tensor, "batch time 2"]
    ) -> Float[Tensor, "batch token width"]:
        batch = len(series)
        parts = [self._say("opening", batch)]
        if self.statistics:
            for name, table, choice in self._choices(series.float(), calendar):
                parts += [self._say(f"before_{name}", batch), self.get_buffer(table)[choice].flatten(1, 2)]
        return torch.cat(parts, 1)

    def _say(self, name: str, batch: int) -> Tensor:
        return self.get_buffer(name).expand(batch, -1, -1)

    def _choices(
        self, series: Tensor, calendar: Tensor
    ) -> list[tuple[str, str, Int[Tensor, "batch places"]]]:
        """Name, table, and which rows of it to say."""
        slot, day = calendar.unbind(-1)
        hour = slot * HOURS // self.slots_per_day
        time = day * HOURS + hour if self.knows_weeks else hour
        upward = (series[:, -1:] > series[:, :1]).long()
        return [
            ("minimum", "number", _number(series.amin(1, keepdim=True))),
            ("maximum", "number", _number(series.amax(1, keepdim=True))),
            ("median", "number", _number(series.median(1, keepdim=True).values)),
            ("trend", "direction", upward),
            ("lags", "lag", strongest_lags(series)),
            ("first", "time", time[:, :1]),
            ("last", "time", time[:, -1:]),
        ]


def strongest_lags(series: Float[Tensor, "batch time"]) -> Int[Tensor, "batch lag"]:
    """The lags, above 0, of largest autocorrelation (circular, by Fourier transform), the largest first."""
    steps = series.shape[1]
    spectrum = torch.fft.rfft(series - series.mean(1, keepdim=True))
    correlation = torch.fft.irfft(spectrum * spectrum.conj(), n=steps)
    half = correlation[:, 1 : 1 + max(1, steps // 2)]  # the other half mirrors it
    return 1 + half.topk(min(LAGS, half.shape[1]), 1).indices


def _number(value: Tensor) -> Int[Tensor, "batch 1"]:
    return ((value.clamp(-LARGEST, LARGEST) + LARGEST) / STEP).round().long()
