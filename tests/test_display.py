"""Results show themselves in a line, in a notebook and as tables; bars where somebody looks."""

import importlib
import inspect
import pkgutil
import sys
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from comparison.simulated import evidence, seeds_of
from programs import binary_vae

import ppl_vae
from ppl_vae.comparison import compare
from ppl_vae.display import Result
from ppl_vae.evidence import Evidence
from ppl_vae.particles import draw_particles
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


def test_a_result_with_tensors_is_equal_to_itself_alone():
    """Fields that are tensors have no one truth value: such results are told apart as objects."""
    result, _ = RESULTS
    other = replace(result)
    assert result == result
    assert result != other
    assert len({result, other, result}) == 2


def test_a_result_of_numbers_is_equal_to_one_of_the_same():
    assert replace(COMPARED) == COMPARED
    assert replace(COMPARED, num_seeds=3) != COMPARED


def exported_dataclasses():
    for module in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae."):
        if not any(name.startswith("_") for name in module.name.split(".")[1:]):
            face = importlib.import_module(module.name)
            found = (getattr(face, name) for name in getattr(face, "__all__", ()))
            yield from (cls for cls in found if inspect.isclass(cls) and is_dataclass(cls))


def _compares(cls):
    return "__eq__" in vars(cls)


def test_no_exported_dataclass_compares_tensors():
    """A field that is a tensor, or holds some by name, would make == raise."""
    holds_tensors = {
        cls: [
            field.name
            for field in fields(cls)
            if "Tensor" in str(field.type) and "Callable" not in str(field.type)
        ]
        for cls in exported_dataclasses()
    }
    assert holds_tensors[Evidence][:2] == ["log_prob", "standard_error"]
    # A number of a schedule, which compares as one.
    compares = {
        cls.__name__ for cls, held in holds_tensors.items() if held and "__eq__" in vars(cls)
    }
    assert compares == {"Context"}


def test_particles_show_their_sizes_and_sites():
    vae = binary_vae()
    assert repr(draw_particles(vae.model, vae.guide, torch.zeros(1, 6), 5)) == (
        "Particles(num_particles=5, batch_size=1: z -> x)"
    )


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
