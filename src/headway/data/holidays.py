"""Public holidays as a covariate that is known ahead, from the optional library `holidays`.

Enters: a place such as GB-ENG and the steps of a grid. Leaves: 1 on a step of a holiday, by the civil day of the
sensors, else 0. The library's tables change with its versions, as holidays do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from headway.errors import InputError

NONE, HOLIDAY = "none", "holiday"
PIN = "holidays==0.108"


def holiday_flags(time: Int64[np.ndarray, " step"], zone: str, place: str) -> Float32[np.ndarray, " step"]:
    """Whether each step, in UTC seconds, falls on a holiday of `place`.

    Raises: InputError where the library is not installed, or knows no such place.
    """
    moments = pd.DatetimeIndex(pd.to_datetime(time, unit="s", utc=True)).tz_convert(zone)
    days = moments.tz_localize(None).normalize()
    years = np.unique(np.asarray(days.year))
    known = require_place(place, years=range(int(years[0]), int(years[-1]) + 1))
    return np.asarray(days.isin(pd.DatetimeIndex(sorted(known))), dtype=np.float32)


def require_place(place: str, years: range = range(0)) -> Any:
    """The library's holidays of a place, day -> name, in the years asked for; nothing for "none".

    Raises: InputError, see holiday_flags.
    """
    if place == NONE:
        return {}
    try:
        import holidays
    except ImportError:
        raise InputError(f"windows.holidays: {place} needs the library holidays: pip install {PIN}") from None
    country, _, region = place.partition("-")
    regions = holidays.list_supported_countries()
    if country not in regions:
        raise InputError(
            f"windows.holidays: {country!r} is no country that the library holidays knows; "
            "write an ISO 3166 code such as GB-ENG, US-CA, VN or none"
        )
    if region and region not in regions[country]:
        raise InputError(
            f"windows.holidays: {country} has no region {region!r}; there are: {', '.join(regions[country])}"
        )
    return holidays.country_holidays(country, subdiv=region or None, years=years)
