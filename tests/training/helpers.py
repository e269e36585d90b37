"""What the tests of training share."""

import torch
from programs import binary_data, binary_vae
from torch import nn

from ppl_vae.data import binarize_batch
from ppl_vae.objectives import ELBO
from ppl_vae.training import fit

STEPS = ["torch", "svi"]
X = binary_data(40)
GREY = 0.1 + 0.8 * X
VALID = binary_data(30, seed=2)


class InterruptAt:
    """A random transform, as dynamic binarisation is, stopped by Ctrl-C at the n-th call.

    The first looks for parameters; the sample that tells divergence, which is next, is not counted.
    """

    def __init__(self, call):
        self.call = call + 1 if call > 1 else call

    def __call__(self, batch):
        self.call -= 1
        if self.call == 0:
            raise KeyboardInterrupt
        return binarize_batch(batch)


def train(vae=None, x=X, objective=None, **kwargs):
    """A short run; returns the model and what fit returned."""
    vae = vae or binary_vae()
    kwargs = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"} | kwargs
    return vae, fit(vae.model, vae.guide, objective or ELBO(2), x, **kwargs)


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_state(a, b):
    a, b = (s.state_dict() if isinstance(s, nn.Module) else s for s in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history.to_json()]
