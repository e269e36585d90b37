"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import ppl_vae as pv
from ppl_vae.cli._config import (
    ColumnKinds,
    LayerSizes,
    PartSpec,
    Steps,
    Words,
    import_from_here,
    take_settings,
)
from ppl_vae.cli._setting import setting

_F = TypeVar("_F", bound=Callable[..., Any])

RUN, EVALUATION = "runs.RunConfig", "runs.evaluate_run"
"""Functions and classes that most options set; their signatures have the defaults."""

DATA_HELP = (
    "Data set: digits (embedded), mnist, fashion-mnist, kmnist, omniglot, binarized-mnist, or a "
    ".npy, .npz, .csv or .parquet file with one datum a row."
)


def options(*added: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Several options as one decorator, in their order on the help page."""

    def add(command: _F) -> _F:
        for option in reversed(added):
            command = option(command)
        return command

    return add


def method_option(flag: str, *, about: str, otherwise: str = "", **attributes: Any) -> Any:
    """Option of some estimators: its help names them, and what each takes by default."""
    option = flag.removeprefix("--").replace("-", "_")
    return setting(
        flag,
        help=f"{{names}}: {about}",
        otherwise=otherwise or (lambda: pv.registry.method_default(option)),
        names=lambda: pv.registry.methods_taking(option),
        **attributes,
    )


place = options(
    click.option(
        "--data-root",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Folder of the data sets.  [default: $PPL_VAE_DATA, else the user's cache]",
    ),
    setting(
        "--device",
        of="runs.open_run",
        metavar="NAME",
        help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else."),
)


def _trusted(_ctx: click.Context, _param: click.Parameter, given: bool) -> bool:
    if given:
        import_from_here()
    return given


trust = options(
    click.option(
        "--trust",
        is_flag=True,
        callback=_trusted,
        help="Import classes from outside of this package that the file or folder names, which "
        "runs their code: only where you know who wrote it.",
    ),
)

model = options(
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=take_settings,
        help="YAML, TOML or JSON with the settings below, or the config.json of a run; options "
        "that are typed go before it.",
    ),
    setting("--data", of=RUN, metavar="NAME|FILE", help=DATA_HELP),
    setting(
        "--columns",
        of=RUN,
        type=ColumnKinds(),
        metavar="NAME=KIND,...",
        help="Of a table: real, positive, count, binary, categorical or ordinal[:low<high], where "
        "a column is not what it looks like (text categorical, two values binary, else real).",
    ),
    setting(
        "--separator",
        of=RUN,
        metavar="CHARACTER",
        help="Of a .csv file: auto, tab, space or a character.",
    ),
    setting(
        "--header",
        of=RUN,
        type=click.Choice(["auto", "yes", "no"]),
        help="Whether a .csv file's first row names the columns.",
    ),
    setting(
        "--decimal",
        of=RUN,
        type=click.Choice(["auto", ".", ","]),
        help="Character before the decimals of a table's numbers.",
    ),
    setting(
        "--thousands",
        of=RUN,
        otherwise="none",
        metavar="CHARACTER",
        help="Character between groups of three digits of a table's numbers.",
    ),
    setting(
        "--missing",
        of=RUN,
        otherwise="?, NA, NaN, null and others that pandas knows",
        type=Words(),
        metavar="WORD,...",
        help="Words for missing cells of a table, besides empty ones.",
    ),
    setting(
        "--drop",
        of=RUN,
        type=Words(),
        metavar="NAME,...",
        help="Columns of a table to leave out.",
    ),
    setting(
        "--test-data",
        of=RUN,
        otherwise="they are split off",
        metavar="FILE",
        help="File of the test rows, with the same columns.",
    ),
    setting(
        "--valid-fraction",
        of=RUN,
        otherwise=lambda: str(pv.data.Splitting().valid_fraction),
        type=float,
        metavar="SHARE",
        help="Share of a file's rows for validation.",
    ),
    setting(
        "--test-fraction",
        of=RUN,
        otherwise=lambda: str(pv.data.Splitting().test_fraction),
        type=float,
        metavar="SHARE",
        help="Share of a file's rows for test.",
    ),
    setting(
        "--split-seed",
        of=RUN,
        otherwise=lambda: str(pv.data.Splitting().seed),
        type=int,
        metavar="SEED",
        help="Seed of the permutation that splits a file's rows.",
    ),
    click.option(
        "--allow-missing",
        is_flag=True,
        help="Take NaN for a missing cell, to be left out; tables of mixed columns always do.",
    ),
    setting(
        "--binarize",
        of=RUN,
        type=click.Choice(["auto", "none", "static", "dynamic"]),
        help="Draw grey values in [0, 1] as 0 or 1: never, once (static), or afresh each "
        "time a training image is seen (dynamic). auto: static for the named grey image "
        "sets under a Bernoulli likelihood, else none.",
    ),
    setting(
        "--likelihood",
        of=RUN,
        type=PartSpec(),
        metavar="NAME",
        help="p(x|z): auto (table for .csv and .parquet files, else bernoulli), bernoulli, normal "
        "(learned standard deviation), normal:SD (fixed, in the units of the data), ... (ppl-vae "
        "parts lists them), or module:Class:ARGUMENTS.",
    ),
    setting(
        "--latent",
        of=RUN,
        type=LayerSizes(),
        metavar="SIZES",
        help="Latent dimensions; several, from the data upwards, make a hierarchy: 100,50.",
    ),
    setting(
        "--hidden",
        of=RUN,
        type=LayerSizes(),
        metavar="SIZES",
        help="Hidden layer sizes of the encoder; the decoder mirrors them.",
    ),
    setting(
        "--upper-hidden",
        of=RUN,
        otherwise="as --hidden",
        type=LayerSizes(),
        metavar="SIZES",
        help="Hidden layer sizes between layers of latents.",
    ),
    setting(
        "--activation",
        of=RUN,
        names=lambda: pv.networks.ACTIVATIONS,
        help="Activation of the hidden layers: {names}.",
    ),
    setting(
        "--epochs",
        of=RUN,
        otherwise=lambda: str(pv.runs.EPOCHS),
        type=int,
        metavar="N",
        help="Passes over the training data.",
    ),
    setting(
        "--updates",
        of=RUN,
        type=int,
        metavar="N",
        help="In place of --epochs: stop after so many batches.",
    ),
    setting(
        "--seconds",
        of=RUN,
        type=float,
        metavar="S",
        help="In place of --epochs: stop after so much training time, validation not counted.",
    ),
    setting(
        "--decoder-evaluations",
        of=RUN,
        type=int,
        metavar="N",
        help="In place of --epochs: stop before particles times batch, summed over all draws, "
        "exceeds N; makes steps and numbers of particles comparable.",
    ),
    setting("--batch-size", of=RUN, type=int, help="Largest number of data in a batch."),
    setting("--learning-rate", of=RUN, type=float, help="Learning rate of Adam at the start."),
    setting(
        "--schedule",
        of=RUN,
        names=lambda: pv.registry.SCHEDULES,
        help="Learning rate over training: {names}; exponential falls to a tenth.",
    ),
    setting(
        "--clip-norm",
        of=RUN,
        otherwise="no clipping",
        type=float,
        metavar="NORM",
        help="Largest gradient norm, nats per datum.",
    ),
    setting(
        "--patience",
        of=RUN,
        otherwise="never; the best epoch is kept either way",
        type=int,
        metavar="EPOCHS",
        help="Stop after so many epochs without a better validation bound.",
    ),
    setting(
        "--validation-particles",
        of=RUN,
        type=int,
        help="Number of particles K of the importance-weighted bound on the validation data.",
    ),
    setting(
        "--step",
        of=RUN,
        metavar="NAME",
        help="torch (one fused optimiser), svi (pyro.infer.SVI), alternating:N (N updates of the "
        "guide for one of the model), aggressive (until the bound stops improving), or "
        "semi-amortised:N (q refined N times for each datum).",
    ),
    setting("--seed", of=RUN, type=int, help="Seed of everything random."),
)

rows_file = click.option(
    "--data",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Rows of another file, in place of a split of the run's data; columns are matched by "
    "name.",
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
    setting(
        "--prior",
        of=RUN,
        type=PartSpec(),
        metavar="NAME",
        help="p(z): normal, ... (ppl-vae parts lists them), or module:Class:ARGUMENTS.",
    ),
    setting(
        "--guide",
        of=RUN,
        type=PartSpec(),
        metavar="NAME",
        help="q(z|x): normal, ladder (of a hierarchy), ... (ppl-vae parts lists them), or "
        "module:Class:ARGUMENTS.",
    ),
    setting(
        "--network",
        of=RUN,
        type=PartSpec(),
        metavar="NAME",
        help="Bodies of encoder and decoder: mlp, ... (ppl-vae parts lists them), or "
        "module:Class:ARGUMENTS.",
    ),
)

evaluation_options = options(
    setting(
        "--split",
        of=EVALUATION,
        type=click.Choice(["test", "valid", "train"]),
        help="Data to estimate log p(x) on.",
    ),
    setting(
        "--limit",
        of=EVALUATION,
        otherwise="all",
        type=click.IntRange(min=1),
        metavar="N",
        help="Only N of these data, a fixed random subset.",
    ),
)


estimator = options(
    setting(
        "--method",
        of="registry.build_estimator",
        metavar="NAME[:ARGUMENTS]",
        names=lambda: pv.registry.METHODS,
        help="Estimator of log p(x): {names}; docs/evidence.md says which to use when. "
        "Arguments are those of its class: iwae:5000,rows=2000.",
    ),
    method_option("--particles", type=int, metavar="K", about="draws per datum."),
    method_option(
        "--refine",
        otherwise="not at all",
        type=Steps(),
        metavar="STEPS|laplace",
        about="refine the guide for each datum by so many updates beforehand, or put a normal at "
        "each posterior mode (laplace).",
    ),
    method_option(
        "--bootstrap",
        otherwise="the delta method",
        type=int,
        metavar="B",
        about="standard errors from so many bootstrap samples of the draws.",
    ),
    method_option(
        "--target",
        type=float,
        metavar="NATS",
        about="standard error wanted of each log p(x).",
    ),
    method_option("--order", type=int, metavar="M", about="1, 2 or 3 terms of bias."),
    method_option(
        "--prior-share",
        type=float,
        metavar="SHARE",
        about="share of the draws that come from the prior.",
    ),
    method_option("--replicates", type=int, metavar="R", about="series averaged."),
    method_option(
        "--temperatures",
        type=int,
        metavar="T",
        about="steps from start to posterior.",
    ),
    method_option(
        "--chains",
        type=int,
        metavar="C",
        about="chains of each datum.",
    ),
    method_option(
        "--leapfrog-steps",
        type=int,
        metavar="L",
        about="leapfrog steps of a transition.",
    ),
    method_option(
        "--start",
        type=click.Choice(["prior", "guide"]),
        about="where chains start.",
    ),
    method_option(
        "--spacing",
        type=click.Choice(["linear", "sigmoidal", "adaptive"]),
        about="spacing of temperatures.",
    ),
    method_option(
        "--simulated",
        type=int,
        metavar="N",
        about="data simulated to find the gap.",
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
