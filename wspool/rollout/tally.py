"""The tally: scores of a batch, over all attempts at its tasks, those of earlier runs included.

An attempt without an answer (cut off, filtered, refused, nothing said) has the score 0. One that failed has
none: it says something of the way there, and is to be run again.
"""

from math import comb

__all__ = ["Tally"]


class Tally:
    """Counts scores by task."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0
        self._attempts: dict[str, tuple[int, int]] = {}

    def add(self, id: str, score: float, *, right: bool) -> None:
        """Count the *score* of an attempt at the task *id*."""
        self._sum += score
        self._count += 1
        attempts, rights = self._attempts.get(id, (0, 0))
        self._attempts[id] = (attempts + 1, rights + right)

    @property
    def mean(self) -> float | None:
        """The mean score of all attempts; None if there is none."""
        return self._sum / self._count if self._count else None

    def pass_at(self) -> dict[str, float]:
        """The share of tasks of which one of k attempts is right, by k: 1, 2, 4 and so on, and all of them.

        Estimated without bias from all attempts of each task. Source: Chen et al., "Evaluating Large Language
        Models Trained on Code" (2021), section 2.1. Tasks with fewer attempts than k are not counted for it.
        """
        most = max((attempts for attempts, _ in self._attempts.values()), default=0)
        ks = sorted({most} | {2**power for power in range(most.bit_length()) if 2**power <= most})
        return {str(k): self._pass_at(k) for k in ks if k}

    def _pass_at(self, k: int) -> float:
        shares = [
            1 - comb(attempts - rights, k) / comb(attempts, k)
            for attempts, rights in self._attempts.values()
            if attempts >= k
        ]
        return sum(shares) / len(shares)
