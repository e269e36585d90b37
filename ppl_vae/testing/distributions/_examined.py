"""The rungs about densities and draws, of all laws that a subject has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

from ppl_vae.randomness import derive_seed
from ppl_vae.testing._comparison import Answer, Discrepancy
from ppl_vae.testing._draws import same_draws
from ppl_vae.testing.distributions._agreement import Examination, examination
from ppl_vae.testing.distributions._law import Law, law_of, laws_of_features
from ppl_vae.testing.distributions._subject import Subject

_ROWS, _FEATURES = 2, 5


@final
@dataclass(frozen=True)
class Examined:
    """The first rows' distributions, whole where that can be done, and those of single features.

    Attributes:
        subject: In double precision.
        seed: Of all draws.
    """

    subject: Subject
    seed: int

    @cached_property
    def examinations(self) -> list[Examination]:
        """One for each law that there is a way to look at."""
        found: list[Examination] = []
        likelihood = self.subject.part == "likelihood"
        for number in range(min(_ROWS, self.subject.num_rows)):
            # Of a likelihood, one row says how features hang together.
            many = likelihood and number > 0
            whole = None if many else self._look(law_of(self.subject, number), number, 0)
            found += [whole] if whole else []
            if likelihood or whole is None:
                found += self._by_features(number)
        return found

    def _by_features(self, number: int) -> list[Examination]:
        with same_draws(derive_seed(self.seed, number)):
            last = law_of(self.subject, number).draw(1).shape[-1] - 1
            places = {round(i * last / (_FEATURES - 1)) for i in range(_FEATURES)}
            laws = laws_of_features(self.subject, number, sorted(places))
        found = [self._look(law, number, 1 + i) for i, law in enumerate(laws)]
        return [examined for examined in found if examined]

    def _look(self, law: Law, number: int, which: int) -> Examination | None:
        return examination(law, derive_seed(self.seed, number, which))

    def normalised(self) -> Answer:
        """Every density's integral, or sum, is 1."""
        return self._all(lambda examined: examined.normalised())

    def followed(self) -> Answer:
        """All draws have their density."""
        return self._all(lambda examined: examined.followed())

    def _all(self, question: Callable[[Examination], Answer]) -> Answer:
        answers = [question(examined) for examined in self.examinations]
        made: list[Discrepancy] = [c for a in answers if not isinstance(a, str) for c in a]
        return made or "not looked"
