"""What is done without a test that holds at any number of looks: one that is meant for a single look, at every look."""

from scipy.special import ndtr

from benchmarks.gates.looks import ALPHA, End


def naive_z(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
    """Two shares compared by a pooled z-test, as if this were the only look."""
    pooled = (bad_candidate + bad_stable) / (num_candidate + num_stable)
    spread = (pooled * (1 - pooled) * (1 / num_candidate + 1 / num_stable)) ** 0.5
    score = (bad_candidate / num_candidate - bad_stable / num_stable) / spread if spread else 0.0
    if 1 - ndtr(score) < ALPHA:
        return "harmful"
    return "not_inferior" if is_last else "undecided"


def mann_whitney(bad_candidate: int, num_candidate: int, bad_stable: int, num_stable: int, is_last: bool) -> End:
    """Mann-Whitney's U over 0/1 rows, normal approximation with ties and continuity, as canary judges use it.

    In closed form of the counts; `tests/rollout/test_sequential.py` holds it against `scipy.stats.mannwhitneyu`.
    """
    good_candidate, good_stable = num_candidate - bad_candidate, num_stable - bad_stable
    statistic = bad_candidate * good_stable + 0.5 * (bad_candidate * bad_stable + good_candidate * good_stable)
    num, bad = num_candidate + num_stable, bad_candidate + bad_stable
    ties = ((bad**3 - bad) + ((num - bad) ** 3 - (num - bad))) / (num * (num - 1))
    spread = (num_candidate * num_stable / 12 * (num + 1 - ties)) ** 0.5
    score = (statistic - num_candidate * num_stable / 2 - 0.5) / spread if spread else 0.0
    # A canary judge's "98%" confidence, one-sided.
    if 1 - ndtr(score) < 0.02:
        return "harmful"
    return "not_inferior" if is_last else "undecided"
