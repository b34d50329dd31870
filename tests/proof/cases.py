"""All cases by name, and samples: a few of each mutation of each kind of turn, in scenes drawn at random."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator

import attrs

from .scripts import KINDS, Variant
from .stage import ORDERS, Scene
from .tampering import Mutation

#: How many messages come in one read; 0: a whole turn.
PACES = (0, 1, 2)


@attrs.frozen
class Case:
    """One scene and what goes wrong in it."""

    scene: Scene
    mutation: Mutation

    def __str__(self) -> str:
        return f"{self.scene}/{self.mutation}"


def scenes() -> Iterator[Scene]:
    """Every scene."""
    two = (True, False)
    variants = [Variant(*flags) for flags in itertools.product(two, repeat=4)]
    for kind, variant, order, queued, at_once, reads in itertools.product(
        KINDS, variants, ORDERS, two, PACES, two
    ):
        yield Scene(order, queued, at_once, reads, kind, variant)


def find(name: str) -> Case:
    """Return the case with that name."""
    for scene in scenes():
        if name.startswith(f"{scene}/"):
            for mutation in scene.mutations():
                if name == f"{scene}/{mutation}":
                    return Case(scene, mutation)
    raise ValueError(f"there is no case {name!r}")


def strata(kinds: tuple[str, ...] = KINDS) -> dict[tuple[str, str], list[tuple[Variant, Mutation]]]:
    """Every mutation of every turn, by kind of mutation and kind of turn."""
    found: dict[tuple[str, str], list[tuple[Variant, Mutation]]] = defaultdict(list)
    for kind in kinds:
        for flags in itertools.product((True, False), repeat=3):
            variant = Variant(*flags)
            scene = Scene("X", False, 0, False, kind, variant)
            for mutation in scene.mutations():
                found[mutation.kind, kind].append((variant, mutation))
    return found


def sampled(each: int, seed: int, only: str = "") -> Iterator[Case]:
    """At most *each* cases of each mutation and kind of turn, in scenes drawn at random."""
    for (family, kind), found in sorted(strata().items(), key=lambda entry: entry[0]):
        chance = random.Random(f"{seed}/{family}/{kind}")
        for variant, mutation in chance.sample(found, min(each, len(found))):
            case = Case(_drawn(chance, kind, variant), mutation)
            if only in str(case):
                yield case


def all_cases(seed: int, limit: int, only: str = "") -> Iterator[Case]:
    """All cases, in a random order that the seed fixes, at most *limit*."""
    chance = random.Random(seed)
    everything = [
        (kind, *one) for (_, kind), found in sorted(strata().items(), key=lambda e: e[0]) for one in found
    ]
    two = (True, False)
    settings = list(itertools.product(ORDERS, two, PACES, two, two))
    total, chosen = len(everything) * len(settings), 0
    for number in chance.sample(range(total), total):
        kind, variant, mutation = everything[number // len(settings)]
        order, queued, at_once, reads, restart = settings[number % len(settings)]
        variant = attrs.evolve(variant, restart=restart)
        case = Case(Scene(order, queued, at_once, reads, kind, variant), mutation)
        if only in str(case):
            chosen += 1
            yield case
            if chosen >= limit:
                return


def _drawn(chance: random.Random, kind: str, variant: Variant) -> Scene:
    two = (True, False)
    variant = attrs.evolve(variant, restart=chance.choice(two))
    order, at_once = chance.choice(list(ORDERS)), chance.choice(PACES)
    return Scene(order, chance.choice(two), at_once, chance.choice(two), kind, variant)
