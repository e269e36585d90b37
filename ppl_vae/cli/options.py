"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ppl_vae.cli.config import Columns, PartSpec, Sizes, read_config

F = TypeVar("F", bound=Callable[..., Any])

DATA_HELP = (
    "Data set: digits (embedded), mnist, fashion-mnist, kmnist, omniglot, binarized-mnist, or a "
    ".npy, .npz, .csv or .parquet file with one datum a row."
)


def options(*added: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in their order on the help page."""

    def add(command: F) -> F:
        for option in reversed(added):
            command = option(command)
        return command

    return add


place = options(
    click.option(
        "--data-root",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Folder of the data sets.  [default: $PPL_VAE_DATA, else the user's cache]",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else."),
)

model = options(
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=read_config,
        help="YAML, TOML or JSON with the settings below, or the config.json of a run; options "
        "that are typed go before it.",
    ),
    click.option(
        "--data", default="digits", show_default=True, metavar="NAME|FILE", help=DATA_HELP
    ),
    click.option(
        "--columns",
        type=Columns(),
        default="",
        metavar="NAME=KIND,...",
        help="Of a table: real, positive, count, binary, categorical or ordinal[:low<high], where "
        "a column is not what it looks like (text categorical, two values binary, else real).",
    ),
    click.option(
        "--allow-missing",
        is_flag=True,
        help="Take NaN for a missing cell, to be left out; tables of mixed columns always do.",
    ),
    click.option(
        "--binarize",
        type=click.Choice(["auto", "none", "static", "dynamic"]),
        default="auto",
        show_default=True,
        help="Draw grey values in [0, 1] as 0 or 1: never, once (static), or afresh each "
        "time a training image is seen (dynamic). auto: static for the named grey image "
        "sets under a Bernoulli likelihood, else none.",
    ),
    click.option(
        "--likelihood",
        type=PartSpec(),
        default="auto",
        show_default=True,
        metavar="NAME",
        help="p(x|z): auto (table for .csv and .parquet files, else bernoulli), bernoulli, normal "
        "(learned standard deviation), normal:SD (fixed, in the units of the data), ... (ppl-vae "
        "parts lists them), or module:Class:ARGUMENTS.",
    ),
    click.option(
        "--latent",
        type=Sizes(),
        default="50",
        show_default=True,
        metavar="SIZES",
        help="Latent dimensions; several, from the data upwards, make a hierarchy: 100,50.",
    ),
    click.option(
        "--hidden",
        type=Sizes(),
        default="200,200",
        show_default=True,
        metavar="SIZES",
        help="Hidden layer sizes of the encoder; the decoder mirrors them.",
    ),
    click.option(
        "--upper-hidden",
        type=Sizes(),
        metavar="SIZES",
        help="Hidden layer sizes between layers of latents.  [default: as --hidden]",
    ),
    click.option(
        "--activation",
        default="tanh",
        show_default=True,
        help="tanh, relu, silu, gelu, elu, softplus or leaky-relu.",
    ),
    click.option(
        "--epochs", type=int, metavar="N", help="Passes over the training data.  [default: 100]"
    ),
    click.option(
        "--updates",
        type=int,
        metavar="N",
        help="In place of --epochs: stop after so many batches.",
    ),
    click.option(
        "--seconds",
        type=float,
        metavar="S",
        help="In place of --epochs: stop after so much training time, validation not counted.",
    ),
    click.option(
        "--decoder-evaluations",
        type=int,
        metavar="N",
        help="In place of --epochs: stop before particles times batch, summed over all draws, "
        "exceeds N; makes steps and numbers of particles comparable.",
    ),
    click.option("--batch-size", default=100, show_default=True, help="Data a batch."),
    click.option("--learning-rate", default=1e-3, show_default=True, help="Adam's, at the start."),
    click.option(
        "--schedule",
        default="constant",
        show_default=True,
        help="Learning rate over training: constant, exponential (to a tenth), cosine, burda.",
    ),
    click.option(
        "--clip-norm",
        type=float,
        metavar="NORM",
        help="Largest gradient norm, nats per datum.  [default: no clipping]",
    ),
    click.option(
        "--patience",
        type=int,
        metavar="EPOCHS",
        help="Stop after so many epochs without a better validation bound.  [default: "
        "never; the best epoch is kept either way]",
    ),
    click.option(
        "--validation-particles",
        default=50,
        show_default=True,
        help="K of the importance-weighted bound on the validation data.",
    ),
    click.option(
        "--step",
        default="torch",
        show_default=True,
        metavar="NAME",
        help="torch (one fused optimiser), svi (pyro.infer.SVI), alternating:N (N updates of the "
        "guide for one of the model), aggressive (until the bound stops improving), or "
        "semi-amortised:N (q refined N times for each datum).",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of everything random."),
)

live = options(
    click.option(
        "--tensorboard",
        is_flag=True,
        help="Write the learning curves for TensorBoard too (extra tensorboard); history.csv is "
        "written in any case.",
    ),
)

distributions = options(
    click.option(
        "--prior",
        type=PartSpec(),
        default="normal",
        show_default=True,
        metavar="NAME",
        help="p(z): normal, ... (ppl-vae parts lists them), or module:Class:ARGUMENTS.",
    ),
    click.option(
        "--guide",
        type=PartSpec(),
        default="normal",
        show_default=True,
        metavar="NAME",
        help="q(z|x): normal, ladder (of a hierarchy), ... (ppl-vae parts lists them), or "
        "module:Class:ARGUMENTS.",
    ),
    click.option(
        "--network",
        type=PartSpec(),
        default="mlp",
        show_default=True,
        metavar="NAME",
        help="Bodies of encoder and decoder: mlp, ... (ppl-vae parts lists them), or "
        "module:Class:ARGUMENTS.",
    ),
)

evaluation = options(
    click.option(
        "--split",
        type=click.Choice(["test", "valid", "train"]),
        default="test",
        show_default=True,
        help="Data to estimate log p(x) on.",
    ),
    click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="N",
        help="Only N of these data, a fixed random subset.  [default: all]",
    ),
)


estimator = options(
    click.option("--particles", type=int, metavar="K", help="Draws per datum.  [default: 5000]"),
    click.option(
        "--refine",
        type=click.IntRange(min=1),
        metavar="STEPS",
        help="Refine the guide for each datum by so many updates beforehand.  [default: not at "
        "all]",
    ),
    click.option(
        "--bootstrap",
        type=int,
        metavar="B",
        help="iwae, jackknife: standard errors from so many bootstrap samples of the draws.  "
        "[default: the delta method]",
    ),
    click.option(
        "--target-se",
        type=float,
        metavar="NATS",
        help="adaptive: standard error wanted of each log p(x).  [default: 0.05]",
    ),
    click.option(
        "--order", type=int, metavar="M", help="jackknife: 1, 2 or 3 terms of bias.  [default: 1]"
    ),
    click.option(
        "--prior-share",
        type=float,
        metavar="SHARE",
        help="defensive: of the draws, from the prior.  [default: 0.1]",
    ),
    click.option(
        "--replicates", type=int, metavar="R", help="sumo: series averaged.  [default: 200]"
    ),
    click.option(
        "--temperatures",
        type=int,
        metavar="T",
        help="ais, smc, ti, bdmc: steps from start to posterior.  [default: 1000; ti 50]",
    ),
    click.option(
        "--chains",
        type=int,
        metavar="C",
        help="ais, smc, ti, bdmc: chains of each datum.  [default: 16; smc 64]",
    ),
    click.option(
        "--leapfrog",
        type=int,
        metavar="L",
        help="ais, smc, ti, bdmc: leapfrog steps of a transition.  [default: 10]",
    ),
    click.option(
        "--start",
        type=click.Choice(["prior", "guide"]),
        help="ais, smc, ti, bdmc: where chains start.  [default: prior]",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["linear", "sigmoidal", "adaptive"]),
        help="ais, smc, ti, bdmc: spacing of temperatures.  [default: sigmoidal]",
    ),
    click.option(
        "--simulated",
        type=int,
        metavar="N",
        help="bdmc: data simulated to find the gap.  [default: 20]",
    ),
)

engine = options(
    click.option(
        "--engine",
        type=click.Choice(["in-process", "ray"]),
        default="in-process",
        show_default=True,
        help="One piece of work after the other here, or as many at once as a Ray cluster has room "
        "for.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="Of a Ray cluster, or auto for the one of this machine.  [default: start one here]",
    ),
    click.option(
        "--cpus",
        type=int,
        metavar="N",
        help="Threads of a piece of work, and cores it takes on Ray.  [default: all here, 1 on "
        "Ray; of a study what its file says]",
    ),
    click.option(
        "--gpus",
        type=float,
        metavar="SHARE",
        help="GPUs of a piece of work on Ray; 0.25 puts four on one.  [default: none; of a study "
        "what its file says]",
    ),
)
