"""The one-row tables that base_model and trained_model pass on: which weights, and how they were made."""

import math
from collections.abc import Mapping

import pyarrow as pa

from headrace.errors import HandoffMissing, InvalidTrainingRun
from headrace.handoff.schemas import EVALUATION, FIGURES, MEASURE, check_schema
from headrace.handoff.versions import HandoffStore
from headrace.keys import HELDOUT_LOSS
from headrace.store.objects import ObjectStore, canonical_json
from headrace.store.sealed_directory import SealedDirectory, find_directory
from headrace.text import markdown
from headrace.training.attempts import TrainingResult, training_key
from headrace.training.heldout import SAMPLE_ARROW, Evaluation
from headrace.training.recipe import Recipe

# Four samples of three cells stay below the 1,000 characters that the Dagster UI shows without a click.
_CELL_CHARACTERS = 70

TRAINED_MODEL = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("weights_digest", pa.string()),
            ("weights_uri", pa.string()),
            ("training_id", pa.string()),  # "" for a base model
            ("steps_applied", pa.int64()),
            ("tokens", pa.int64()),  # of all steps, without padding
            ("train_loss_last", pa.float64()),  # nats per completion token, of the last step
            ("zero_stage", pa.int32()),
            ("world_size", pa.int32()),
            ("resumed_from_step", pa.int64()),
            ("seconds", pa.float64()),  # of all steps, whichever attempt took them
            ("mlflow_run_id", pa.string()),  # "" if MLflow did not answer, and for a base model
        )
    ]
)


def base_model_table(weights: SealedDirectory) -> pa.Table:
    return _one_row(weights_digest=weights.digest, weights_uri=weights.uri)


def base_recipe_table(handoffs: HandoffStore, recipe: Recipe) -> tuple[pa.Table, str]:
    """What `recipe.base_recipe` trained last, as the base of `recipe`; and the label of the version that says so.

    Raises: InvalidTrainingRun: it has trained nothing yet, or its weights are gone.
    """
    assert recipe.base_recipe
    trained = handoffs.newest("trained_model", recipe.base_recipe)
    table = trained.table() if trained else None
    if trained is None or table is None or find_directory(handoffs.objects, table["weights_digest"][0].as_py()) is None:
        raise InvalidTrainingRun(
            f"Recipe {recipe.key} starts from what {recipe.base_recipe} trained, and the store has no weights of it. "
            f"Materialize trained_model[{recipe.base_recipe}] first, or correct base_recipe."
        )
    return table, trained.label


def trained_model_table(store: ObjectStore, result: TrainingResult, *, mlflow_run_id: str) -> pa.Table:
    """Raises: HandoffMissing: the store no longer has the result's weights."""
    weights = find_directory(store, result.weights_digest)
    if weights is None:
        raise HandoffMissing(
            f"Training {result.training_id} has a result, but its weights {result.weights_digest[:12]} are gone from "
            f"the store. Delete {store.uri(training_key(result.training_id, 'result.json'))} to train again.",
            training_id=result.training_id,
            digest=result.weights_digest,
        )
    return _one_row(
        weights_digest=weights.digest,
        weights_uri=weights.uri,
        training_id=result.training_id,
        steps_applied=result.steps_applied,
        tokens=result.tokens,
        train_loss_last=result.train_loss_last,
        zero_stage=result.zero_stage,
        world_size=result.world_size,
        resumed_from_step=result.resumed_from_step,
        seconds=result.seconds if result.step_seconds is None else result.step_seconds,
        mlflow_run_id=mlflow_run_id,
    )


def evaluation_table(evaluations: dict[str, Evaluation]) -> pa.Table:
    """EVALUATION: one row for each model; `evaluations` by "base" and "trained", of one measure.

    The measure and its figures are columns where it is not the held-out loss, so tables of language models stay as they
    are.
    """
    schema = EVALUATION
    if any(evaluation.measure != HELDOUT_LOSS for evaluation in evaluations.values()):
        schema = EVALUATION.append(MEASURE).append(FIGURES)
    rows = [
        {
            "model": model,
            "weights_digest": evaluation.weights_digest,
            "heldout_loss": evaluation.heldout_loss,
            "heldout_tokens": evaluation.heldout_tokens,
            "heldout_digest": evaluation.heldout_digest,
            "samples": list(evaluation.samples),
            MEASURE.name: evaluation.measure,
            FIGURES.name: canonical_json(_finite(evaluation.figures)).decode(),
        }
        for model, evaluation in evaluations.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """JSON and MLflow's SQLite have no other numbers."""
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def samples_markdown(base: Evaluation, trained: Evaluation) -> str:
    """Both models' answers to the same prompts, as many as the UI shows inline."""
    rows = []
    for before, after in zip(base.samples, trained.samples, strict=False):
        prompt, _, old = before.partition(SAMPLE_ARROW)
        rows.append([prompt, old, after.partition(SAMPLE_ARROW)[2]])
    return markdown.fitting_table(["prompt", "base", "trained"], rows, cell_chars_max=_CELL_CHARACTERS)


def ranks_markdown(trained: Evaluation) -> str:
    """Captions, and the rank of each one's own picture by the colours of the painted one."""
    rows = [sample.split(SAMPLE_ARROW) for sample in trained.samples]
    return markdown.fitting_table(["caption", "own picture"], rows, cell_chars_max=_CELL_CHARACTERS)


def _one_row(**values: object) -> pa.Table:
    defaults = {field.name: "" if pa.types.is_string(field.type) else 0 for field in TRAINED_MODEL}
    table = pa.Table.from_pylist([defaults | values], schema=TRAINED_MODEL)
    check_schema("trained_model", table, TRAINED_MODEL)
    return table
