"""The command line ``ppl-vae``: names to classes, options to arguments; no logic.

Nothing heavy is imported here: ``ppl_vae`` loads its parts on first use, so that help is instant.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import ppl_vae as pv

F = TypeVar("F", bound=Callable[..., Any])

DATA_HELP = (
    "Data set: digits (embedded), mnist, fashion-mnist, kmnist, omniglot, binarized-mnist, or a "
    ".npy, .npz, .csv or .parquet file with one datum a row."
)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_place = _options(
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

_model = _options(
    click.option(
        "--data", default="digits", show_default=True, metavar="NAME|FILE", help=DATA_HELP
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
        "--prior",
        default="normal",
        show_default=True,
        metavar="NAME",
        help="p(z): normal, learned-normal, or module:Class called with --latent.",
    ),
    click.option(
        "--likelihood",
        default="bernoulli",
        show_default=True,
        metavar="NAME",
        help="p(x|z): bernoulli, normal (learned standard deviation) or normal:SD (fixed, "
        "in the units of the data).",
    ),
    click.option("--latent", default=50, show_default=True, help="Latent dimensions."),
    click.option(
        "--hidden",
        default="200,200",
        show_default=True,
        metavar="SIZES",
        help="Hidden layer sizes of the encoder; the decoder mirrors them.",
    ),
    click.option(
        "--activation",
        default="tanh",
        show_default=True,
        help="tanh, relu, silu, gelu, elu, softplus or leaky-relu.",
    ),
    click.option("--epochs", default=100, show_default=True, help="Passes over the training data."),
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

_evaluation = _options(
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


_estimator = _options(
    click.option("--particles", type=int, metavar="K", help="Draws per datum.  [default: 5000]"),
    click.option(
        "--refine",
        type=click.IntRange(min=1),
        metavar="STEPS",
        help="Refine the guide for each datum by so many updates beforehand.  [default: not at "
        "all]",
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ppl_vae")
def cli() -> None:
    """Train variational autoencoders in Pyro and estimate their log p(x), with standard errors.

    All log-probabilities are in nats per datum. Commands go on where an interrupted one stopped.
    """


@cli.command()
@click.option(
    "--objective",
    default="elbo",
    show_default=True,
    metavar="NAME",
    help="elbo, stl, iwae:K (K particles), dreg:K, ... (ppl-vae objectives lists them), or "
    "module:Class.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of the run.",
)
@_model
@_place
def fit(folder: Path, data_root: Path | None, device: str, as_json: bool, **settings: Any) -> None:
    """Train one model into a folder."""
    config = _config(settings)
    run, result = pv.studies.train_run(config, folder, data_root=data_root, device=device)
    record = result.history.records[result.kept_epoch - 1]
    kl = ", ".join(f"KL({site}) {value:.3f}" for site, value in record.kl.items())
    text = (
        f"{run.dataset.description}\n"
        f"{len(result.history)} epochs{' (stopped early)' if result.stopped_early else ''}, kept "
        f"epoch {record.epoch}: {config.objective} bound {record.bound:.3f} nats on training data "
        f"(log-likelihood {record.log_likelihood:.3f}, {kl}), validation bound "
        f"{record.validation:.3f} +- {record.validation_error:.3f}\n"
        f"run in {folder}; next: ppl-vae evaluate {folder}"
    )
    values = {
        "folder": str(folder),
        "epochs": len(result.history),
        "kept": dataclasses.asdict(record),
    }
    _print(text, values, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--method",
    default="iwae",
    show_default=True,
    metavar="NAME",
    help="iwae (importance sampling), psis, defensive, jackknife, sumo, adaptive, ais, smc, ti, "
    "bdmc or exact; docs/evidence.md says which to use when.",
)
@_estimator
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@_evaluation
@_place
def evaluate(
    folder: Path,
    method: str,
    seed: int,
    split: Any,
    limit: int | None,
    data_root: Path | None,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Estimate log p(x) of a trained run, with its standard error."""
    estimator = pv.studies.build_estimator(method, options)
    run = pv.studies.open_run(folder, data_root=data_root, device=device)
    programs = run.vae.model, run.vae.guide
    data = run.split(split, limit)
    sandwich, pictures = None, []
    if method == "bdmc":
        found = pv.studies.sandwiches(estimator, *programs, data, device=run.device, seed=seed)
        title = f"{run.config.objective} on {run.dataset.name}: simulated data"
        pictures = pv.report.write_sandwich(found, folder, title)
        sandwich = found[estimator.ais.num_temperatures]
        estimator = pv.studies.with_gap(estimator, sandwich.gap)
    file = pv.studies.EVIDENCE if method == "iwae" else f"evidence-{method}.nc"
    evidence = pv.studies.evaluate_run(
        run, estimator=estimator, split=split, limit=limit, seed=seed, file=file
    )
    parts = pv.diagnostics.decompose(*programs, data, device=run.device, seed=seed)
    lines = [f"{run.config.objective} on {run.dataset.name}, {split} data", str(evidence)]
    values = {**evidence.summary(), "decomposition": parts.summary()}
    if run.config.likelihood == "bernoulli":
        bits = pv.evidence.bits_per_dimension(evidence.mean, run.dataset.features)
        lines.append(f"{bits:.4f} bits per dimension, of {run.dataset.features}")
        values["bits_per_dimension"] = bits
    if sandwich is not None:
        lines += ["", str(sandwich)]
        lines += [f"picture: {path}" for path in pictures]
        values["sandwich"] = {"gap": sandwich.gap, "gap_error": sandwich.gap_error}
    lines += ["", str(parts), "", f"per-datum values in {folder / file}"]
    _print("\n".join(lines), values, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--particles", default=5000, show_default=True, help="K of log p(x), per datum.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    metavar="N",
    help="Only N of the data of each split, a fixed random subset.",
)
@_place
def diagnose(
    folder: Path,
    particles: int,
    seed: int,
    limit: int,
    data_root: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Say what a trained run is like: gaps, information, calibration, bound against particles."""
    run = pv.studies.open_run(folder, data_root=data_root, device=device)
    found = pv.studies.diagnose_run(run, limit=limit, particles=particles, seed=seed)
    title = f"{run.config.objective} on {run.dataset.name}"
    paths = pv.report.write_diagnosis(found, folder, title)
    text = f"{title}, test data\n\n{found}\n\nwritten: {', '.join(map(str, paths))}"
    _print(text, {**found.summary(), "files": [str(path) for path in paths]}, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--count",
    type=click.IntRange(1, 100),
    default=10,
    show_default=True,
    help="Columns of the pictures.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@_place
def sample(
    folder: Path, count: int, seed: int, data_root: Path | None, device: str, as_json: bool
) -> None:
    """Draw pictures: the decoder's mean for draws from the prior, and reconstructions."""
    run = pv.studies.open_run(folder, data_root=data_root, device=device)
    paths = pv.report.write_sample_figures(run, count=count, seed=seed)
    _print("\n".join(map(str, paths)), {"files": [str(path) for path in paths]}, as_json)


@cli.command()
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    default=("elbo", "iwae:50"),
    show_default=True,
    metavar="NAME",
    help="An objective to compare (repeat); ppl-vae objectives lists them.",
)
@click.option("--seeds", default=3, show_default=True, help="Training runs of each objective.")
@click.option(
    "--particles",
    default=1000,
    show_default=True,
    help="K, draws per datum when estimating log p(x).",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the runs and results.  [default: compare-DATA]",
)
@_model
@_evaluation
@_place
def compare(
    objectives: tuple[str, ...],
    seeds: int,
    particles: int,
    folder: Path | None,
    split: Any,
    limit: int | None,
    data_root: Path | None,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare objectives over seeds: train each, evaluate each on the same data."""
    config = _config(settings)
    folder = folder or Path(f"compare-{Path(config.data).stem}")
    result = pv.studies.run_study(
        config,
        objectives,
        seeds,
        folder,
        estimator=pv.ImportanceSampling(particles),
        split=split,
        limit=limit,
        data_root=data_root,
        device=device,
        report=lambda line: click.echo(line, err=True),
    )
    title = f"{split} log p(x) on {config.data}"
    pictures = pv.report.write_study_figures(result, folder, title)
    text = pv.studies.format_comparison(result.comparison, title, result.notes)
    text += "\n\npictures: " + ", ".join(map(str, pictures))
    text += f"\nnumbers:  {folder / 'comparison.json'}, {folder / 'comparison.nc'}"
    values = {
        **result.comparison.summary(),
        "notes": result.notes,
        "pictures": [str(path) for path in pictures],
    }
    _print(text, values, as_json)


@cli.command()
@click.option(
    "--model",
    default="linear-gaussian",
    show_default=True,
    metavar="NAME|FOLDER",
    help="linear-gaussian (built in, near its optimum), or the folder of a run of ppl-vae fit.",
)
@click.option(
    "--objective",
    "names",
    multiple=True,
    default=("iwae", "iwae-stl", "dreg"),
    show_default=True,
    metavar="NAME",
    help="An objective to measure (repeat), at every K of --particles, or with its own K "
    "(iwae:5); ppl-vae objectives lists them.",
)
@click.option(
    "--particles",
    metavar="K,K,...",
    help="Numbers of particles.  [default: 1,4,16,64,256; of a run 1,4,16,64]",
)
@click.option(
    "--replicates",
    type=click.IntRange(min=2),
    metavar="R",
    help="Independent gradients each is taken from.  [default: 30000; of a run 200]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Test data of a run in the batch, a fixed random subset.  [default: 20]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("gradients"),
    show_default=True,
    metavar="FOLDER",
    help="Folder of the table, the numbers and the picture.",
)
@_place
def gradients(
    model: str,
    names: tuple[str, ...],
    particles: str | None,
    replicates: int | None,
    limit: int | None,
    seed: int,
    folder: Path,
    data_root: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the gradients of objectives: bias, variance, signal-to-noise ratio against K.

    theta are the parameters of the model, phi those of the guide. IWAE's phi has a ratio that falls
    with the number of particles; DReG's grows.
    """
    built_in = model == "linear-gaussian"
    if particles is None:
        particles = "1,4,16,64,256" if built_in else "1,4,16,64"
    families = _over_particles(names, particles)
    if built_in:
        if limit is not None:
            raise click.BadParameter("belongs to a run, not to linear-gaussian", param_hint="limit")
        _require_writable(folder)
        bench = pv.diagnostics.linear_gaussian_bench(
            families, replicates=replicates or 30_000, seed=seed
        )
    else:
        run = pv.studies.open_run(Path(model), data_root=data_root, device=device)
        _require_writable(folder)
        bench = pv.diagnostics.gradient_statistics(
            run.vae.model,
            run.vae.guide,
            run.split("test", limit or 20).to(run.device),
            families,
            replicates=replicates or 200,
            seed=seed,
        )
    paths = pv.report.write_gradient_bench(bench, folder, f"gradients of {model}")
    text = f"{bench}\n\nfiles: {', '.join(map(str, paths))}"
    _print(text, {**bench.summary(), "files": [str(path) for path in paths]}, as_json)


def _over_particles(names: tuple[str, ...], particles: str) -> dict[str, list[Any]]:
    """Name without K to the objectives: at each K, or at the K that the name brings along."""
    try:
        counts = sorted({int(count) for count in particles.split(",") if count.strip()})
    except ValueError as error:
        raise click.BadParameter("give numbers such as 1,4,16", param_hint="particles") from error
    if not counts or counts[0] < 1:
        raise click.BadParameter(f"K is 1 or more, got {particles}", param_hint="particles")
    families: dict[str, list[Any]] = {}
    for text in dict.fromkeys(names):
        family, texts = _with_particles(text, counts)
        families.setdefault(family, []).extend(map(pv.studies.parse_objective, texts))
    return families


def _with_particles(text: str, counts: list[int]) -> tuple[str, list[str]]:
    """The name without K, and the full names: one for each K, unless the text has its own."""
    first, plus, shaping = text.partition("+")
    name, _, arguments = first.partition(":")
    given = [argument for argument in arguments.split(",") if argument]
    named = pv.studies.OBJECTIVES.get(name)
    if named is None:
        # module:Class, or module:Class:K
        own = first.count(":") != 1
        return text, [text] if own else [f"{first}:{K}{plus}{shaping}" for K in counts]
    place = next(
        i for i, a in enumerate(named.arguments) if a in ("num_particles", "particles_each")
    )
    if len(given) > place:
        rest = given[:place] + given[place + 1 :]
        return ":".join([name, *filter(None, [",".join(rest)])]) + plus + shaping, [text]
    counts = [K for K in counts if getattr(named.build, "least_particles", 1) <= K] or counts
    return text, [f"{name}:{','.join([*given, str(K)])}{plus}{shaping}" for K in counts]


def _require_writable(folder: Path) -> None:
    """Fail before the work, not after it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts, nothing else.")
def objectives(as_json: bool) -> None:
    """List the objectives and KL shapings, by the names that --objective takes."""
    claims = {name: named.build.claims for name, named in pv.studies.OBJECTIVES.items()}
    rows = [(c.name, c.direction, c.formula, c.use) for c in claims.values()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    shapings = [named.form for named in pv.studies.SHAPINGS.values()]
    with_kl = [name for name in claims if pv.studies.takes_kl_shaping(name)]
    text = "\n".join(lines)
    text += f"\n\nKL shaping of {', '.join(with_kl)}, as elbo+beta:4: {', '.join(shapings)}"
    values = {
        "objectives": {
            name: dataclasses.asdict(c, dict_factory=_plain) for name, c in claims.items()
        },
        "kl_shapings": shapings,
    }
    _print(text, values, as_json)


def _plain(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: sorted(v) if isinstance(v, frozenset) else v for name, v in fields}


def _config(settings: dict[str, Any]) -> Any:
    try:
        hidden = [int(size) for size in settings["hidden"].split(",") if size.strip()]
    except ValueError as error:
        raise click.BadParameter(
            "give layer sizes such as 200,200", param_hint="--hidden"
        ) from error
    data = settings["data"]
    if Path(data).suffix and Path(data).exists():
        data = str(Path(data).resolve())
    return pv.studies.RunConfig.from_mapping({**settings, "hidden": hidden, "data": data})


def _print(text: str, values: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(values, indent=2) if as_json else text)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every failure a user can cause is one line and a non-zero exit."""
    # So that module:Class finds a class in the folder one works in; last, to shadow nothing.
    sys.path.append(str(Path.cwd()))
    try:
        cli.main(args=arguments, prog_name="ppl-vae", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ppl-vae"
        _fail(f"{error.format_message()} See: {command} --help", code=2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; the same command goes on from the last checkpoint.", code=130)
    except BrokenPipeError:
        sys.exit(1)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        _fail(_one_line(error), code=1)


def _one_line(error: BaseException) -> str:
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {message}"
    return " ".join(message.split()) or type(error).__name__


def _fail(message: str, code: int) -> None:
    click.echo(f"ppl-vae: error: {message}", err=True)
    sys.exit(code)
