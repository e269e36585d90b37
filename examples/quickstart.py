"""Train a variational autoencoder with a Pyro objective and estimate its log p(x)."""

import argparse

import ppl_vae as pv


def main(epochs: int = 50, num_particles: int = 1000) -> pv.Evidence:
    """Train on the embedded digits; print log p(x) of the test images and the ELBO's parts."""
    data = pv.load_dataset("digits").binarized("static")
    vae = pv.VAE(
        prior=pv.StandardNormalPrior(16),
        decoder=pv.BernoulliDecoder(pv.MLP(16, [200, 200], data.features), data.train.mean(0)),
        encoder=pv.DiagonalNormalEncoder(pv.MLP(data.features, [200, 200], 2 * 16)),
    )
    pv.fit(vae.model, vae.guide, pv.IWAE(10), data.train, valid=data.valid, epochs=epochs)
    evidence = pv.ImportanceSampling(num_particles)(vae.model, vae.guide, data.test)
    print(evidence)
    print(pv.decompose(vae.model, vae.guide, data.test))
    return evidence


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    main(parser.parse_args().epochs)
