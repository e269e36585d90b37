import inspect

import pytest
import torch

from ppl_vae.networks import DECODER_NETWORKS, ENCODER_NETWORKS

CONTEXT = {
    "in_features": 64,
    "hidden": (10,),
    "out_features": 128,
    "activation": "elu",
    "image_shape": (8, 8),
}


@pytest.mark.parametrize("name", ENCODER_NETWORKS)
def test_built_from_what_a_run_knows(name):
    for body in (ENCODER_NETWORKS[name], DECODER_NETWORKS[name]):
        asked = inspect.signature(body).parameters
        net = body(**{key: value for key, value in CONTEXT.items() if key in asked})
        assert net(torch.randn(3, 64)).shape == (3, 128)


@pytest.mark.parametrize("name", ENCODER_NETWORKS)
def test_own_arguments_are_the_same_for_both_and_have_defaults(name):
    first, second = (
        {p.name: p.default for p in inspect.signature(body).parameters.values()
         if p.name not in CONTEXT}
        for body in (ENCODER_NETWORKS[name], DECODER_NETWORKS[name])
    )  # fmt: skip
    assert first == second
    assert inspect.Parameter.empty not in first.values()
