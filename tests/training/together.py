"""Training by two processes and by one, compared: run in each of them, as torchrun would.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python together.py FOLDER
"""

import atexit
import json
import sys
import time
import traceback
import types
from pathlib import Path

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch.fx.experimental import proxy_tensor

sys.path.append(str(Path(__file__).parents[1]))
from counted_rows import CountedRows
from objectives.cases import RIGHT, SHAPED
from programs import binary_data, binary_vae

from ppl_vae import capture
from ppl_vae.data import binarize_batch
from ppl_vae.guides import DiagonalNormalEncoder, VonMisesFisherEncoder
from ppl_vae.likelihoods import BernoulliDecoder, OptimalSigmaDecoder
from ppl_vae.networks import MLP
from ppl_vae.objectives import ELBO, IWAE, Reconstruction
from ppl_vae.priors import StandardNormalPrior, UniformSpherePrior
from ppl_vae.randomness import seeded
from ppl_vae.training import AdamStep, TorchStep, Workers, find_parameters, fit
from ppl_vae.training._workers import require_sum_over_data
from ppl_vae.vae import VAE

# As in conftest.py: half of the time of a recording.
fake_tensor.traceback = types.SimpleNamespace(**vars(traceback) | {"extract_stack": list})

# Before the workers join, so that it is called after what they leave to the end.
atexit.register(lambda: print("joined at the end:", torch.distributed.is_initialized()))
WORKERS = Workers.joined(2)
X = binary_data(41).double()
VALID = binary_data(30, seed=2).double()


