"""Search guided by a model that predicts scores from architectures (White, Neiswanger, Savani 2021, BANANAS)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from darts.blackbox.strategies import value
from darts.blackbox.strategy import Asking, Pool, Request, Scored, Strategy
from darts.config.registry import register
from darts.runtime.errors import require
from darts.spaces.genotype import Genotype
from darts.spaces.variation import canonical, one_hot, ordered, path_code

if TYPE_CHECKING:
    import numpy


class Encoding(Enum):
    """How an architecture becomes numbers."""

    PATHS = "paths"  # every way from an input to the output as the operations along it
    ONE_HOT = "one_hot"  # the operation of each edge


@register("strategy", "predictor")
@dataclass
class Predictor(Strategy):
    """Ask for what an ensemble of trees thinks best: one draw of a tree for each candidate (Thompson sampling).

    After `start` random genotypes, again and again: fit the trees to all scores, make `candidates` genotypes, half of
    them mutations of the best, half random, and ask for the `batch` of them that their drawn trees like best (their
    algorithm 1, with trees in place of neural networks).
    """

    encoding: Encoding  # how an architecture becomes numbers
    start: int  # random genotypes before the first model
    batch: int  # genotypes evaluated between two models
    candidates: int  # genotypes that a model judges
    parents: int  # how many of the best are mutated
    trees: int  # of the forest

    def __post_init__(self) -> None:
        for name in ("start", "batch", "parents", "trees"):
            require(getattr(self, name) >= 1, f"method.{name}", getattr(self, name), "at least 1")
        allowed = f"at least method.batch ({self.batch})"
        require(self.candidates >= self.batch, "method.candidates", self.candidates, allowed)

    def ask(self, pool: Pool, generator: random.Random) -> Asking:
        known: dict[str, Scored] = {}
        while True:
            fresh = self._random(pool, generator, known) if len(known) < self.start else None
            asked = [fresh] if fresh else self._best(pool, generator, known)
            if not asked:  # the space is searched
                return
            for genotype in asked:
                known[ordered(genotype).digest()] = (yield Request(genotype)), genotype

    def _random(self, pool: Pool, generator: random.Random, known: dict[str, Scored]) -> Genotype | None:
        """A draw that is not known yet; None where a thousand were."""
        for _ in range(1000):
            genotype = pool.draw(generator)
            if ordered(genotype).digest() not in known:
                return genotype
        return None

    def _best(self, pool: Pool, generator: random.Random, known: dict[str, Scored]) -> list[Genotype]:
        """The next batch: unknown candidates in the order of one drawn tree each; none where all are known."""
        parents = [genotype for _, genotype in sorted(known.values(), key=value, reverse=True)[: self.parents]]
        made: dict[str, Genotype] = {}
        for number in range(4 * self.candidates):
            parent = generator.choice(parents)
            other = pool.mutation(parent, generator) if number % 2 else pool.draw(generator)
            if ordered(other).digest() not in known:
                made[canonical(other)] = other
            if len(made) == self.candidates:
                break
        if not made:
            fresh = self._random(pool, generator, known)
            return [fresh] if fresh else []
        names = list(made)
        predicted = self._predicted(list(known.values()), [made[name] for name in names], generator)
        drawn = [predicted[generator.randrange(self.trees)][place] for place in range(len(names))]
        order = sorted(range(len(names)), key=lambda place: -drawn[place])
        return [made[names[place]] for place in order[: self.batch]]

    def _predicted(self, scored: list[Scored], candidates: list[Genotype], generator: random.Random) -> numpy.ndarray:
        """(trees, asked): what each tree thinks."""
        import numpy
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.feature_extraction import DictVectorizer

        encode = path_code if self.encoding is Encoding.PATHS else one_hot
        vectors = DictVectorizer(sparse=False)
        inputs = vectors.fit_transform([encode(genotype) for _, genotype in scored])
        forest = RandomForestRegressor(self.trees, max_features=0.5, random_state=generator.randrange(2**31))
        forest.fit(inputs, numpy.array([score for score, _ in scored]))
        codes = vectors.transform([encode(genotype) for genotype in candidates])
        return numpy.stack([tree.predict(codes) for tree in forest.estimators_])
