from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from headrace.clock import FixedClock
from headrace.handoff.schemas import REVIEWED_CONTENT, VARIATION
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.evidence import evidence_for, heldout_losses, review_counts, taught_errors
from headrace.rollout.gates import PASS_RATE, TaughtErrors
from headrace.rollout.sequential.samples import Sample
from headrace.store.local import LocalStore
from tests.rollout.builders import make_model, reviewed_row


def make_store(directory: Path) -> HandoffStore:
    return HandoffStore(LocalStore(directory), FixedClock())


def seal(handoffs: HandoffStore, partition: str, version_set: str, *, num_rows: int, num_kept: int) -> None:
    rows = [
        {**reviewed_row(position, version_set, kept=position < num_kept), "row_id": f"{partition}-{position}"}
        for position in range(num_rows)
    ]
    table = pa.Table.from_pylist(rows, schema=REVIEWED_CONTENT)
    handoffs.publish("reviewed_content", partition, table, code_version="1", run_id="r")


def test_rows_are_counted_by_version_set_over_the_campaigns_partitions(tmp_path: Path) -> None:
    handoffs = make_store(tmp_path)
    seal(handoffs, "2026-11-01|glossary-00", "a", num_rows=14, num_kept=14)
    seal(handoffs, "2026-11-01|glossary-01", "a", num_rows=14, num_kept=10)
    seal(handoffs, "2026-11-02|glossary-00", "b", num_rows=14, num_kept=3)
    seal(handoffs, "2026-11-02|gloss-00", "b", num_rows=14, num_kept=14)
    seal(handoffs, "2026-11-02|glossary-extra-00", "b", num_rows=14, num_kept=14)
    assert review_counts(handoffs, "glossary", num_days=28) == {
        "a": Sample.of_counts(28, 24),
        "b": Sample.of_counts(14, 3),
    }


def test_a_prompts_variations_count_as_one_row(tmp_path: Path) -> None:
    handoffs = make_store(tmp_path)
    verdicts = {"p": [True, True, False, False], "q": [True] * 4, "r": [False] * 4}
    rows = [
        reviewed_row(0, "a", kept=kept)
        | {"row_id": f"{prompt}-{variation}", "prompt_id": prompt, "variation": variation}
        for prompt, found in verdicts.items()
        for variation, kept in enumerate(found)
    ]
    table = pa.Table.from_pylist(rows, schema=REVIEWED_CONTENT.append(VARIATION))
    handoffs.publish("reviewed_content", "2026-11-01|glossary-00", table, code_version="1", run_id="r")
    seal(handoffs, "2026-11-01|glossary-01", "a", num_rows=2, num_kept=1)
    assert review_counts(handoffs, "glossary", num_days=28) == {
        "a": Sample.of_values([0.5, 1, 0]) + Sample.of_counts(2, 1)
    }


def test_only_the_newest_version_of_a_partition_counts(tmp_path: Path) -> None:
    handoffs = make_store(tmp_path)
    seal(handoffs, "2026-11-01|glossary-00", "bad", num_rows=14, num_kept=0)
    seal(handoffs, "2026-11-01|glossary-00", "good", num_rows=14, num_kept=14)
    assert review_counts(handoffs, "glossary", num_days=28) == {"good": Sample.of_counts(14, 14)}


def test_days_before_the_newest_few_do_not_count(tmp_path: Path) -> None:
    handoffs = make_store(tmp_path)
    for day in range(1, 5):
        seal(handoffs, f"2026-11-{day:02d}|glossary-00", f"set-{day}", num_rows=1, num_kept=1)
    assert set(review_counts(handoffs, "glossary", num_days=2)) == {"set-3", "set-4"}


def test_a_partition_without_rows_counts_nothing(tmp_path: Path) -> None:
    handoffs = make_store(tmp_path)
    seal(handoffs, "2026-11-01|glossary-00", "a", num_rows=0, num_kept=0)
    assert review_counts(handoffs, "glossary", num_days=28) == {}


def test_losses_are_compared_only_on_the_same_tokens() -> None:
    base_old = make_model(1, kind="base", heldout_digest="old", heldout_loss=4.0)
    base_new = make_model(1, kind="base", heldout_digest="new", heldout_loss=4.5, registered_at=1_770_000_000.0)
    old = make_model(2, heldout_digest="old", heldout_loss=3.0)
    new = make_model(3, heldout_digest="new", heldout_loss=3.2)
    models = [base_old, base_new, old, new]
    assert heldout_losses(models, "weights-2", "weights-1") == (3.0, 4.0)
    assert heldout_losses(models, "weights-3", "weights-1") == (3.2, 4.5)
    assert heldout_losses(models, "weights-3", "weights-2") is None


def test_the_newest_shared_measurement_is_the_one_that_counts() -> None:
    models = [
        make_model(2, heldout_digest="new", heldout_loss=3.5, registered_at=2.0),
        make_model(1, heldout_digest="new", heldout_loss=4.5, registered_at=2.0),
        make_model(2, heldout_digest="old", heldout_loss=3.0, registered_at=1.0),
        make_model(1, heldout_digest="old", heldout_loss=4.0, registered_at=1.0),
    ]
    assert heldout_losses(models, "weights-2", "weights-1") == (3.5, 4.5)


def test_a_model_that_was_never_evaluated_is_not_compared() -> None:
    models = [make_model(1, heldout_loss=None), make_model(2)]
    assert heldout_losses(models, "weights-2", "weights-1") is None


def test_sets_without_reviews_have_empty_counts() -> None:
    evidence = evidence_for("b", "a", candidate_weights="x", stable_weights="y", reviews={}, models=[])
    assert (*evidence.arms(PASS_RATE), evidence.heldout_stable) == (Sample(), Sample(), None)


def test_models_of_preferences_are_compared_by_their_pairs_and_are_no_painters() -> None:
    pairs = {"heldout_digest": "pairs", "measure": "preference_loss", "registered_at": 2.0}
    models = [
        make_model(2, heldout_loss=3.0, registered_at=1.0),
        replace(make_model(2, heldout_loss=0.693), **pairs),
        replace(make_model(3, heldout_loss=0.6), **pairs),
    ]
    weights = {"candidate_weights": "weights-3", "stable_weights": "weights-2"}
    evidence = evidence_for(
        "b", "a", **weights, reviews={}, models=models, members={"writer": ("weights-3", "weights-2")}
    )
    assert (evidence.heldout_candidate, evidence.heldout_stable, evidence.heldout_unit) == (0.6, 0.693, "pair")
    assert evidence.taught == ()


def test_painters_are_compared_role_by_role_where_they_differ_and_were_measured_alike() -> None:
    def painter(version: int, error: float, digest: str = "same") -> ModelVersion:
        return replace(make_model(version, heldout_loss=error), heldout_digest=digest, measure="taught_denoising_error")

    models = [painter(1, 0.05), painter(2, 0.08), painter(3, 0.09, "other"), make_model(4, heldout_loss=3.0)]
    weights = [model.weights_digest for model in models]
    assert taught_errors(models, {"painter": (weights[1], weights[0]), "writer": (weights[3], weights[3])}) == (
        TaughtErrors(role="painter", candidate=0.08, stable=0.05),
    )
    for pair in ((weights[0], weights[0]), (weights[2], weights[0]), (weights[3], weights[0])):
        assert taught_errors(models, {"painter": pair}) == ()
