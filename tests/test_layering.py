"""Imports go down only; import alone changes nothing; one module reads Pyro's sample sites."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ppl_vae"

# From the ground up. Modules of one floor do not import each other.
FLOORS = {
    "words of messages, files on the disk": ["_renamed", "names", "files"],
    "settings from signatures": ["settings"],
    "components by name": ["components"],
    "threads and memory, recorded graphs": ["cpu", "_graphs"],
    "kernels of recorded graphs": ["_kernels"],
    "running tasks": ["engines"],
    "what a number was computed from": ["identity"],
    "the one file format": ["store"],
    "tensors and data": ["weights", "randomness", "progress", "devices",
                         "settings_file", "schedules", "_adam", "networks", "data"],
    "functions recorded and compiled": ["capture"],
    "figures, trees of arrays": ["plots", "netcdf"],
    "results": ["display"],
    "distributions that Pyro lacks": ["distributions"],
    "normalising flows": ["flows"],
    "distributions and particles": ["likelihoods", "priors", "guides", "particles"],
    "models and objectives": ["vae", "objectives"],
    "the guide refined per datum": ["refinement"],
    "estimators of log p(x), the exact model": ["evidence", "linear_gaussian"],
    "models about which everything is known": ["reference_models"],
    "any decoder": ["decoders"],
    "training and diagnostics": ["training", "diagnostics"],
    "other libraries' formats": ["arviz"],
    "models with training rules of their own": ["baselines"],
    "runs, statistics of comparison": ["runs", "comparison"],
    "names of all kinds of components": ["registry"],
    "studies, missing cells": ["studies", "imputation"],
    "pages": ["report"],
    "for people who extend": ["testing"],
    "names on the command line": ["cli"],
    "the command line as a module": ["__main__"],
}  # fmt: skip
FLOOR = {noun: number for number, nouns in enumerate(FLOORS.values()) for noun in nouns}
# Planned, not there yet.
PLANNED: set[str] = set()


def noun_of(module):
    """``ppl_vae.objectives._elbo`` -> ``objectives``; the package itself is None."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imports_of(tree, module):
    """(imported module of this package, whether inside a function) for every import."""
    found = []

    def visit(node, local):
        if isinstance(node, ast.Import):
            found.extend((alias.name, local) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            if base == "ppl_vae":
                found.extend((f"ppl_vae.{alias.name}", local) for alias in node.names)
            else:
                found.append((base, local))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, local or inside)

    visit(tree, False)
    return [(name, local) for name, local in found if name.split(".")[0] == "ppl_vae"]


def violations(module, source):
    """What is wrong with the imports of a module, as text."""
    wrong = []
    here = noun_of(module)
    for imported, local in imports_of(ast.parse(source), module):
        if local:
            wrong.append(f"{module} imports {imported} inside a function")
        there = noun_of(imported)
        if there is None:
            # The package's lazy names, for whoever stands above everything.
            if here != "cli":
                wrong.append(f"{module} imports the package itself")
        elif there != here and FLOOR[there] >= FLOOR[here]:
            wrong.append(f"{module} imports {imported}, which is no floor below")
        elif there != here and imported.count(".") > 1:
            wrong.append(f"{module} imports {imported}: import from ppl_vae.{there}")
    return wrong


