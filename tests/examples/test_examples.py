"""Every example runs, in a small form."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "quickstart",
        "two_layers",
        "marginal_likelihood",
        "custom_prior",
    }


def test_quickstart(capsys):
    evidence = load("quickstart").main(epochs=2, num_particles=20)
    assert len(evidence) == 360
    assert "log p(x) = " in capsys.readouterr().out


def test_two_layers(capsys):
    results = load("two_layers").main(epochs=2, num_particles=20)
    assert list(results) == [
        "ELBO(num_particles=1)",
        "AnalyticELBO(num_particles=1)",
        "IWAE(num_particles=10)",
    ]
    out = capsys.readouterr().out
    assert out.count("top") >= 3


def test_marginal_likelihood(capsys):
    found = load("marginal_likelihood").main(epochs=5, num_data=8, temperatures=40)
    exact = found["quadrature"]
    for evidence in found.values():
        error = evidence.monte_carlo_error + exact.monte_carlo_error
        assert abs(evidence.mean - exact.mean) < 5 * error
    assert capsys.readouterr().out.count("\n") == 7


def test_custom_prior(capsys, monkeypatch):
    module = load("custom_prior")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where pickle looks for its classes
    found, difference = module.main(epochs=2, latent=2, num_particles=20)
    assert difference.mean == pytest.approx(
        found["SinhArcsinh"].mean - found["StandardNormalPrior"].mean
    )
    out = capsys.readouterr().out
    assert "SinhArcsinh (prior), |z| below" in out
    assert "each datum with itself:\ndifference in log p(x) = " in out
