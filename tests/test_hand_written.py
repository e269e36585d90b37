"""A model and guide written by hand go through everything: objectives, both steps, evidence."""

import pyro
import pytest
import torch
from programs import LinearChain, param_guide, param_model

from ppl_vae.evidence import ImportanceSampling, paired_difference
from ppl_vae.objectives import ELBO, IWAE, AnalyticELBO
from ppl_vae.training import fit

# That both steps give the same parameters is shown in tests/training/test_steps.py.
CASES = pytest.mark.parametrize(
    ("objective", "step"),
    [(ELBO(2), "torch"), (AnalyticELBO(2), "torch"), (IWAE(5), "torch"), (ELBO(2), "svi")],
    ids=repr,
)


@CASES
def test_two_layers_of_pyro_param_end_to_end(objective, step):
    x = LinearChain().simulate(300).float()
    train, test = x[:200], x[200:]
    estimate = ImportanceSampling(300)
    param_model(train), param_guide(train)
    before = estimate(param_model, param_guide, test)
    result = fit(
        param_model, param_guide, objective, train, valid=test, epochs=25, batch_size=50,
        learning_rate=0.02, step=step, progress=False,
    )  # fmt: skip
    after = estimate(param_model, param_guide, test)
    assert list(result.history.records[-1].kl) == ["a", "b"]
    difference = paired_difference(after, before)
    assert difference.mean > 5 * difference.total_error
    store = pyro.get_param_store()
    assert store["scale"] > 0
    assert (store["spread"] > 0).all()


@CASES
def test_two_layers_in_a_module_recover_the_evidence(objective, step):
    """Started elsewhere, the chain comes back to the density its data were drawn from."""
    truth, chain = LinearChain(), LinearChain()
    train, test = truth.simulate(400), truth.simulate(200, seed=9)
    with torch.no_grad():
        chain.A.mul_(0.2)
        chain.B.mul_(0.2)
    fit(
        chain.model, chain.bottom_up, objective, train, epochs=15, batch_size=50,
        learning_rate=0.05, step=step, progress=False,
    )  # fmt: skip
    exact = chain.log_evidence(test).mean().item()
    assert exact > truth.log_evidence(test).mean().item() - 0.1
    evidence = ImportanceSampling(20)(chain.model, chain.bottom_up, test)
    assert evidence.mean == pytest.approx(exact, abs=1e-9)
