"""What a comparison came to, in words."""

from collections.abc import Sequence

from ppl_vae.comparison import Comparison
from ppl_vae.plots.study import Interval
from ppl_vae.report import numbers

_MOST_NAMED = 4
"""Arms that a sentence names."""


def answer(comparison: Comparison) -> list[str]:
    """What came out, in plain words with numbers and intervals."""
    ranked = list(comparison.ranking)
    best = ranked[0]
    mean, percent = comparison.arms[best], percent_of(comparison)
    low, high = mean.interval(comparison.confidence)
    first = (
        f"{best} has the highest mean log p(x) of {numbers.plural(len(ranked), 'arm')}: "
        f"{numbers.nats(mean.mean)} nats per datum ({percent} interval "
        f"{numbers.interval(low, high)}); it is the best arm with probability "
        f"{numbers.probability(comparison.ranking[best].best)}."
    )
    if len(ranked) == 1:
        first = (
            f"{best} has a mean log p(x) of {numbers.nats(mean.mean)} nats per datum ({percent} "
            f"interval {numbers.interval(low, high)}); there is no other arm to compare it with."
        )
    against = comparison.reference
    second = _against_all(comparison, best) if against is None else _reference(comparison, against)
    return [first, *second]


def _against_all(comparison: Comparison, best: str) -> list[str]:
    """How the best arm stands to the others, where every pair was compared."""
    found = {other: oriented(comparison, best, other) for other in list(comparison.ranking)[1:]}
    known = {other: row for other, row in found.items() if row is not None}
    if not known:
        return []
    apart = {other: row for other, row in known.items() if row.low > 0}
    near = {other: row for other, row in known.items() if row.low <= 0}
    percent = percent_of(comparison)
    sentences = []
    if apart:
        closest, row = next(iter(apart.items()))
        which = "every other arm" if not near and len(apart) > 1 else _listed(list(apart))
        by = f"by {numbers.nats(row.mean)} nats ({numbers.interval(row.low, row.high)})"
        than = f" than the closest of them, {closest}" if len(apart) > 1 else ""
        sentences.append(f"It is higher than {which}: {by}{than}.")
    if near:
        closest, row = next(iter(near.items()))
        sentences.append(
            f"No difference is shown between it and {_listed(list(near))}: to {closest} the "
            f"difference is {numbers.signed(row.mean)} nats "
            f"({numbers.signed(row.low)} to {numbers.signed(row.high)})."
        )
    sentences.append(f"The {percent} intervals of all paired differences hold together.")
    return [" ".join(sentences)]


def _reference(comparison: Comparison, reference: str) -> list[str]:
    """How arms stand to the reference, where each was compared with it alone."""
    rows = {arm: oriented(comparison, arm, reference) for arm in comparison.ranking}
    known = {arm: row for arm, row in rows.items() if row is not None}
    if not known:
        return []
    higher = [arm for arm, row in known.items() if row.low > 0]
    lower = [arm for arm, row in known.items() if row.high < 0]
    counts = (
        f"Of {numbers.plural(len(known), 'arm')} compared with the reference {reference}, "
        f"{len(higher)} are higher, {len(lower)} lower, and for "
        f"{len(known) - len(higher) - len(lower)} no difference is shown"
    )
    best = next(iter(known))
    row = known[best]
    return [
        f"{counts} ({percent_of(comparison)} intervals that hold together). {best} minus "
        f"{reference}: {numbers.signed(row.mean)} nats ({numbers.signed(row.low)} to "
        f"{numbers.signed(row.high)})."
    ]


def _listed(arms: Sequence[str]) -> str:
    if len(arms) > _MOST_NAMED:
        return f"{', '.join(arms[: _MOST_NAMED - 1])} and {len(arms) - _MOST_NAMED + 1} more"
    return " and ".join(filter(None, [", ".join(arms[:-1]), arms[-1]]))


def oriented(comparison: Comparison, a: str, b: str) -> Interval | None:
    """Mean of log p_a - log p_b, its simultaneous interval; None where they were not compared."""
    for pair, sign in (((a, b), 1), ((b, a), -1)):
        if pair in comparison.differences:
            mean = comparison.differences[pair]
            low, high = sorted(sign * end for end in comparison.interval(pair))
            points = tuple(sign * value for value in mean.per_seed)
            return Interval(f"{a} {numbers.MINUS} {b}", sign * mean.mean, low, high, None, points)
    return None


def percent_of(comparison: Comparison) -> str:
    """Its confidence, as text."""
    return f"{100 * comparison.confidence:g}%"
