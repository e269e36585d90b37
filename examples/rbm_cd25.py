"""Train a restricted Boltzmann machine of 500 hidden units by CD-25, and sandwich its log Z.

The recipe of the machine that Salakhutdinov and Murray (2008) measured: 784 x 500 on binarised
MNIST, 25 sweeps an update. 250 epochs take about 5.5 hours of one core of an AMD EPYC (0.16 s an
update of 100 images, 500 updates an epoch), log Z as published about 4 minutes.

    python examples/rbm_cd25.py                                 # hours; PPL_VAE_DATA names the data
    python examples/rbm_cd25.py --epochs 5                      # minutes
    python examples/rbm_cd25.py --data digits --hidden 20 --epochs 20

A run that was stopped goes on from its checkpoint.
"""

import argparse

import torch

import ppl_vae as pv
from ppl_vae.baselines import RBM, train
from ppl_vae.schedules import Exponential


def main(
    data: str = "binarized-mnist",
    hidden: int = 500,
    epochs: int = 250,
    steps: int = 25,
    temperatures: int = 14_500,
    checkpoint: str | None = "rbm_cd25.safetensors",
) -> pv.Evidence:
    """Train; print log Z and log p(x) of the test images."""
    dataset = pv.load_dataset(data)
    if data == "digits":
        dataset = dataset.binarized("static")
    torch.manual_seed(0)
    rbm = RBM(
        dataset.features,
        hidden,
        rule="cd",
        steps=steps,
        learning_rate=Exponential(0.05, 0.005),
        momentum=0.9,
        weight_decay=1e-4,
    )
    train(rbm, dataset.train, epochs=epochs, batch_size=100, checkpoint=checkpoint)
    partition = rbm.log_partition(temperatures=temperatures)
    print(partition)
    evidence = rbm.evidence(dataset.test, partition)
    print(evidence)
    return evidence


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="binarized-mnist")
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--temperatures", type=int, default=14_500)
    main(**vars(parser.parse_args()))
