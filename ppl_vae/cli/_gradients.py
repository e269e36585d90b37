"""``ppl-vae gradients``."""

from pathlib import Path
from typing import Any

import click

import ppl_vae as pv
from ppl_vae.cli._config import ObjectiveName
from ppl_vae.cli._options import place, trust
from ppl_vae.cli._output import require_writable, show
from ppl_vae.cli._setting import default_of, setting

BUILT_IN_PARTICLES, RUN_PARTICLES = "1,4,16,64,256", "1,4,16,64"
RUN_LIMIT = 20


def _replicates() -> str:
    built_in = default_of("diagnostics.linear_gaussian_bench", "replicates")
    return f"{built_in}; of a run {default_of('diagnostics.gradient_statistics', 'replicates')}"


@click.command("gradients")
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
    type=ObjectiveName(),
    multiple=True,
    default=("iwae", "iwae-stl", "dreg"),
    show_default=True,
    metavar="NAME",
    help="An objective to measure (repeat), at every K of --particles, or with its own K "
    "(iwae:5); ppl-vae objectives lists them.",
)
@setting(
    "--particles",
    otherwise=f"{BUILT_IN_PARTICLES}; of a run {RUN_PARTICLES}",
    metavar="K,K,...",
    help="Numbers of particles.",
)
@setting(
    "--replicates",
    otherwise=_replicates,
    type=click.IntRange(min=2),
    metavar="R",
    help="Number of independent gradients that each is estimated from.",
)
@setting(
    "--limit",
    otherwise=str(RUN_LIMIT),
    type=click.IntRange(min=1),
    metavar="N",
    help="Test data of a run in the batch, a fixed random subset.",
)
@setting("--seed", of="diagnostics.gradient_statistics", type=int, help="Seed of the draws.")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("gradients"),
    show_default=True,
    metavar="FOLDER",
    help="Folder of the table, the numbers and the picture.",
)
@trust
@place
def gradients_command(
    model: str,
    names: tuple[str, ...],
    particles: str | None,
    replicates: int | None,
    limit: int | None,
    seed: int,
    folder: Path,
    data_root: Path | None,
    device: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Measure the gradients of objectives: bias, variance, signal-to-noise ratio against K.

    theta are the parameters of the model, phi those of the guide. IWAE's phi has a ratio that falls
    with the number of particles; DReG's grows.
    """
    built_in = model == "linear-gaussian"
    if particles is None:
        particles = BUILT_IN_PARTICLES if built_in else RUN_PARTICLES
    families = _over_particles(names, particles)
    number: dict[str, Any] = {} if replicates is None else {"replicates": replicates}
    if built_in:
        if limit is not None:
            raise click.BadParameter("belongs to a run, not to linear-gaussian", param_hint="limit")
        require_writable(folder)
        bench = pv.diagnostics.linear_gaussian_bench(families, **number, seed=seed)
    else:
        run = pv.runs.open_run(Path(model), data_root=data_root, device=device, trust=trust)
        require_writable(folder)
        bench = pv.diagnostics.gradient_statistics(
            run.vae.model,
            run.vae.guide,
            run.rows("test", limit or RUN_LIMIT).x.to(run.device),
            families,
            **number,
            seed=seed,
        )
    paths = pv.report.write_gradient_bench(bench, folder, f"gradients of {model}")
    text = f"{bench}\n\nfiles: {', '.join(map(str, paths))}"
    show(text, {**bench.summary(), "files": [str(path) for path in paths]}, as_json)


def _over_particles(names: tuple[str, ...], particles: str) -> dict[str, list[Any]]:
    """Name without K to the objectives: at each K, or at the K that the name brings along."""
    try:
        counts = sorted({int(count) for count in particles.split(",") if count.strip()})
    except ValueError as error:
        raise click.BadParameter("give numbers such as 1,4,16", param_hint="particles") from error
    if not counts or counts[0] < 1:
        raise click.BadParameter(f"K is 1 or more, got {particles}", param_hint="particles")
    return pv.registry.over_particles(names, counts)
