"""A split, forecast window by window: every window once, in time order, the last small batch included.

Enter: forecasters (a Batch in, a Forecast out, physical units) and the origins of a split. Leave: the
forecasts of one batch after the other, and, if wanted, data/predictions/test.parquet, written as they
come. No more than one batch is in memory.
Glossary: batch B, horizon H, sensor N; origin t = row of the first target step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headway.data.prepared import Prepared
from headway.errors import InputError
from headway.mixture import Mixture
from headway.models.calibration import LEVELS
from headway.types import Batch, Forecast

_MOMENT = pa.timestamp("ms", tz="UTC")
SCHEMA = pa.schema(
    [
        ("origin", _MOMENT),
        ("target_time", _MOMENT),
        ("horizon", pa.int16()),
        ("sensor_id", pa.dictionary(pa.int32(), pa.string())),
        ("forecast", pa.float32()),
        ("target", pa.float32()),
        ("observed", pa.bool_()),
    ]
)
QUANTILES = tuple(f"q{level:g}" for level in LEVELS)  # columns of a forecast that is a distribution
_REPEATED = ["origin", "target_time", "horizon", "sensor_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastBatch:
    """One batch of windows and what each forecaster says of it, in physical units.

    Attributes:
        points: [B, H, N], by forecaster.
        mixtures: of the forecasters that say a distribution.
    """

    batch: Batch
    points: Mapping[str, Tensor]
    mixtures: Mapping[str, Mixture]


def forecast_split(
    forecasters: Mapping[str, Callable[[Batch], Forecast]],
    gather: Callable[[Tensor], Batch],
    origins: tuple[int, int],
    batch_size: int,
) -> Iterator[ForecastBatch]:
    """Forecast every window of a split once, in time order.

    Args: origins: first and one past the last, as in `PreparedMeta.splits`. Others as of `forecast_windows`.
    """
    return forecast_windows(forecasters, gather, torch.arange(*origins, dtype=torch.int64), batch_size)


def forecast_windows(
    forecasters: Mapping[str, Callable[[Batch], Forecast]],
    gather: Callable[[Tensor], Batch],
    origins: Int[Tensor, " window"],
    batch_size: int,
) -> Iterator[ForecastBatch]:
    """Forecast these windows in the order given; all forecasters see the same batch.

    Args:
        gather: `Windows.gather`.
        batch_size: windows in memory at once; on a CPU no bit of a result depends on it.
    Raises: InputError when a forecast is not finite.
    """
    for origin in origins.split(batch_size):
        with torch.no_grad():
            batch = gather(origin)
            said = {name: _forecast(forecaster, batch) for name, forecaster in forecasters.items()}
            points = {name: forecast.point for name, forecast in said.items()}
        for name, point in points.items():
            _check_finite(name, point, origin)
        mixtures = {name: forecast for name, forecast in said.items() if isinstance(forecast, Mixture)}
        yield ForecastBatch(batch=batch, points=points, mixtures=mixtures)


class PredictionWriter:
    """Writes forecasts as a long table, one row a window, target step and sensor, a row group a batch.

    Columns: origin (UTC, when the forecast is made: one step before the first target), target_time (UTC),
    horizon (1 is the first target step), sensor_id, forecast, target (null where not observed), observed, and
    QUANTILES where there are any.
    The file appears when the `with` block ends well; until then, and after a failure, the path is untouched.
    """

    def __init__(self, path: Path, prepared: Prepared, *, stride: int, quantiles: bool = False) -> None:
        """`stride`: every so many windows one is kept, beginning with the first; 0 keeps none."""
        self._schema = SCHEMA
        for name in QUANTILES if quantiles else ():
            self._schema = self._schema.append(pa.field(name, pa.float32()))
        self._path, self._draft = path, path.with_name(f".{path.name}.tmp")
        self._time, self._step_seconds = prepared.time, prepared.meta.step_seconds
        self._sensor_ids = pa.array(prepared.sensors["sensor_id"].tolist(), pa.string())
        self._stride, self._seen = stride, 0

    def __enter__(self) -> PredictionWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._draft.open("wb")
        self._parquet = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=_REPEATED,  # pyright: ignore[reportArgumentType] - its stub knows bool only
            write_page_checksum=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._parquet.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            if kind is None:
                self._draft.replace(self._path)
        finally:
            self._file.close()
            self._draft.unlink(missing_ok=True)

    def write(
        self,
        batch: Batch,
        point: Float[Tensor, "batch horizon node"],
        quantiles: Float[Tensor, "batch horizon node level"] | None = None,
    ) -> None:
        """Append the kept windows of one batch; batches come in time order."""
        position = torch.arange(self._seen, self._seen + len(point))
        self._seen += len(point)
        kept = torch.nonzero(position % self._stride == 0).flatten() if self._stride else position[:0]
        if len(kept):
            self._parquet.write_table(self._rows(batch, point, quantiles, kept))

    def _rows(
        self,
        batch: Batch,
        point: Float[Tensor, "batch horizon node"],
        quantiles: Float[Tensor, "batch horizon node level"] | None,
        kept: Int[Tensor, " window"],
    ) -> pa.Table:
        kept = kept.to(point.device)
        origin = batch.origin[kept].cpu().numpy()
        observed = batch.target_observed[kept].cpu().numpy()
        windows, horizon, sensors = observed.shape
        step = np.arange(horizon)
        made = np.repeat(self._time[origin] - self._step_seconds, horizon * sensors)
        aimed = np.repeat(self._time[origin[:, None] + step], sensors)
        sensor = np.tile(np.arange(sensors, dtype=np.int32), windows * horizon)
        columns = [
            pa.array(made * 1000, _MOMENT),
            pa.array(aimed * 1000, _MOMENT),
            pa.array(np.tile(np.repeat(step + 1, sensors), windows).astype(np.int16)),
            pa.DictionaryArray.from_arrays(sensor, self._sensor_ids),
            pa.array(_flat_float32(point[kept])),
            pa.array(_flat_float32(batch.target[kept]), mask=~observed.ravel()),
            pa.array(observed.ravel()),
            *(
                [pa.array(_flat_float32(part)) for part in quantiles[kept].unbind(-1)]
                if quantiles is not None
                else []
            ),
        ]
        return pa.Table.from_arrays(columns, schema=self._schema)


def _flat_float32(values: Tensor) -> np.ndarray:
    return values.to("cpu", torch.float32).numpy().ravel()


def _forecast(forecaster: Callable[[Batch], Forecast], batch: Batch) -> Forecast:
    """Forecasts of a batch; on a CPU window by window.

    A matrix product rounds by how many rows it has. One at a time, a window is forecast to the same bits
    whatever windows stand beside it, today's among them; and 64 sensors keep a CPU busy already.
    """
    if batch.origin.device.type != "cpu":
        return forecaster(batch)
    parts = [(field.name, getattr(batch, field.name).split(1)) for field in fields(batch)]
    windows = [
        replace(batch, **{name: part[row] for name, part in parts}) for row in range(len(batch.origin))
    ]
    return _joined([forecaster(window) for window in windows])


def _joined(forecasts: Sequence[Forecast]) -> Forecast:
    """One forecast of several batches, all of one kind."""
    first = forecasts[0]
    names = [field.name for field in fields(first)]
    return replace(first, **{name: torch.cat([getattr(said, name) for said in forecasts]) for name in names})


def _check_finite(
    name: str, point: Float[Tensor, "batch horizon node"], origin: Int[Tensor, " batch"]
) -> None:
    finite = torch.isfinite(point).all(dim=2).all(dim=1).cpu()
    if not finite.all():
        row = int(origin[~finite][0])
        raise InputError(
            f"the forecast of {name} for the window with origin row {row} is not finite; "
            "its weights are unusable; train again with a lower train.lr"
        )