def sequential(latent, features, *layers):
    """A small VAE with other layers in its encoder."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(features, 8), *layers, nn.Linear(8, 2 * latent))
    decoder = BernoulliDecoder(MLP(latent, (8,), features))
    return VAE(StandardNormalPrior(latent), decoder, DiagonalNormalEncoder(encoder))


def relative(values, expected):
    """Largest distance of tensors, relative to the norm of all that are expected."""
    flat, wanted = (torch.cat([v.detach().flatten().double() for v in given.values()])
                    for given in (values, expected))  # fmt: skip
    return float((flat - wanted).norm() / wanted.norm())


def gradients(objective, workers, size=25):
    """Sums and gradients of a batch, by these workers."""
    # Reconstruction gives no gradient to a prior.
    vae = binary_vae(learned_prior=not isinstance(objective, Reconstruction)).double()
    modules = objective.programs(vae.model, vae.guide).modules(X[:2])
    step = TorchStep(objective, vae.model, vae.guide, find_parameters(modules))
    share = workers.share_of(size)
    if share is not None:
        require_sum_over_data(objective, step, modules.modules)
    x = X[:size] if share is None else share.of(X[:size])
    with seeded(3), workers.sharing(size, x, modules.modules, 3):
        step(x, 1e-3)
    return {n: p.grad for n, p in step.parameters.items() if p.grad is not None}


def gradients_of_every_objective():
    errors, refused = {}, {}
    for objective in [*RIGHT, *SHAPED]:
        try:
            errors[repr(objective)] = relative(
                gradients(objective, WORKERS), gradients(objective, Workers())
            )
        except ValueError as error:
            refused[repr(objective)] = str(error)
    return {"errors": errors, "refused": refused}


def trained(workers, vae=None, x=X, objective=None, **settings):
    vae = (vae or binary_vae)()
    vae = vae.double()
    settings = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"} | settings
    result = fit(vae.model, vae.guide, objective or ELBO(2), x, workers=workers, **settings)
    return vae.state_dict(), result


def compiled():
    """A graph of a share of a batch is replayed; the sum over workers is outside of it."""
    # Batches of one shape, as recording takes all the time; shares of 10 and 9 data.
    given = {"x": X[:38], "batch_size": 19, "clip_norm": 0.5}
    cases = {
        "compiled": {"step": "compiled", **given},
        "semi-amortised graphs": {"step": "semi-amortised:2,compiled=true", **given},
    }
    # Recorded alone, which is what a share and offsets change; test_compiled has the compiler. As
    # conftest's fixture, without the shapes that only a compiler reads.
    capture.compile_graph = lambda graph, inputs: graph
    proxy_tensor.set_meta = lambda proxy, value: proxy
    return compared(cases)


def fits():
    """How far training by two is from training by one."""
    full = {"valid": VALID, "clip_norm": 0.5, "ema_decay": 0.9, "transform": binarize_batch}
    cases = {
        "torch": {"step": "torch"},
        "svi": {"step": "svi"},
        "alternating": {"step": "alternating:2"},
        "semi-amortised": {"step": "semi-amortised:3"},
        "everything": {"x": 0.2 + 0.6 * X, "objective": IWAE(3), **full},
        "evaluations": {"decoder_evaluations": 150, "epochs": None},
        "dropout": {"vae": lambda: sequential(2, 6, nn.Dropout(0.3)), "objective": IWAE(3)},
        "moving buffer": {
            "vae": lambda: VAE(
                StandardNormalPrior(2),
                OptimalSigmaDecoder(nn.Linear(2, 6)),
                DiagonalNormalEncoder(nn.Linear(6, 4)),
            ),
        },
    }
    return compared(cases)


def compared(cases):
    """Errors of the parameters, whether they are one model, and histories of both."""
    found = {}
    for name, settings in cases.items():
        states, histories = [], []
        for workers in (WORKERS, Workers()):
            torch.manual_seed(1)
            state, result = trained(workers, **settings)
            states.append(state)
            rows = result.history.to_json()
            histories.append([[r["updates"], r["evaluations"], r["validation"], r["bound"]]
                              for r in rows])  # fmt: skip
        # Every worker holds the same model.
        everywhere = WORKERS._gathered(states[0])
        alike = all(torch.equal(everywhere[0][k], everywhere[1][k]) for k in states[0])
        found[name] = {"error": relative(*states), "alike": alike, "histories": histories}
    return found


def resumed(folder):
    """One process goes on from two, and two from one."""
    _, planned = trained(Workers(), valid=VALID, epochs=4)
    found = {}
    for name, first, then in (("by one", WORKERS, Workers()), ("by two", Workers(), WORKERS)):
        file = folder / f"{name} {WORKERS.rank if first.size == 1 else 'both'}"
        if first.size == 1:
            file = folder / name
            if WORKERS.is_first:
                trained(first, valid=VALID, epochs=2, checkpoint=file)
            WORKERS.from_first(lambda: None)
        else:
            trained(first, valid=VALID, epochs=2, checkpoint=file)
        copy = file if then.size == 2 else Path(f"{file}-{WORKERS.rank}")
        if copy != file:
            copy.write_bytes(file.read_bytes())
        _, result = trained(then, valid=VALID, epochs=4, checkpoint=copy)
        found[name] = [
            abs(a.validation - b.validation)
            for a, b in zip(result.history.records, planned.history.records, strict=True)
        ]
    return found


def patience():
    _, result = trained(WORKERS, valid=VALID, epochs=200, patience=2, learning_rate=0.05)
    return {"stopped": result.stopped_early, "kept": result.kept_epoch,
            "epochs": len(result.history), "calls": calls()}  # fmt: skip


def calls():
    """Who is called back."""
    heard = []
    trained(WORKERS, on_start=heard.append, on_epoch=heard.append)
    return len(heard)


def reads():
    """Rows that this worker reads in an epoch, without those that are looked at first."""
    rows = CountedRows(X)
    trained(WORKERS, x=rows, epochs=1)
    one = rows.total
    rows = CountedRows(X)
    trained(WORKERS, x=rows, epochs=3)
    return (rows.total - one) / 2


def sphere():
    """Draws by rejection: no equality, but all workers have one model."""

    def vae():
        torch.manual_seed(0)
        encoder = VonMisesFisherEncoder(nn.Linear(6, VonMisesFisherEncoder.num_outputs(3)))
        return VAE(UniformSpherePrior(3), BernoulliDecoder(nn.Linear(3, 6)), encoder)

    state, _ = trained(WORKERS, vae)
    first, second = WORKERS._gathered(state)
    return all(torch.equal(first[name], second[name]) for name in first)


class OwnStep(AdamStep):
    """A step that takes gradients in a way of its own."""

    def __call__(self, x, learning_rate):
        self.objective.loss_and_grads(self.model, self.guide, x)
        return x.new_zeros(3)


def failures():
    """Messages of what goes wrong in one worker, and of what workers cannot do."""
    bad = X.clone()
    bad[35] = 1e200

    class Refuses(nn.Module):
        def forward(self, x):
            if bool((x.sum(-1) > 1e3).any()):
                raise ValueError("a row is too large")
            return network(x)

    torch.manual_seed(0)
    network = nn.Linear(6, 4)
    refusing = VAE(
        StandardNormalPrior(2),
        OptimalSigmaDecoder(nn.Linear(2, 6)),
        DiagonalNormalEncoder(Refuses()),
    )
    overflowing = VAE(
        StandardNormalPrior(2), OptimalSigmaDecoder(nn.Linear(2, 6)), DiagonalNormalEncoder(network)
    )
    large = X.clone()
    large[35] = 1e4
    cases = {
        "not finite": {"vae": lambda: overflowing, "x": bad},
        "raises": {"vae": lambda: refusing, "x": large},
        "batch of one": {"batch_size": 1},
        "batch norm": {"vae": lambda: sequential(2, 6, nn.BatchNorm1d(8))},
        "aggressive": {"step": "aggressive"},
        "own step": {"step": OwnStep},
    }
    found = {}
    for name, settings in cases.items():
        try:
            trained(WORKERS, **settings)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    parts = [gradients_of_every_objective, compiled, fits, patience, reads, sphere, failures]
    results = {}
    for part in parts:
        if len(sys.argv) > 2 and part.__name__ not in sys.argv[2:]:
            continue
        begun = time.perf_counter()
        results[part.__name__] = part()
        print(part.__name__, round(time.perf_counter() - begun, 1), flush=True)
    if len(sys.argv) == 2 or "resumed" in sys.argv:
        results["resumed"] = resumed(out)
    (out / f"{WORKERS.rank}.json").write_text(json.dumps(results, indent=1))
