"""Checks of wrong variants by the rungs alone that are to find them.

Right subjects are checked by the whole ladder. A wrong one would take as long, to fail at a rung
that is known beforehand.
"""

from contextlib import contextmanager
from functools import partial

import pytest

import ppl_vae.testing._evidence
import ppl_vae.testing._objective
import ppl_vae.testing.distributions._checks
from ppl_vae.testing._comparison import run_ladder

MODULES = (
    ppl_vae.testing._evidence,
    ppl_vae.testing._objective,
    ppl_vae.testing.distributions._checks,
)
# More than a whole ladder makes: the limit of z is no lower than that of the whole.
COMPARISONS = 200


@contextmanager
def climbing(*rungs):
    """Leave all other rungs of the three checks out; without any, nothing is left out."""
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES if rungs else ():
            patch.setattr(module, "run_ladder", partial(_climb, rungs))
        yield


def _climb(rungs, subject, ladder, false_alarm, *, foundation=None):
    asked = {
        name: rung if name in (*rungs, foundation) else lambda: "not reached"
        for name, rung in ladder.items()
    }
    return run_ladder(subject, asked, false_alarm / COMPARISONS, foundation=foundation)
