"""Answer of a comparison, in words."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ppl_vae.comparison import Comparison
from ppl_vae.names import plural
from ppl_vae.plots import ForestRow
from ppl_vae.report import _numbers as numbers

_MOST_NAMED = 4
"""Largest number of arms that a sentence names."""


def answer(comparison: Comparison) -> list[Markup]:
    """State the result in plain words with numbers and intervals; HTML, names escaped."""
    ranked = list(comparison.ranking)
    best = ranked[0]
    mean = comparison.arms[best]
    facts = {
        "best": _name(best),
        "count": f"{len(ranked):,}",
        "mean": numbers.nats(mean.mean),
        "percent": percent_of(comparison),
        "interval": numbers.interval(*mean.interval(comparison.confidence)),
        "probability": numbers.chance(comparison.ranking[best].best),
    }
    if len(ranked) == 1:
        text = (
            "{best} has a mean log p(x) of {mean} nats per datum ({percent} interval {interval}); "
            "there is no other arm to compare it with."
        )
        return [Markup(text).format(**facts)]
    text = (
        "{best} has the highest mean log p(x) of {count} arms: {mean} nats per datum ({percent} "
        "interval {interval}). It is the best arm with probability {probability}{provided}."
    )
    # Ranks are of the estimates: how low one of them may be is in no replicate.
    facts["provided"] = ", if the estimates in doubt are right" if comparison.warnings else ""
    return [Markup(text).format(**facts), *_compared(comparison, best)]


def _compared(comparison: Comparison, best: str) -> list[Markup]:
    """Compare the best arm with the others, or all with the reference if it is another arm."""
    ranked, reference = list(comparison.ranking), comparison.reference
    sentences = []
    if reference in (None, best):
        rows = {arm: oriented(comparison, best, arm) for arm in ranked[1:]}
        sentences = _best({arm: row for arm, row in rows.items() if row is not None})
    elif reference is not None:
        rows = {arm: oriented(comparison, arm, reference) for arm in ranked}
        sentences = _reference({a: row for a, row in rows.items() if row is not None}, reference)
    if not sentences:
        return []
    last = Markup("The {} intervals of all these differences hold together.")
    return [Markup(" ").join([*sentences, last.format(percent_of(comparison))])]


def _best(rows: Mapping[str, ForestRow]) -> list[Markup]:
    """State the differences of the best arm and each other one."""
    # Only an interval that excludes 0 is called a difference, as in the tables.
    lower = [arm for arm, row in rows.items() if row.low > 0]
    near = [arm for arm in rows if arm not in lower]
    sentences = []
    if lower:
        which = Markup("every other arm") if len(rows) == len(lower) > 1 else _listed(lower)
        text = Markup("It is higher than {}, by {} nats ({}){}.")
        closest = rows[lower[0]]
        than = Markup(" over the closest of them, {}").format(_name(lower[0]))
        sentences.append(
            text.format(
                which,
                numbers.nats(closest.mean),
                numbers.interval(closest.low, closest.high),
                than if len(lower) > 1 else "",
            )
        )
    if near:
        text = Markup("No difference is shown between it and {}: to {} it is {} nats ({}).")
        closest = rows[near[0]]
        ends = f"{numbers.signed(closest.low)} to {numbers.signed(closest.high)}"
        sentences.append(
            text.format(_listed(near), _name(near[0]), numbers.signed(closest.mean), ends)
        )
    return sentences


def _reference(rows: Mapping[str, ForestRow], reference: str) -> list[Markup]:
    """State the differences of each arm and the reference."""
    if not rows:
        return []
    higher = sum(row.low > 0 for row in rows.values())
    lower = sum(row.high < 0 for row in rows.values())
    best, row = next(iter(rows.items()))
    text = Markup(
        "{} minus the reference {}: {} nats ({} to {}). Of the {} compared with the reference, {} "
        "higher and {} lower; for {} no difference is shown."
    )
    return [
        text.format(
            _name(best),
            _name(reference),
            numbers.signed(row.mean),
            numbers.signed(row.low),
            numbers.signed(row.high),
            plural(len(rows), "arm"),
            f"{higher:,} {'is' if higher == 1 else 'are'}",
            f"{lower:,}",
            f"{len(rows) - higher - lower:,}",
        )
    ]


def _name(arm: str) -> Markup:
    # Markup.format escapes what it inserts: a name is shown as text.
    return Markup("<b>{}</b>").format(arm)


def _listed(arms: Sequence[str]) -> Markup:
    named = [_name(arm) for arm in arms]
    if len(arms) > _MOST_NAMED:
        rest = Markup(f"{len(arms) - _MOST_NAMED + 1:,} more")
        named = [*named[: _MOST_NAMED - 1], rest]
    *first, last = named
    return Markup(" and ").join([Markup(", ").join(first), last] if first else [last])


def oriented(comparison: Comparison, a: str, b: str) -> ForestRow | None:
    """Orient a difference as a minus b, with its interval; None where they were not compared."""
    for pair, sign in (((a, b), 1), ((b, a), -1)):
        if pair in comparison.differences:
            mean = comparison.differences[pair]
            # A change of sign swaps the ends.
            low, high = sorted(sign * end for end in comparison.interval(pair))
            points = tuple(sign * value for value in mean.per_seed)
            return ForestRow(f"{a} {numbers.MINUS} {b}", sign * mean.mean, low, high, None, points)
    return None


def percent_of(comparison: Comparison) -> str:
    """Write the confidence of a comparison as text."""
    return f"{100 * comparison.confidence:g}%"