def name_of(path):
    parts = ["ppl_vae", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
NAMES = [name for name in MODULES if name != "ppl_vae"]


def test_every_module_has_a_floor_and_every_floor_its_modules():
    assert {noun_of(name) for name in NAMES} | PLANNED == set(FLOOR)


def test_modules_in_folders_are_private():
    """A folder's ``__init__`` is its face, and there is no other."""
    inside = [path for path in MODULES.values() if path.parent != PACKAGE]
    assert [path for path in inside if not path.name.startswith("_")] == []


def test_a_folder_in_a_folder_has_no_face_of_its_own():
    faces = list(PACKAGE.glob("*/*/__init__.py"))
    assert faces
    assert [path for path in faces if len(ast.parse(path.read_text()).body) > 1] == []


def test_the_page_of_the_design_shows_these_floors():
    page = (PACKAGE.parent / "docs" / "design.md").read_text()
    table = page.partition("| floor | modules |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = [
        f"| {name} | {', '.join(f'`{noun}`' for noun in nouns)} |" for name, nouns in FLOORS.items()
    ]
    assert table.splitlines() == rows, "the table must be:\n" + "\n".join(rows)


@pytest.mark.parametrize(("module", "path"), MODULES.items(), ids=MODULES)
def test_imports_go_down_only(module, path):
    if module == "ppl_vae":
        # All else is loaded on first use.
        assert imports_of(ast.parse(path.read_text()), module) == [
            ("ppl_vae._renamed", False),
            ("ppl_vae.names", False),
        ]
    else:
        assert violations(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("ppl_vae.weights", "from ppl_vae.particles import Particles", "no floor below"),
        ("ppl_vae.priors._normal", "import ppl_vae.guides", "no floor below"),
        ("ppl_vae.priors._normal", "from ppl_vae import guides", "no floor below"),
        ("ppl_vae.objectives._elbo", "from ..evidence import Evidence", "no floor below"),
        ("ppl_vae.training.fit", "def f():\n    import ppl_vae.weights", "inside a function"),
        (
            "ppl_vae.training.fit",
            "class A:\n    def f(self):\n        from . import step",
            "inside",
        ),
        ("ppl_vae.vae", "import ppl_vae as pv", "the package itself"),
        ("ppl_vae.runs._run", "from ppl_vae.data._rows import as_rows", "import from ppl_vae.data"),
    ],
)
def test_of_the_test(module, source, wrong):
    (found,) = violations(module, source)
    assert wrong in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ppl_vae.particles", "from ppl_vae.weights import log_mean_exp"),
        ("ppl_vae.objectives._elbo", "from ppl_vae.objectives._base import Objective"),
        ("ppl_vae.objectives._elbo", "from .base import Objective"),
        ("ppl_vae.cli", "import ppl_vae as pv"),
    ],
)
def test_what_is_allowed(module, source):
    assert violations(module, source) == []


LONGEST_CHAIN = 24
"""Modules on the longest way down, the first included: a reader who follows imports holds all."""


def depths(sources):
    """Module to the number of modules on the longest way down from it, itself included."""
    graph = {}
    for module, source in sources.items():
        graph[module] = set()
        # The body alone: what is below ``if TYPE_CHECKING`` is not loaded.
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                graph[module] |= {name if name in sources else node.module for name in names}
            elif isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names}
        graph[module] &= set(sources)
    found = {}
    for module in TopologicalSorter(graph).static_order():
        found[module] = 1 + max((found[name] for name in graph[module]), default=0)
    return found


def test_no_chain_of_imports_is_long():
    found = depths({name: path.read_text() for name, path in MODULES.items()})
    assert max(found.values()) <= LONGEST_CHAIN, sorted(found, key=found.get)[-3:]


def test_of_the_chain_test():
    types = "if TYPE_CHECKING:\n    from p.c import C"
    sources = {
        "p": "",
        "p.a": "import math",
        "p.b": "from p import a",
        "p.c": f"import p.b\n{types}",
    }
    assert depths(sources) == {"p": 1, "p.a": 1, "p.b": 2, "p.c": 3}
    with pytest.raises(CycleError):
        depths({"p.a": "from p.b import x", "p.b": "import p.a"})


READS_SITES = {
    "get_trace", "compute_log_prob", "log_prob_sum", "cond_indep_stack", "nodes",
    "_pyro_sample", "_pyro_post_sample", "get_importance_trace", "scale_and_mask",
}  # fmt: skip
MUST = {
    # Abstract in pyro.infer.ELBO, so it must be there; nothing of ours calls it.
    "ppl_vae.objectives._base": {"get_importance_trace"},
    # A cluster's, not a trace's.
    "ppl_vae.engines._cluster": {"nodes"},
    # Recorded graphs'.
    "ppl_vae._graphs": {"nodes"},
}


def site_reading_names(source):
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
            if node.attr == "trace" and getattr(node.value, "id", "") == "poutine":
                names.add("get_trace")
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.alias):
            names.add(node.name)
    return names & READS_SITES


