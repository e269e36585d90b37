"""Numbers as a page writes them; what is missing is a dash."""

import math

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_SMALLEST_P = 0.001


def nats(value: float | None) -> str:
    """Three decimals."""
    return _written(value, ".3f")


def signed(value: float | None) -> str:
    """Three decimals and a sign."""
    return _written(value, "+.3f")


def error(value: float | None) -> str:
    """To stand beside what it is the error of."""
    return MISSING if is_missing(value) else f"± {value:.3f}"


def probability(value: float | None) -> str:
    """Three decimals, or below the least that three decimals have."""
    if value is not None and 0 <= value < _SMALLEST_P:
        return f"< {_SMALLEST_P}"
    return _written(value, ".3f")


def chance(value: float | None) -> str:
    """A probability found by simulation, which is never known to be 1."""
    if value is not None and value > 1 - _SMALLEST_P / 2:
        return f"> {1 - _SMALLEST_P}"
    return probability(value)


def count(value: float | None) -> str:
    """A whole number, its thousands apart."""
    return _written(value, ",.0f")


def tenths(value: float | None) -> str:
    """One decimal, its thousands apart."""
    return _written(value, ",.1f")


def interval(low: float, high: float) -> str:
    """Both ends, in a sentence."""
    return f"{nats(low)} to {nats(high)}"


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_missing(value: float | str | None) -> bool:
    """Whether there is no number where one may be: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _written(value: float | None, form: str) -> str:
    if value is None or math.isnan(value):
        return MISSING
    text = format(value, form)
    # What rounds to 0 has no sign.
    zero = not any(digit in text for digit in "123456789")
    return (format(0.0, form) if zero else text).replace("-", MINUS)
