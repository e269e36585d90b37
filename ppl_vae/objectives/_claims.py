"""What an objective says of itself, for its documentation and for the check that it is true."""

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True)
class Claims:
    """The claims that :func:`ppl_vae.testing.check_objective` tests and the documentation prints.

    The defaults are those of a plain lower bound that is differentiated through the draws.

    Attributes:
        name: As on the command line, with its arguments.
        formula: What is reported.
        direction: Of the reported value's expectation, against log p(x).
        gradient: What the gradients of theta (the model) and phi (the guide) estimate.
        bias: Of value and gradients.
        cost: Decoder evaluations per datum and update.
        use: When to use it.
        reference: Author, year, title.
        unbiased: Which of ``theta`` and ``phi`` have an unbiased gradient of the expectation of
            the reported value.
        unbiased_at_one: The same with one particle, where that differs.
        exact_at_posterior: With the posterior as the guide, every draw reports log p(x) itself.
        zero_at_posterior: With the posterior as the guide, every draw gives phi a gradient of 0.
        grows: The expectation grows (or stays) with the number of particles.
        per_datum: A datum's value does not depend on the other data of its batch.
    """

    name: str = ""
    formula: str = ""
    direction: Literal["lower", "upper", "neither"] = "lower"
    gradient: str = ""
    bias: str = ""
    cost: str = "K"
    use: str = ""
    reference: str = ""
    unbiased: frozenset[Literal["theta", "phi"]] = frozenset({"theta", "phi"})
    unbiased_at_one: frozenset[Literal["theta", "phi"]] | None = None
    exact_at_posterior: bool = True
    zero_at_posterior: bool = False
    grows: bool = True
    per_datum: bool = True

    def unbiased_with(self, num_particles: int) -> frozenset[Literal["theta", "phi"]]:
        """Which gradients are unbiased with so many particles."""
        if num_particles == 1 and self.unbiased_at_one is not None:
            return self.unbiased_at_one
        return self.unbiased