def test_particles_alone_reads_sample_sites():
    readers = {name: site_reading_names(path.read_text()) for name, path in MODULES.items()}
    assert readers.pop("ppl_vae.particles._run") >= {"_pyro_sample", "_pyro_post_sample"}
    assert readers.pop("ppl_vae.particles._sites") == {"cond_indep_stack", "scale_and_mask"}
    assert readers.pop("ppl_vae.particles._guides") == {"_pyro_sample"}
    assert readers.pop("ppl_vae.particles._draws") == {"_pyro_sample"}
    assert {name: found for name, found in readers.items() if found} == MUST


def test_of_the_site_test():
    for source in ("poutine.trace(model)", "t.nodes['z']", "import a\na.b.get_trace(x)"):
        assert site_reading_names(source)


def python(code):
    """Run code in a fresh interpreter; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def beside_torch(interpreter):
    """Runs code in a process that has torch and Pyro alone; returns what it prints."""

    def run(code):
        done = interpreter.run(code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


SLOW = [
    "torch",
    "pyro",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "xarray",
    "sklearn",
    "arviz_base",
    "ray",
]


@pytest.mark.parametrize("module", ["ppl_vae", "ppl_vae.cli"])
def test_the_package_and_its_command_line_import_nothing_slow(module):
    code = f"import sys, {module}\nprint([m for m in {SLOW} if m in sys.modules])"
    assert python(code) == "[]\n"


FIT = """
import torch
import ppl_vae as pv
from ppl_vae.guides import DiagonalNormalEncoder
from ppl_vae.likelihoods import BernoulliDecoder

x = (torch.rand(20, 6) > 0.5).float()
decoder, encoder = BernoulliDecoder(pv.MLP(2, (4,), 6)), DiagonalNormalEncoder(pv.MLP(6, (4,), 4))
vae = pv.VAE(pv.StandardNormalPrior(2), decoder, encoder)
pv.fit(vae.model, vae.guide, pv.ELBO(), x, valid=x, epochs=2, batch_size=10, progress=False)
"""
REFINE = FIT + "pv.refinement.refine(vae.model, vae.guide, x, steps=2)\n"
FIT_COMMAND = """
import sys, tempfile
from ppl_vae.cli import main

with tempfile.TemporaryDirectory() as folder:
    sys.stdout = sys.stderr
    try:
        main(["fit", "--data", "digits", "--epochs", "1", "--hidden", "4", "--out", f"{folder}/run",
              "--device", "cpu"])
    except SystemExit as end:
        assert not end.code
    finally:
        sys.stdout = sys.__stdout__
"""
UNUSED = [
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "scipy.special",
    "scipy.stats",
    "pandas",
    "pyarrow",
    "xarray",
    "h5py",
    "arviz_base",
    "matplotlib",
    "sklearn",
    "torchvision",
    "ray",
]


@pytest.mark.parametrize("code", [FIT, REFINE, FIT_COMMAND], ids=["function", "guide", "command"])
def test_a_fit_imports_nothing_slow_that_it_has_no_use_for(code, beside_torch):
    """Four to six seconds of a process that trains a small model, torch's compiler most of all."""
    code += f"\nimport sys\nprint([m for m in {UNUSED} if m in sys.modules])"
    assert beside_torch(code) == "[]\n"


STATE = """
import random, sys, warnings
import numpy, torch, pyro, pyro.distributions
def state():
    return {
        "validate": torch.distributions.Distribution._validate_args,
        "pyro": (pyro.settings.get(), dict(pyro.get_param_store().items())),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "grad": (torch.is_grad_enabled(), torch.is_anomaly_enabled()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(),
                          torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()),
        "random": (torch.get_rng_state().tolist(), repr(numpy.random.get_state()),
                   repr(random.getstate())),
        "stack": list(pyro.poutine.runtime._PYRO_STACK),
        "print": repr(torch._tensor_str.PRINT_OPTS),
    }
before = state()
CHANGE
after = state()
print([key for key in before if before[key] != after[key]])
"""
EVERYTHING = f"""
import importlib, ppl_vae
assert len([getattr(ppl_vae, name) for name in ppl_vae.__all__]) > 10
for name in {NAMES}:
    importlib.import_module(name)
"""


def test_every_public_name_is_there_and_importing_everything_changes_nothing_global(beside_torch):
    assert beside_torch(STATE.replace("CHANGE", EVERYTHING)) == "[]\n"


def test_of_the_import_test(beside_torch):
    assert beside_torch(STATE.replace("CHANGE", "torch.rand(1)")) == "['random']\n"
