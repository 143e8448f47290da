"""A new painter beside the stable one, on the same prompts: every text is the stable set's, and not made again.

A partition is made by a writer, a painter and a speaker, and then again by a set that differs in the painter alone. The
texts and the recordings of both are compared byte for byte; calls of each role's engine are counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.measuring import at_least, at_most, print_table
from benchmarks.modalities.chain import ChainSite, chain_campaign, texts_of
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome
from headrace.rollout.states import PROMOTED, STARTED
from simulation.tiny_pipelines import build_pixel_pipeline

_NUM_ROWS = 24


def run(given: Given, directory: Path) -> Outcome:
    models = given.models(directory / "models")
    site = ChainSite(directory / "store", chain_campaign(models, micro_batch_rows=4))
    site.prepare(models, texts_of(_NUM_ROWS))
    site.make("stable")
    stable = site.made()
    other = replace(models, painter=build_pixel_pipeline(directory / "other", seed=8), size=models.size)
    candidate = site.make_set(other)
    site.roll_out_set(STARTED, candidate, step=0, weight=1.0, cap=None)
    site.roll_out_set(PROMOTED, candidate)
    calls: Counter[str] = Counter()

    def asked(role: str, rows: Sequence[str]) -> None:
        calls[role] += 1

    outcome = site.make("candidate", asked, regenerate="current_set")
    assert outcome.claim.version_set == candidate.id
    made = site.made()
    equal = {
        role: sum(made[name] == stable[name] for name in stable if name.startswith(role))
        for role in ("writer", "painter", "speaker")
    }
    print_table(
        f"{_NUM_ROWS} rows again with another painter",
        ["role", "equal to the stable set's", "calls of its engine"],
        [[role, str(count), str(calls[role])] for role, count in equal.items()],
    )
    return Outcome(
        body={"rows": _NUM_ROWS, "equal": equal, "calls": dict(calls)},
        bars={
            "share_of_texts_equal": at_least(equal["writer"] / _NUM_ROWS, 1.0),
            "share_of_recordings_equal": at_least(equal["speaker"] / _NUM_ROWS, 1.0),
            "pictures_equal": at_most(equal["painter"], 0),
            "calls_of_the_writer": at_most(calls["writer"], 0),
        },
    )
