"""For tests of the command line."""

import pytest


@pytest.fixture
def no_page(monkeypatch):
    """A study without its page, which takes seconds to draw, where no test looks at it."""
    monkeypatch.setattr("ppl_vae.report.write_report", lambda results: results.folder / "page")
