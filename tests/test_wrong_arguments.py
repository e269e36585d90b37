"""Arguments of another kind than is asked for: one line that names them, at the door."""

import pytest
import torch
from programs import binary_vae

import ppl_vae as pv
from ppl_vae.comparison import compare
from ppl_vae.runs import train_run

pytestmark = pytest.mark.usefixtures("unchecked_types")

VAE = binary_vae()
X = torch.zeros(4, 6)


def estimate(**options):
    return pv.ImportanceSampling(5)(VAE.model, VAE.guide, X, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: estimate(seed="a"), TypeError, "seed must be a whole number, .* got 'a'"),
        (lambda _: estimate().plot(3), TypeError, "ax must be axes of matplotlib, .* got 3"),
        (lambda _: pv.AutomaticSampling(target="x"), ValueError, "target above 0, got 'x'"),
        (lambda _: pv.paired_difference(estimate(), 2), TypeError, "b is 2, expected a Evidence"),
        (
            lambda _: pv.evidence.bits_per_dimension(estimate(), 6),
            TypeError,
            r"nats is an Evidence, expected a number: give evidence\.mean\.",
        ),
        (lambda _: compare({}), ValueError, "nothing to compare: give at least one arm"),
        (lambda _: compare({"a": {}}), ValueError, "nothing to compare: give at least one arm"),
        (lambda out: train_run({}, out), TypeError, r"config is .* RunConfig\.of"),
        (lambda _: pv.MLP("a", [3], 3), ValueError, "whole numbers, got .'a', 3, 3."),
        (lambda _: pv.MLP(2, [3.5], 3), ValueError, "whole numbers, got .2, 3.5, 3."),
        (
            lambda _: pv.VAE(pv.StandardNormalPrior, VAE.decoder, VAE.encoder),
            TypeError,
            "prior is the class StandardNormalPrior: give an instance",
        ),
        (
            lambda _: pv.VAE(VAE.prior, VAE.decoder, 3),
            TypeError,
            "encoder is 3, expected a module or a function",
        ),
    ],
)
def test_is_named_in_one_line(call, error, message, tmp_path):
    with pytest.raises(error, match=rf"^[^\n]*{message}[^\n]*$"):
        call(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
