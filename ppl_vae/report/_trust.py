"""Section on the estimates themselves: doubt, the stages that data ended at, and what they cost."""

from collections.abc import Mapping

from ppl_vae.comparison import Comparison
from ppl_vae.evidence import STAGES as ALL_STAGES
from ppl_vae.evidence import TOLERATED_DOUBT
from ppl_vae.plots import DoubtRow, Style, draw_doubts, draw_shares, rows_height
from ppl_vae.report import _numbers as numbers
from ppl_vae.report._blocks import Block, Figure, Section, Table, TableColumn, Value

_LINE, _MARGIN = 0.22, 0.15
"""Height of a line of a key and of the space below it, in inches."""


def trusted(comparison: Comparison, styles: Mapping[str, Style]) -> Section | None:
    """Make figures of doubt and stages, and the table of all arms; None where nothing is known."""
    if not comparison.doubts:
        return None
    used = {name for trust in comparison.trusts.values() for name in trust.stages}
    stages = [name for name in ALL_STAGES if name in used]
    shown = [arm for arm in comparison.ranking if arm in styles]
    blocks: list[Block] = [_doubts(comparison, {arm: styles[arm] for arm in shown})]
    if stages:
        blocks.append(_stages(comparison, shown, stages))
    return Section("trust", "Trust in the estimates", [*blocks, _table(comparison)])


def _doubts(comparison: Comparison, styles: Mapping[str, Style]) -> Figure:
    doubts = comparison.doubts
    known = {arm: (comparison.trusts[arm].bias, doubts[arm]) for arm in styles if arm in doubts}
    rows = [DoubtRow(arm, styles[arm], bias or 0.0, doubt) for arm, (bias, doubt) in known.items()]
    said = "; ".join(f"{arm}: {numbers.nats(doubt)}" for arm, (_, doubt) in known.items())
    return Figure.drawn(
        "doubt",
        "How low the mean log p(x) of each arm is estimated to be (full) and may be (pale, 95%), "
        "beside its Monte Carlo error, in nats per datum. Dashed: what is tolerated, "
        f"{TOLERATED_DOUBT:g} nats. A mode that no draw came near is not in it.",
        lambda ax: draw_doubts(ax, rows, TOLERATED_DOUBT),
        f"Bars of how low log p(x) may be, nats per datum. {said}",
        (["arm", "bias", "doubt"], [[arm, *each] for arm, each in known.items()]),
        rows_height(len(rows)),
    )


def _stages(comparison: Comparison, shown: list[str], stages: list[str]) -> Figure:
    shares = {
        arm: [comparison.trusts[arm].stages.get(name, 0.0) for name in stages] for arm in shown
    }
    words = {
        arm: ", ".join(f"{n} {share:.0%}" for n, share in zip(stages, each, strict=True))
        for arm, each in shares.items()
    }
    said = "; ".join(f"{arm}: {text}" for arm, text in words.items())
    return Figure.drawn(
        "stages",
        "How the data of each arm were estimated, from the cheapest way (faint) to the dearest "
        "(full): the share of the data that ended at each stage, mean over seeds.",
        lambda ax: draw_shares(ax, shares, stages),
        f"Shares of the data by stage. {said}",
        (["arm", *stages], [[arm, *each] for arm, each in shares.items()]),
        rows_height(len(shares)) + _LINE * len(stages) + _MARGIN,
    )


def _table(comparison: Comparison) -> Table:
    rows: list[list[Value]] = [
        [
            arm, comparison.arms[arm].mean, trust.bias, trust.doubt, trust.evaluations,
            trust.needed if (trust.doubt or 0.0) > TOLERATED_DOUBT else None,
        ]
        for arm, trust in ((arm, comparison.trusts[arm]) for arm in comparison.ranking)
    ]  # fmt: skip
    return Table(
        name="trust",
        caption=(
            "Trust in the estimates of each arm, means over seeds: how low they are estimated to "
            "be and may be, nats per datum; decoder evaluations of a datum that were spent, and "
            f"that would bring its doubt below {TOLERATED_DOUBT:g} nats, where the arm's is above"
        ),
        columns=[
            TableColumn("arm", "arm"),
            TableColumn("log_prob", "number", heading="log p(x)"),
            TableColumn("bias", "number", numbers.bounded, heading="low by"),
            TableColumn("doubt", "number", numbers.bounded, heading="low by, 95% below"),
            TableColumn("evaluations", "number", numbers.count, heading="evaluations"),
            TableColumn("needed", "number", numbers.bounded_count, heading="needed"),
        ],
        rows=rows,
    )
