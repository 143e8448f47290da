"""The order of packed sequences: a pure function of seed, step, rank and position.

No cursor needs saving: a resumed run asks for step 41 and gets the same step 41. Samples are dealt rank-major, so a
batch split over fewer ranks is the same batch in the same order.

It shuffles by sorting a mixed counter, not by numpy's generators, whose streams may change between versions.
"""

import numpy as np

from headrace.training.recipe import Recipe


class SampleOrder:
    """A range that is shuffled again for each epoch; every sequence occurs once in an epoch."""

    def __init__(self, *, seed: int, num_sequences: int, batch: int, world_size: int, micro_batch: int) -> None:
        assert num_sequences > 0
        assert batch % (world_size * micro_batch) == 0
        self._seed = seed
        self._num_sequences = num_sequences
        self._batch = batch
        self._world_size = world_size
        self._micro_batch = micro_batch
        self._epochs: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, recipe: Recipe, *, num_sequences: int, world_size: int) -> "SampleOrder":
        return cls(
            seed=recipe.seed,
            num_sequences=num_sequences,
            batch=recipe.batch,
            world_size=world_size,
            micro_batch=recipe.micro_batch,
        )

    def batch(self, step: int) -> np.ndarray:
        """Sequence numbers of optimizer step `step` (0, 1, …) over all ranks."""
        positions = np.arange(step * self._batch, (step + 1) * self._batch)
        epochs, offsets = np.divmod(positions, self._num_sequences)
        return np.array([self._epoch(int(e))[o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64)

    def micro_batches(self, step: int, rank: int) -> list[np.ndarray]:
        """The passes of one rank, in order."""
        mine = self.batch(step).reshape(self._world_size, -1)[rank]
        return list(mine.reshape(-1, self._micro_batch))

    def draws(self, step: int, rank: int) -> list[np.ndarray]:
        """Of each sequence of `micro_batches`, its number among all that the training takes."""
        mine = np.arange(step * self._batch, (step + 1) * self._batch).reshape(self._world_size, -1)[rank]
        return list(mine.reshape(-1, self._micro_batch))

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            # A batch spans at most a few epochs; older ones are never needed again.
            self._epochs = {number: order for number, order in self._epochs.items() if number >= epoch - 1}
            self._epochs[epoch] = shuffled(self._num_sequences, self._seed, epoch)
        return self._epochs[epoch]


def shuffled(count: int, seed: int, stream: int) -> np.ndarray:
    """0 … count-1 in an order that depends only on the arguments."""
    start = mixed(mixed(np.array([seed], dtype=np.uint64)) ^ np.uint64(stream))
    keys = mixed(np.arange(count, dtype=np.uint64) + start)
    return np.argsort(keys, kind="stable")


def mixed(counter: np.ndarray) -> np.ndarray:
    """splitmix64's output function: uint64 to uint64, one to one."""
    z = counter + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
