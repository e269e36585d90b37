"""Results show themselves in a line, in a notebook and as tables; bars where somebody looks."""

import sys
from types import SimpleNamespace

import pytest
import torch
from comparison.simulated import evidence, seeds_of

from ppl_vae.comparison import compare
from ppl_vae.display import Result
from ppl_vae.progress import no_bar

COMPARED = compare(
    {arm: seeds_of([[0.0, 1.0, 0.5], [0.1, 1.2, 0.4]]) for arm in ("a<b", "c")}, replicates=20
)
RESULTS = [evidence(torch.zeros(100)), COMPARED]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_shows_itself_without_its_tensors(result):
    assert isinstance(result, Result)
    assert repr(result).startswith(f"{type(result).__name__}(")
    assert len(repr(result)) <= 220
    assert "tensor" not in repr(result)
    assert result._repr_html_().startswith("<pre>")


def test_names_are_escaped_in_a_notebook():
    assert "a&lt;b" in COMPARED._repr_html_()
    assert "a<b" not in COMPARED._repr_html_()


def test_a_bar_is_for_a_terminal_or_a_notebook(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert no_bar(True)
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not no_bar(True)
    assert no_bar(False)
    shell.config = {}
    assert no_bar(True)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert not no_bar(True)
