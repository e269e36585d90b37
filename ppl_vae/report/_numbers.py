"""Means over seeds with their errors, and the text of numbers on a page; a dash for none."""

import math
import statistics
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
INFINITY = "\N{INFINITY}"
TIMES = "\N{MULTIPLICATION SIGN}"
_SMALLEST_P = 0.001


def mean(values: Sequence[float]) -> float:
    """Compute the mean of one value or more."""
    return sum(values) / len(values)


def joint_error(values: Sequence[float], noise: Sequence[float]) -> float:
    """Compute the error over seeds, which holds the particles' noise; with one seed that alone."""
    if len(values) > 1:
        return statistics.stdev(values) / math.sqrt(len(values))
    return known(noise[0])


def known(error: float) -> float:
    """Return an error, 0 where there is none."""
    return 0.0 if math.isnan(error) else error


def bars(values: Sequence[float], errors: Sequence[float]) -> tuple[list[float], list[float]]:
    """Compute the ends of bars of two standard errors to each side."""
    pairs = list(zip(values, errors, strict=True))
    return [value - 2 * error for value, error in pairs], [v + 2 * error for v, error in pairs]


def nats(value: float | None) -> str:
    """Write three decimals."""
    return _written(value, ".3f")


def signed(value: float | None) -> str:
    """Write three decimals and a sign."""
    return _written(value, "+.3f")


def error(value: float | None) -> str:
    """Write an error, to stand beside its value."""
    return MISSING if is_missing(value) else f"± {value:.3f}"


def probability(value: float | None) -> str:
    """Write three decimals, or that it is below the least that three decimals can show."""
    if value is not None and 0 <= value < _SMALLEST_P:
        return f"< {_SMALLEST_P}"
    return _written(value, ".3f")


def chance(value: float | None) -> str:
    """Write a probability found by simulation, which is never known to be 1."""
    if value is not None and value > 1 - _SMALLEST_P / 2:
        return f"> {1 - _SMALLEST_P}"
    return probability(value)


def count(value: float | None) -> str:
    """Write a whole number with separators of thousands."""
    return _written(value, ",.0f")


def bounded(value: float | None) -> str:
    """Write three decimals, or that there is no bound."""
    return "no bound" if value is not None and math.isinf(value) else nats(value)


def bounded_count(value: float | None) -> str:
    """Write a whole number, or that there is no bound."""
    return "no bound" if value is not None and math.isinf(value) else count(value)


def tenths(value: float | None) -> str:
    """Write one decimal, with separators of thousands."""
    return _written(value, ",.1f")


def interval(low: float, high: float) -> str:
    """Write both ends, for a sentence."""
    return f"{nats(low)} to {nats(high)}"


def is_missing(value: float | str | None) -> bool:
    """Whether there is no number where one may be: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _written(value: float | None, form: str) -> str:
    if value is None or math.isnan(value):
        return MISSING
    text = format(value, form)
    # What rounds to 0 has no sign; an end of an interval may be infinite.
    zero = not any(digit in text for digit in "123456789") and math.isfinite(value)
    return (format(0.0, form) if zero else text).replace("-", MINUS).replace("inf", INFINITY)
