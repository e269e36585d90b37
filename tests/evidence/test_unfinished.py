"""Long estimates go on where they stopped, to the numbers of a run that was never stopped."""

from dataclasses import fields, replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.evidence import (
    SUMO,
    DefensiveSampling,
    ImportanceSampling,
    Jackknife,
    ParetoSmoothed,
)
from ppl_vae.evidence import _loop as loop
from ppl_vae.linear_gaussian import LinearGaussian
from ppl_vae.refinement import Refinement

MODEL = LinearGaussian.random(6, 2, 0.7, seed=2)
VAE = MODEL.mean_field_vae()
X = MODEL.simulate(12, seed=3)
FAMILY = [
    ImportanceSampling(200, rows=400),
    ImportanceSampling(50, rows=100, refine=Refinement(3)),
    ImportanceSampling(60, rows=120, bootstrap=20),
    ParetoSmoothed(200, rows=400),
    Jackknife(64, rows=128),
    SUMO(5, 3, rows=80),
    DefensiveSampling(50, rows=100),
]


class Stopped(BaseException):  # not KeyboardInterrupt, which ends the whole test run
    pass


def interrupted_model(after):
    """The model, which is interrupted when it has run so many times."""
    count = 0

    def model(x):
        nonlocal count
        count += 1
        if count > after:
            raise Stopped
        return VAE.model(x)

    return model


def same(a, b):
    for field in fields(a):
        if field.name == "seconds":
            continue
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, field.name


@pytest.mark.parametrize("estimator", FAMILY, ids=lambda e: type(e).__name__)
def test_interrupted_and_gone_on_with(estimator, tmp_path):
    whole = estimator(VAE.model, VAE.guide, X, seed=4)
    path = tmp_path / "unfinished.safetensors"
    stops = 0
    for after in (8, 13, 21, 34, 10**9):
        try:
            found = estimator(interrupted_model(after), VAE.guide, X, seed=4, checkpoint=path)
            break
        except Stopped:
            stops += 1
    assert stops > 0
    assert path.exists()
    same(found, whole)


def test_every_group_is_written_when_its_time_has_come(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN", -1.0)
    estimator, path = FAMILY[0], tmp_path / "file"

    def model(x):
        if path.exists():
            raise RuntimeError("the machine is switched off")
        return VAE.model(x)

    with pytest.raises(RuntimeError):
        estimator(model, VAE.guide, X, seed=4, checkpoint=path)
    same(
        estimator(VAE.model, VAE.guide, X, seed=4, checkpoint=path),
        estimator(VAE.model, VAE.guide, X, seed=4),
    )
    # A file with all in it is read: nothing is run but the checks of the programs and the support.
    same(
        estimator(VAE.model, VAE.guide, X, seed=4, checkpoint=path),
        estimator(interrupted_model(6), VAE.guide, X, seed=4, checkpoint=path),
    )


def test_a_file_of_a_model_whose_code_was_changed_is_refused(tmp_path):
    """Its parameters are the same: only the densities tell."""
    path = tmp_path / "file"

    def normal(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def laplace(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Laplace(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    x = torch.ones(4, 2)
    estimate = partial(ImportanceSampling(50), guide=guide, x=x, checkpoint=path)
    same(estimate(normal), estimate(normal))
    with pytest.raises(ValueError, match=r"log-density of site 'x' of the model .* were changed"):
        estimate(laplace)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": replace(FAMILY[0], num_particles=201)}, "something else .settings"),
        ({"seed": 5}, "something else .seed"),
        ({"x": X + 1}, "something else .rows"),
        (
            {"vae": LinearGaussian.random(6, 2, 0.7, seed=9).mean_field_vae()},
            "something else .parameters",
        ),
        ({"seed": None}, "a checkpoint needs a seed"),
        ({"damaged": True}, "is damaged or no unfinished"),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_a_file_of_another_run_is_refused(change, message, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(Stopped):
        FAMILY[0](interrupted_model(8), VAE.guide, X, seed=4, checkpoint=path)
    if change.get("damaged"):
        path.write_bytes(path.read_bytes()[:100])
    before = path.read_bytes()
    vae = change.get("vae", VAE)
    with pytest.raises(ValueError, match=message):
        change.get("estimator", FAMILY[0])(
            vae.model, vae.guide, change.get("x", X), seed=change.get("seed", 4), checkpoint=path
        )
    assert path.read_bytes() == before
