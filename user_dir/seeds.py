"""One recipe from numbers to the seed of a random generator."""

import numpy as np


def seed_of(*numbers: int) -> int:
    """A seed in [0, 2**63) for torch's generators, well mixed and always the same.

    Args:
        numbers: what the draws depend on, each >= 0: a run's seed, a sentence's index.

    """
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
