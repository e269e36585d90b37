"""Going through the rungs of a check, whatever they raise."""

from collections.abc import Callable, Mapping

import torch

from ppl_vae.testing._comparison import Answer, Report, Rung


def climb(
    subject: str,
    ladder: Mapping[str, Callable[[], Answer]],
    false_alarm: float,
    *,
    foundation: str | None = None,
) -> Report:
    """Test every rung, in order.

    Args:
        subject: What is checked, as the report calls it.
        ladder: Name to the rung.
        false_alarm: Probability that a right subject fails, over all rungs together (Bonferroni).
        foundation: The rung without which those after it would only repeat what it says.

    Raises:
        AssertionError: If a rung fails; one line for each.
        ValueError: If ``false_alarm`` is not between 0 and 1.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must be between 0 and 1, got {false_alarm}.")
    rungs: list[Rung] = []
    with torch.enable_grad():
        for name, rung in ladder.items():
            broken = any(r.name == foundation and r.raised is not None for r in rungs)
            rungs.append(Rung(name, skipped="not reached") if broken else _tested(name, rung))
    report = Report.of(subject, rungs, false_alarm)
    report.require_passed()
    return report


def _tested(name: str, rung: Callable[[], Answer]) -> Rung:
    try:
        answer = rung()
    except Exception as error:  # what anybody wrote may raise anything
        return Rung(name, raised=error)
    return Rung(name, skipped=answer) if isinstance(answer, str) else Rung(name, tuple(answer))
