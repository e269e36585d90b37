"""Fixtures and rules for the whole suite."""

import os
import sys
import traceback
import types
from pathlib import Path

import jaxtyping

# First of all: it replaces distutils, and torch's compiler trips where that was imported before.
import setuptools  # noqa: F401
import typecheck

# Tests start processes by the dozen, and none should compile the package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PACKAGE = Path(__file__).parents[1] / "ppl_vae"
# data answers a careless user's wrong types itself, and its tests pass them on purpose.
CHECKED = sorted({path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__", "data"})
# Before ppl_vae is imported by anybody: shapes and types are checked in tests only.
typecheck.install([f"ppl_vae.{name}" for name in CHECKED])

import pyro  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from fresh import Interpreter  # noqa: E402
from pyro.poutine.runtime import _PYRO_STACK  # noqa: E402
from significance import NUM_STATISTICAL_TESTS, Significance  # noqa: E402
from torch._subclasses import fake_tensor  # noqa: E402

from ppl_vae import capture  # noqa: E402
from ppl_vae.decoders import _noise  # noqa: E402
from ppl_vae.evidence import AnnealedImportanceSampling  # noqa: E402
from ppl_vae.evidence.annealing import _pilot as pilot  # noqa: E402
from ppl_vae.likelihoods import _discrete  # noqa: E402
from ppl_vae.randomness import seed_devices  # noqa: E402

torch.set_num_threads(1)
# No test cuts the power, and to wait for the disk takes longer than to train: those of what is
# written in which order, and of a full disk, put their own in its place.
os.fsync = lambda descriptor: None
# Torch keeps the stack of calls with every tensor that it records in a graph, for messages of its
# own: half of the time of a recording.
fake_tensor.traceback = types.SimpleNamespace(**vars(traceback) | {"extract_stack": list})

# Annealing is tuned on fewer transitions: what it claims, it claims of any step sizes, and standard
# errors stay what they are. Pilot runs would take most of the time of short schedules.
WHOLE_PILOT = {name: getattr(pilot, name) for name in ("_WARM_UP", "_TRANSITIONS")}
pilot._WARM_UP, pilot._TRANSITIONS = 15, 20


def pytest_addoption(parser):
    parser.addoption("--fuzz-all", action="store_true", help="read all damaged files of tests/fuzz")


def pytest_configure(config):
    # Pyro's Distribution inherits typing.Callable, which beartype would rather see replaced.
    config.addinivalue_line(
        "filterwarnings", "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
    )


def pytest_collection_modifyitems(items):
    statistical = [item.nodeid for item in items if "significance" in item.fixturenames]
    if len(statistical) > NUM_STATISTICAL_TESTS:
        raise pytest.UsageError(
            f"{len(statistical)} statistical tests, but the suite's false-alarm rate is split over "
            f"{NUM_STATISTICAL_TESTS}: raise NUM_STATISTICAL_TESTS in significance.py."
        )


@pytest.fixture
def significance():
    """A test's own share of the suite's false-alarm rate."""
    return Significance()


@pytest.fixture(scope="session")
def interpreter():
    """For code that needs a process of its own, without the package."""
    started = Interpreter()
    yield started
    started.close()


@pytest.fixture(autouse=True)
def fresh_pyro():
    """No test sees another's parameters or random state, or leaves a handler on Pyro's stack."""
    typecheck.begin_test()
    pyro.clear_param_store()
    seed_devices(20)
    yield
    left = list(_PYRO_STACK)
    _PYRO_STACK.clear()
    pyro.clear_param_store()
    assert left == []


@pytest.fixture
def unchecked_types():
    """Types and shapes unchecked, as users have them: what does the package itself say?"""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def recorded(monkeypatch):
    """Graphs are replayed as they are recorded, not compiled: the function's numbers exactly."""
    monkeypatch.setattr(capture, "compile_graph", lambda graph, inputs: graph)
    # What is meant for a compiler is the same up to rounding alone.
    monkeypatch.setattr(_discrete, "is_recording", lambda: False)
    # The shape of every result, half of the time of a recording, which only a compiler reads.
    monkeypatch.setattr("torch.fx.experimental.proxy_tensor.set_meta", lambda proxy, value: proxy)


@pytest.fixture
def whole_pilot(monkeypatch):
    """The pilot run that users have, for tests of what it finds."""
    for name, value in WHOLE_PILOT.items():
        monkeypatch.setattr(pilot, name, value)


@pytest.fixture
def short_pilot(request, monkeypatch):
    """Step sizes from a few transitions, for tests in which none of them matters."""
    # A number is compared: how well chains mix decides what the test can see.
    if "significance" in request.fixturenames:
        return
    monkeypatch.setattr(pilot, "_WARM_UP", 2)
    monkeypatch.setattr(pilot, "_TRANSITIONS", 4)


@pytest.fixture
def quick_noise(monkeypatch):
    """Noise of a generator from a few temperatures, for tests in which any noise will do."""
    monkeypatch.setattr(_noise, "_SEARCH", AnnealedImportanceSampling(5, 2, leapfrog_steps=1))
