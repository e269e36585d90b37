"""A Pyro model and guide, and all results of running them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Shaped
from torch import Tensor

from ppl_vae.names import describe, require_least
from ppl_vae.particles._modules import (
    ParameterRecorder,
    ProgramModules,
    Search,
    SeenModules,
    roots_of,
)
from ppl_vae.particles._particles import Particles, Simulation, add_evaluations
from ppl_vae.particles._run import PlateNestingError, Program, SiteRun, guide_of, run, used_nesting
from ppl_vae.particles._sites import assemble, changed_density, log_densities
from ppl_vae.randomness import seeded

Graph = Literal["path", "split", "score"]
"""Dependence of densities on draws in the autograd graph.

``path``: the draws are functions of the guide's parameters, and the densities of the draws.
``split``: the densities are taken at leaf copies of the draws, so that a parameter's direct effect
on a density, and its effect through the draws (``Particles.paths``), can be told apart, whichever
parameters the programs share. ``score``: the draws are constants.
"""


@final
@dataclass(frozen=True)
class Programs:
    """Pyro model and guide, which training and every estimate run.

    However they are written, the modules behind them are found: a module or a method of one, a
    function that refers to modules or calls ``pyro.module``, ``functools.partial``, and programs
    inside Pyro's handlers, as ``poutine.scale(vae.model, scale=0.1)``.

    Attributes:
        model: Pyro model with its data plate at dim -1.
        guide: Pyro guide over the same latents; None where it plays no part.
        max_plate_nesting: Plate dimensions that the programs use, the data plate included; those
            left of the data plate are summed. :meth:`on` finds it.
    """

    model: Program
    guide: Program | None = None
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        for name, program in (("model", self.model), ("guide", self.guide)):
            if not callable(program) and not (name == "guide" and program is None):
                raise ValueError(
                    f"the {name} is a Pyro program, called with the data, got {describe(program)}."
                )

    @property
    def callables(self) -> tuple[Program, ...]:
        """Model and guide, or the model alone."""
        return (self.model,) if self.guide is None else (self.model, self.guide)

    def modules(self, x: Tensor | None = None) -> "ProgramModules":
        """The modules behind the programs, as far as they can be seen.

        Args:
            x: Some data. The programs run on them once, in evaluation mode, so that modules are
                seen too that no reference leads to, and parameters that are made on first use.
        """
        search = Search()
        for name, program in zip(("model", "guide"), self.callables, strict=False):
            search.visit(program, name)
        referred = ProgramModules(tuple(search.modules.values()), constants=search.constants)
        if x is None:
            return referred
        recorder, seen = ParameterRecorder(), SeenModules()
        # The look leaves random streams, modes, buffers and graphs as they are.
        with seeded(0), torch.no_grad(), referred.evaluating(), seen.recording(), recorder:
            guide = None if self.guide is None else guide_of(self.guide, slice(0, len(x)))
            nesting = used_nesting(self.model, guide, x)
        roots = roots_of([*referred.roots, *seen.modules.values()])
        return ProgramModules(roots, recorder.parameters, referred.constants, nesting)

    def on(self, x: Tensor) -> "Programs":
        """The programs with the plate dimensions that they use on some data."""
        used = self.modules(x).max_plate_nesting
        return replace(self, max_plate_nesting=max(self.max_plate_nesting, used))

    def with_guide(self, guide: Program | None) -> "Programs":
        """The model with another guide."""
        return replace(self, guide=guide)

    def rows(self, index: slice | Tensor) -> "Programs":
        """The programs for the data ``x[index]`` alone."""
        return self if self.guide is None else self.with_guide(guide_of(self.guide, index))

    @property
    def required_guide(self) -> Program:
        """The guide, where there must be one.

        Raises:
            ValueError: If there is none.
        """
        if self.guide is None:
            raise ValueError("guide=None: this draws from the guide; give one.")
        return self.guide

    @property
    def num_dims(self) -> int:
        """Number of dimensions of a site's log-density, one for the particles and one a plate."""
        return self.max_plate_nesting + 1

    def run_model(
        self,
        x: Tensor,
        num_particles: int,
        latents: Mapping[str, Tensor] | None = None,
        subsamples: Mapping[str, Tensor] | None = None,
        *,
        simulated: bool = False,
    ) -> SiteRun:
        """Run the model once; ``simulated`` draws the observed sites too."""
        plates = num_particles, self.max_plate_nesting
        return run(self.model, x, *plates, latents, subsamples, simulated=simulated)

    def run_guide(
        self,
        x: Tensor,
        num_particles: int,
        latents: Mapping[str, Tensor] | None = None,
        subsamples: Mapping[str, Tensor] | None = None,
        *,
        detach: bool = False,
    ) -> SiteRun:
        """Run the guide once; ``detach`` cuts each draw off the parameters.

        Raises:
            ValueError: If there is no guide.
        """
        plates = num_particles, self.max_plate_nesting
        return run(self.required_guide, x, *plates, latents, subsamples, detach=detach)

    def draw(
        self,
        x: Shaped[Tensor, "batch *event"],
        num_particles: int = 1,
        *,
        graph: Graph = "path",
        check_finite: bool = True,
    ) -> Particles:
        """Run the guide, then the model on its draws, once, for all particles together.

        Args:
            x: A batch, handed to both.
            num_particles: Number of particles K.
            graph: How gradients flow through the draws; the values are the same.
            check_finite: Raise on a non-finite log-density. It waits for the device, so a step that
                is captured or runs ahead on a GPU turns it off.

        Returns:
            Per-site log-densities of shape (particles, batch), unscaled.

        Raises:
            ValueError: If a site stands outside the data plate or is to be enumerated, the guide
                misses a latent or has one too many, scales differ between sites, a log-density is
                not finite, or a guide to be split gives other densities when run again. Names the
                site.
        """
        require_least(1, num_particles=num_particles)
        drawn = self.run_guide(x, num_particles, detach=graph == "score")
        latents, paths = drawn.latents, None
        if graph == "split":
            paths, latents = latents, {name: _leaf(value) for name, value in latents.items()}
            if len(latents) == 1:
                # A lone site's distribution depends on no latent: its density needs no second run.
                drawn = drawn.at(latents)
            else:
                first = drawn
                drawn = self.run_guide(x, num_particles, latents, first.subsamples)
                # The densities at leaves must be those of the distributions of the draws.
                changed = changed_density(first, drawn, self.num_dims) if check_finite else None
                if changed is not None:
                    raise ValueError(
                        f"guide site {changed[0]!r} has another density when the guide is run again"
                        " on its own draws: randomness besides its sample sites, such as dropout, "
                        "cannot be split by this objective; switch it off in the guide, or use "
                        "ELBO(K) or IWAE(K)."
                    )
        modelled = self.run_model(x, num_particles, latents, drawn.subsamples)
        particles = assemble(modelled, drawn, self.num_dims, paths)
        add_evaluations(particles.num_particles * particles.batch_size)
        if check_finite:
            particles.require_finite()
        return particles

    def evaluate(
        self, x: Shaped[Tensor, "batch *event"], latents: Mapping[str, Tensor]
    ) -> Particles:
        """Evaluate all densities at given latents, wherever they were drawn.

        Outside the guide's support its log-density is -inf.

        Args:
            x: A batch.
            latents: Site name to values, shape ``(particles, batch, *event)``.

        Raises:
            ValueError: As :meth:`draw`.
        """
        count = len(next(iter(latents.values())))
        guided = self.run_guide(x, count, latents)
        modelled = self.run_model(x, count, latents, guided.subsamples)
        add_evaluations(count * len(x))
        return assemble(modelled, guided, self.num_dims, anywhere=True)

    def simulate(self, x: Shaped[Tensor, "batch *event"], num_particles: int = 1) -> Simulation:
        """Draw (z, x) ~ p from the model, and take log q(z|x) under the guide if there is one.

        Args:
            x: A batch; the model sees it for its shape only.
            num_particles: Draws for each row of x.

        Raises:
            ValueError: If the guide is to see simulated data, and the model does not observe
                exactly one site of the shape of x, or subsamples.
        """
        # Where the latents alone are wanted, they carry the gradient of a learned prior.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.guide is None):
            drawn = self.run_model(x, num_particles, simulated=True)
        add_evaluations(num_particles * len(x))
        if self.guide is None:
            return Simulation(drawn.latents, untrained=drawn.untrained)
        nesting, observed = self.max_plate_nesting, drawn.observed
        shapes = {name: tuple(value.shape[nesting:]) for name, value in observed.items()}
        size = num_particles * x.numel()
        alone = list(shapes.values()) == [tuple(x.shape)]
        if not alone or any(v.numel() != size for v in observed.values()) or drawn.subsamples:
            raise ValueError(
                "the guide can see simulated data only if the model observes one site of the shape "
                f"of x, {tuple(x.shape)}, without subsampling; it observes {shapes}."
            )
        (fantasies,) = observed.values()
        rows = fantasies.reshape(-1, *x.shape[1:])
        # (particles, *plates, batch, *event) as (1, *plates, particles * batch, *event).
        latents = {
            name: z.movedim(0, nesting - 1).flatten(nesting - 1, nesting).unsqueeze(0)
            for name, z in drawn.latents.items()
        }
        densities = log_densities(self.run_guide(rows, 1, latents), self.num_dims).values()
        log_guide = sum(densities, torch.zeros(())).reshape(num_particles, len(x))
        return Simulation(drawn.latents, log_guide)

    @torch.no_grad()
    def predict(
        self,
        x: Shaped[Tensor, "batch *event"],
        num_particles: int = 1,
        latents: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw (z, x) ~ p, or x ~ p(x|z) at given latents.

        Args:
            x: A batch; the model sees it for its shape only.
            num_particles: Draws for each row of x.
            latents: Site name to draws, as in :class:`~ppl_vae.particles.Particles`; from the prior
                if None.

        Returns:
            Latents, and draws of the observed sites, by site name; shape ``(particles, *plates,
            batch, *event)``.
        """
        drawn = self.run_model(x, num_particles, latents, simulated=True)
        return drawn.latents, drawn.observed

    def simulate_data(
        self, x: Shaped[Tensor, "batch *event"]
    ) -> tuple[dict[str, Tensor], Shaped[Tensor, "batch *event"]]:
        """Draw (z, x) ~ p, one pair for each row of x, which is seen for its shape only.

        Returns:
            Site name to latents, shape ``(1, *plates, batch, *event)``, and the data.

        Raises:
            ValueError: If the model does not observe exactly one site of the shape of x.
        """
        latents, observed = self.predict(x)
        shapes = {name: tuple(value.shape) for name, value in observed.items()}
        nesting = self.max_plate_nesting
        if len(shapes) != 1 or next(iter(shapes.values()))[nesting:] != tuple(x.shape):
            raise ValueError(
                f"data can be simulated only if the model observes one site of the shape of x, "
                f"{tuple(x.shape)}; it observes {shapes} (after a dimension of one draw)."
            )
        (fantasies,) = observed.values()
        return latents, fantasies.reshape(x.shape)

    @torch.no_grad()
    def accepts_missing(self, x: Shaped[Tensor, "batch *event"]) -> bool:
        """Whether NaN in x is a missing cell to every likelihood of the model.

        A distribution says so by an attribute ``accepts_missing``, as
        :class:`~ppl_vae.likelihoods.Observed` does. The model draws from x once.
        """
        drawn = self.run_model(x, 1, simulated=True)
        observed = [drawn.sites[name]["fn"] for name in drawn.observed]
        return all(getattr(likelihood, "accepts_missing", False) for likelihood in observed)


def draw_particles(
    model: Program,
    guide: Program,
    x: Shaped[Tensor, "batch *event"],
    num_particles: int = 1,
    *,
    graph: Graph = "path",
    check_finite: bool = True,
) -> Particles:
    """The particles of a model and a guide: the short form of :meth:`Programs.draw`.

    Args:
        model: A Pyro program; its latent and observed sites stand in a data plate at dim -1.
        guide: A Pyro program over the same latent sites.
        x: A batch, shape ``(batch, *event)``.
        num_particles: Number of particles K.
        graph: How gradients flow through the draws.
        check_finite: Raise on a non-finite log-density.
    """
    programs = Programs(model, guide)
    # Most programs have the data plate alone: to find out in advance would cost a run of both.
    try:
        return programs.draw(x, num_particles, graph=graph, check_finite=check_finite)
    except PlateNestingError as error:
        programs = replace(programs, max_plate_nesting=error.used)
    return programs.draw(x, num_particles, graph=graph, check_finite=check_finite)


def _leaf(value: Tensor) -> Tensor:
    leaf = value.detach()
    return leaf.requires_grad_() if torch.is_grad_enabled() and leaf.is_floating_point() else leaf
