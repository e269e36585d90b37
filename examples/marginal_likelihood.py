"""From data to log p(x) by five estimators that share little, with their errors.

Two latents, so that quadrature gives the exact answer to compare with. Run it as
``python examples/marginal_likelihood.py``; it takes about a minute on two cores.
"""

import argparse

import torch

import ppl_vae as pv


def train(data: pv.Dataset, epochs: int) -> pv.VAE:
    """A VAE with two latents, trained by the importance-weighted bound."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = pv.BernoulliDecoder(pv.MLP(2, [50], data.features), data.train.mean(0))
        encoder = pv.DiagonalNormalEncoder(pv.MLP(data.features, [50], 4))
    vae = pv.VAE(pv.StandardNormalPrior(2), decoder, encoder)
    pv.fit(vae.model, vae.guide, pv.IWAE(10), data.train, valid=data.valid, epochs=epochs)
    return vae


def main(epochs: int = 50, num_data: int = 50, temperatures: int = 200) -> dict[str, pv.Evidence]:
    """Print a table of log p(x) on test data; return its rows."""
    data = pv.load_dataset("digits").binarized("static", seed=0)
    vae = train(data, epochs)
    x = data.test[:num_data]
    annealing = pv.AnnealedImportanceSampling(temperatures, num_chains=8)
    estimators = {
        "importance sampling": pv.ImportanceSampling(2000),
        "adaptive": pv.AdaptiveSampling(0.02),
        "defensive mixture": pv.DefensiveSampling(2000),
        "annealed (AIS)": annealing,
        "quadrature": pv.Quadrature(),
    }
    print(f"test log p(x), nats per datum, {len(x)} digits")
    print(f"{'':20} {'log p(x)':>10} {'MC error':>9} {'evaluations':>12} {'seconds':>8}")
    found = {}
    for name, estimator in estimators.items():
        found[name] = e = estimator(vae.model, vae.guide, x)
        evaluations = f"{e.evaluations_per_datum:,.0f}"
        row = f"{e.mean:>10.3f} {e.monte_carlo_error:>9.3f} {evaluations:>12} {e.seconds:>8.1f}"
        print(f"{name:20} {row}   {e.direction}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--data", type=int, default=50, help="test digits to evaluate")
    parser.add_argument("--temperatures", type=int, default=200, help="of the annealing")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.data, arguments.temperatures)
