"""Training steps: their base, one update of all parameters together."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.names import warn
from ppl_vae.objectives import Objective, split_parameters
from ppl_vae.particles import (
    OffsetGuide,
    Program,
    ProgramModules,
    count_evaluations,
    evaluating,
    share_here,
)
from ppl_vae.randomness import random_state, set_random_state
from ppl_vae.training._chunks import Chunks
from ppl_vae.training._compiled import CompiledGradients
from ppl_vae.training._gradients import Differentiated, differentiate, over_chunks
from ppl_vae.training._non_finite import NonFiniteUpdateError, checks_finite
from ppl_vae.training._optimizers import Adam, OptimizerSettings
from ppl_vae.training._precision import Precision
from ppl_vae.training._workers import workers_here

_COMPILED = "compiled/"

Whose = Literal["guide", "model", "both"]
"""Programs whose parameters an update changes; those that both programs use are of each."""


@dataclass(eq=False, repr=False)
class Step(ABC):
    """Update of parameters from one batch, and the optimisers that it needs.

    The loss is the objective's divided by the batch size, so that learning rate and gradient
    clipping mean the same for every batch size. A subclass makes its optimisers and writes one
    update; fields of its own, with defaults, are what ``NAME:ARGUMENT`` sets.

    Args:
        objective: The bound to maximise.
        model: Pyro model.
        guide: Pyro guide.
        parameters: Name to leaf tensor.
        clip_norm: Largest norm of the gradient that one update takes; None: no clipping.
        optimizer: Optimiser, by keyword.
        precision: Precision of matrix products, by keyword.
    """

    couples: ClassVar[str | None] = None
    """What a step decides by that is of all data of a batch, which workers that share it lack."""

    objective: Objective
    model: Program
    guide: Program
    parameters: dict[str, Tensor]
    clip_norm: float | None = None
    # By keyword, so that fields of a subclass keep their place behind the others.
    optimizer: OptimizerSettings = field(default=Adam(), kw_only=True)
    precision: Precision = field(default="single", kw_only=True)

    def __post_init__(self) -> None:
        self._chunks = Chunks(self.objective)
        self._optimizers = self.make_optimizers()
        self._never_updated = set(self.parameters)
        self.taken = self.taken_compiled = 0
        """Number of gradients that were taken, and of those that a compiled graph gave."""
        self.reduced = 0
        """Number of gradients that were added up over workers."""

    @abstractmethod
    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimisers, which have every parameter in one of them."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once; return :func:`batch_sums`."""

    def guide_of(self, x: Float[Tensor, "batch *event"]) -> Program:
        """The guide that gradients are at for these data: unless overridden, as it is."""
        del x
        return self.guide

    def differentiate(
        self, x: Tensor, parameters: Mapping[str, Tensor], guide: Program
    ) -> Differentiated:
        """Draw from a guide, and take the clipped gradient of the loss in these parameters.

        Where workers share the batch, it is the gradient of all their rows. A batch whose graph
        would not fit into memory is taken chunk by chunk.
        """
        return self._of_all(lambda: self._of_rows(x, parameters, guide), parameters)

    def _of_rows(
        self, x: Tensor, parameters: Mapping[str, Tensor], guide: Program
    ) -> Differentiated:
        """The gradient of these rows; clipped, unless they are a worker's share of a batch."""
        programs, precision = self.objective.programs(self.model, guide), self.precision
        chunks = self.chunks(x, guide)
        if len(chunks) == 1:
            return differentiate(
                self.objective, programs, x, parameters, self.clip_norm, precision=precision
            )

        def gradient_of(rows: slice) -> Differentiated:
            some = programs.rows(rows), x[rows], parameters
            return differentiate(self.objective, *some, precision=precision, first=rows.start)

        return over_chunks(chunks, gradient_of, self.clip_norm)

    def chunks(self, x: Tensor, guide: Program | None = None) -> list[slice]:
        """Rows of a batch that are differentiated together; one slice if all are."""
        if share_here() is not None:
            # A share has the draws that its rows have among those of the batch, all at once.
            return [slice(0, len(x))]
        return self._chunks.of(self.model, self.guide if guide is None else guide, x)

    def _of_all(
        self, compute: Callable[[], Differentiated], parameters: Mapping[str, Tensor]
    ) -> Differentiated:
        """The gradient of the batch: what is computed here, and in the workers that share it.

        Every step's gradients pass here, outside of graphs that are recorded.
        """
        workers = workers_here()
        if workers is None:
            return compute()
        self.reduced += 1
        return workers.together(compute, parameters, self.clip_norm)

    def take(self, found: Differentiated, parameters: Mapping[str, Tensor]) -> None:
        """Make what was found the ``.grad`` of these parameters."""
        for parameter, gradient in zip(parameters.values(), found.gradients, strict=True):
            parameter.grad = gradient
        self.taken += 1
        self.taken_compiled += found.compiled
        # Empty after the first update of each parameter, so that later updates look at nothing.
        if not self._never_updated.isdisjoint(parameters):
            self._warn_of_untrained(parameters)

    def _warn_of_untrained(self, parameters: Mapping[str, Tensor]) -> None:
        """Name parameters that nothing trains, once."""
        first = [name for name in parameters if name in self._never_updated]
        untrained = [name for name in first if parameters[name].grad is None]
        self._never_updated.difference_update(first)
        if untrained:
            warn(
                f"{self.objective!r} gives no gradient to {', '.join(untrained)}: they stay as "
                "they are. Take another objective, or freeze them (requires_grad_(False)).",
            )

    def state(self) -> dict[str, Tensor]:
        """State of the optimisers: ``key/parameter-name`` to tensor."""
        kept = {p: values for each in self._optimizers for p, values in each.state.items()}
        state = {
            f"{key}/{name}": value
            for name, parameter in self.parameters.items()
            for key, value in kept.get(parameter, {}).items()
        }
        for key, value in state.items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{self.optimizer!r} keeps {key} = {value!r}, which no checkpoint holds: an "
                    "optimiser's state must be tensors."
                )
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` gave; an empty state is that before the first update."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        kept: dict[str, dict[str, Tensor]] = {}
        for entry, value in state.items():
            # At the first slash: names may contain slashes, keys do not.
            key, _, name = entry.partition("/")
            kept.setdefault(name, {})[key] = value
        for optimizer in self._optimizers:
            own = [names[p] for group in optimizer.param_groups for p in group["params"]]
            # A parameter that no update has reached has no state yet.
            saved = {i: kept[name] for i, name in enumerate(own) if name in kept}
            # Torch's own loader puts each tensor on the device and in the type where it belongs.
            # Its own groups: the learning rate in them is set anew at every update.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": saved, "param_groups": groups})


@dataclass(eq=False, repr=False)
class AdamStep(Step):
    """A step under one optimiser for all parameters, a fused Adam unless another is given.

    Nothing waits for the device.

    A compiled update replays a graph of the objective, its gradient and its records: the same
    numbers up to rounding, from the same draws.

    Attributes:
        compiled: Whether updates are compiled; None: those of a batch size that is to come so often
            that it pays, which what is left of training decides, not a clock.
    """

    compiled: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._of_program: dict[Whose, dict[str, Tensor]] = {}
        programs = self.objective.programs(self.model, self.guide)
        self.replays = CompiledGradients(
            self.objective,
            programs,
            self.parameters,
            self.compiled,
            clip_norm=self.clip_norm,
            precision=self.precision,
            calls=self.calls_per_graph,
        )

    @property
    def calls_per_graph(self) -> float:
        """Gradients of an update, in the mean over the graphs that it is recorded as."""
        return 1.0

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimiser."""
        return [self.optimizer.build(list(self.parameters.values()))]

    def update(
        self, x: Tensor, learning_rate: float, whose: Whose = "both", guide: Program | None = None
    ) -> Differentiated:
        """Update once, on fresh draws.

        Args:
            x: The batch.
            learning_rate: The optimiser's.
            whose: Parameters that are updated; the gradient is clipped by the norm of these.
            guide: The guide to draw from, in place of the step's.

        Returns:
            Sums and bounds before the update, and the gradient that it took.
        """
        if whose != "both" and not self._of_program:
            self._of_program = self._split(x)
        parameters = self.parameters if whose == "both" else self._of_program[whose]
        (optimizer,) = self._optimizers
        optimizer.param_groups[0]["lr"] = learning_rate
        # Optimisers pass over a parameter without a gradient, its moments included.
        for parameter in self.parameters.values():
            parameter.grad = None
        found = self._of_all(lambda: self._found(x, parameters, guide), parameters)
        self.take(found, parameters)
        optimizer.step()
        return found

    def _found(
        self, x: Tensor, parameters: Mapping[str, Tensor], guide: Program | None
    ) -> Differentiated:
        # A graph takes the offsets of a refined guide as inputs; any other is another program.
        refined = guide if isinstance(guide, OffsetGuide) and guide.guide == self.guide else None
        if guide is not None and refined is None:
            return self._of_rows(x, parameters, guide)
        guide = self.guide if guide is None else guide
        before = random_state(x.device) if checks_finite() else None
        found = self.replays(x, parameters, self.chunks(x, guide), refined)
        if found is None:
            return self._of_rows(x, parameters, guide)
        if before is None or found.finite:
            return found
        # A graph cannot say where a number came from: the same draws again, under the checks.
        set_random_state(before, x.device)
        self._of_rows(x, parameters, guide)
        raise NonFiniteUpdateError(
            "the compiled update is not finite, and the one that is not compiled is: take "
            "step='torch', or lower the learning rate."
        )

    def state(self) -> dict[str, Tensor]:
        """State of the optimiser, and which batch sizes are compiled."""
        decided = {
            f"{_COMPILED}{size}": torch.tensor(float(made))
            for size, made in self.replays.decided.items()
        }
        return {**super().state(), **decided}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the optimiser; a run that goes on compiles what it compiled."""
        super().load_state(state)
        self.replays.decided = {
            int(name.removeprefix(_COMPILED)): bool(value)
            for name, value in state.items()
            if name.startswith(_COMPILED)
        }

    def _split(self, x: Tensor) -> dict[Whose, dict[str, Tensor]]:
        """Parameters of the model and of the guide, as the autograd graph has them."""
        # Looking at the graph is no part of training: a resumed run looks again.
        with evaluating(self.model, self.guide), count_evaluations():
            programs = self.objective.programs(self.model, self.guide)
            theta, phi = split_parameters(programs, x[:2], self.parameters)
        for whose, part in (("model", theta), ("guide", phi)):
            if not part:
                raise ValueError(
                    f"the {whose} has no parameters to train, so that there is nothing to "
                    "alternate between: use step='torch'."
                )
        # Those of neither program count as the model's, so that the warning names them.
        idle = {n: p for n, p in self.parameters.items() if n not in theta and n not in phi}
        return {"guide": phi, "model": theta | idle}


@dataclass(eq=False, repr=False)
class JointStep(AdamStep):
    """One update of model and guide together; subclasses say whether it is compiled."""

    def __call__(self, x: Float[Tensor, "batch *event"], learning_rate: float) -> Tensor:
        """Update once."""
        return self.update(x, learning_rate).sums


@final
@dataclass(eq=False, repr=False)
class AutoStep(JointStep):
    """One optimiser for model and guide together, compiled where it pays."""

    compiled: bool | None = field(default=None, init=False)


@final
@dataclass(eq=False, repr=False)
class CompiledStep(JointStep):
    """The same, compiled; programs that cannot be are refused with the reason."""

    compiled: bool | None = field(default=True, init=False)


@final
@dataclass(eq=False, repr=False)
class TorchStep(JointStep):
    """The same, never compiled."""

    compiled: bool | None = field(default=False, init=False)


def find_parameters(modules: ProgramModules) -> dict[str, Tensor]:
    """Name to leaf tensor, each once, of everything trainable behind the programs.

    Args:
        modules: Modules of programs that have run, so that parameters made on first use exist.

    Raises:
        ValueError: If there is nothing to train.
    """
    trainable = {name: value for name, value in modules.parameters.items() if value.requires_grad}
    if not trainable:
        raise ValueError(
            "the model and guide have no parameters to train: make them (methods of) torch "
            "modules, or use pyro.param or pyro.module inside."
        )
    return trainable
