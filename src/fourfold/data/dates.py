"""Dates as numbers: year, month, day of the week, hour, and the days that have passed.

Shapes: N rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

MICROSECONDS = 86_400e6
"""In a day."""


def parts_of(dates: pl.Series) -> dict[str, np.ndarray]:
    """Each part (N,) float64, NaN where there is no date.

    year; month, 1 to 12; weekday, 1 (Monday) to 7; hour, with its minutes as a fraction; days since 1970.
    """
    found = {
        "year": dates.dt.year(),
        "month": dates.dt.month(),
        "weekday": dates.dt.weekday(),
        "hour": dates.dt.hour() + dates.dt.minute() / 60,
        "days": dates.dt.epoch("us") / MICROSECONDS,
    }
    return {name: part.cast(float).to_numpy() for name, part in found.items()}
