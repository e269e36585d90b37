"""For tests of estimators."""

import pytest

from ppl_vae.evidence.annealing import _pilot as pilot


@pytest.fixture
def short_pilot(monkeypatch):
    """Step sizes from a few transitions, for tests in which none of them matters."""
    monkeypatch.setattr(pilot, "_WARM_UP", 2)
    monkeypatch.setattr(pilot, "_TRANSITIONS", 4)
