"""Registers the result of a training run and the base that it started from, or a base alone.

They become versions of one registered model, the base first, so that a rollout can start from it and return to it.
Registering again changes nothing: a version is found by its weights' digest.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from headrace.errors import InvalidInput
from headrace.keys import HELDOUT_LOSS
from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.model_versions import ModelVersion
from headrace.store.indexing import index_directory
from headrace.store.objects import ObjectStore, canonical_json
from headrace.store.sealed_directory import SealedDirectory


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Held-out loss (nats per token) of one model's weights, and the tokens that it was measured on; or what `measure`
    names, and on how much. `figures`: what else was measured, by name."""

    weights_digest: str
    heldout_loss: float
    heldout_tokens: int
    heldout_digest: str
    measure: str = HELDOUT_LOSS
    figures: Mapping[str, float] = field(default_factory=dict)


def register_model(
    registry: ModelRegistry,
    *,
    model_name: str,
    recipe: str,
    base: Mapping[str, object] | None,
    trained: Mapping[str, object],
    evaluation: pa.Table,
    config: Mapping[str, object],
    input_versions: Mapping[str, str],
    base_recipe: str = "",
) -> list[ModelVersion]:
    """Registers the base, if there is one, and the trained weights of one recipe; returns their rows, the base's first.

    Args:
        base, trained: rows of TRAINED_MODEL; no base for a picture model, which starts from none of its kind.
        evaluation: EVALUATION rows of both.
        config: the recipe's fields.
        input_versions: the training's inputs: `asset[partition]` to its sealed version.
        base_recipe: MODEL.NAME of the recipe that trained the base, if one did: of the same model, the base stays the
            trained version that it is.

    Raises:
        InvalidInput: the evaluation has other weights.
        RegistryUnavailable: MLflow does not answer.
    """
    models = {kind: model for kind, model in (("base", base), ("trained", trained)) if model is not None}
    evaluated = evaluations(evaluation, {kind: str(model["weights_digest"]) for kind, model in models.items()})
    rows = []
    for name, model in models.items():
        figures = evaluated[name]
        is_own = name == "trained"
        of_recipe = recipe if is_own else base_recipe.removeprefix(f"{model_name}.")
        kind = "trained" if is_own or f"{model_name}.{of_recipe}" == base_recipe else "base"
        run_id = str(model["mlflow_run_id"]) or _run_of(registry, model, f"{model_name} {kind}")
        registry.log_metrics(run_id, {**figures.figures, figures.measure: figures.heldout_loss})
        # A trained base has its tags from its own recipe.
        tags = {"headrace.heldout_digest": figures.heldout_digest} if is_own or kind == "base" else {}
        tags |= {"headrace.kind": kind}
        if is_own:
            tags |= {
                "headrace.recipe": recipe,
                "headrace.training_id": str(trained["training_id"]),
                "headrace.zero_stage": str(trained["zero_stage"]),
                f"headrace.{figures.measure}": f"{figures.heldout_loss:.4f}",
                "headrace.config": canonical_json(dict(config)).decode(),
                "headrace.input_versions": canonical_json(dict(input_versions)).decode(),
            }
            if base is not None and config.get("lora"):
                # The trained digest covers it; as a tag, it is found by.
                tags |= {"headrace.base_weights_digest": str(base["weights_digest"])}
        uri = str(model["weights_uri"])
        registered = registry.register(model_name, figures.weights_digest, uri, run_id, tags)
        rows.append(
            ModelVersion(
                model_name=model_name,
                version=registered.version,
                kind=kind,
                weights_digest=figures.weights_digest,
                weights_uri=uri,
                heldout_loss=figures.heldout_loss,
                heldout_tokens=figures.heldout_tokens,
                heldout_digest=figures.heldout_digest,
                recipe=of_recipe if kind == "trained" else "",
                zero_stage=int(str(model["zero_stage"])) if kind == "trained" else 0,
                mlflow_run_id=run_id,
                registered_at=registered.registered_at,
                measure=figures.measure,
            )
        )
    return rows


def register_base(registry: ModelRegistry, *, model_name: str, weights: SealedDirectory, source: str) -> ModelVersion:
    """Registers weights that were neither trained nor evaluated here.

    A recipe that starts from the same weights registers the same version, with their held-out loss.

    Args: source: the directory or hub name that they came from.

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    facts = {"weights_digest": weights.digest, "source": source}
    run_id = registry.ensure_run(f"weights-{weights.digest}", facts, name=f"{model_name} base")
    registry.finish_run(run_id)
    tags = {"headrace.kind": "base", "headrace.source": source}
    registered = registry.register(model_name, weights.digest, weights.uri, run_id, tags)
    return ModelVersion(
        model_name=model_name,
        version=registered.version,
        kind="base",
        weights_digest=weights.digest,
        weights_uri=weights.uri,
        heldout_loss=None,
        heldout_tokens=0,
        heldout_digest="",
        recipe="",
        zero_stage=0,
        mlflow_run_id=run_id,
        registered_at=registered.registered_at,
    )


def index_weights(objects: ObjectStore, rows: Iterable[ModelVersion]) -> None:
    """Puts the tensors of registered weights into segments that versions share, in a remote store.

    A store on this machine is opened where it lies; there `headrace model index` does it, for who wants the space.

    Raises:
        HandoffMissing: weights are not sealed in this store.
        HandoffCorrupt: they are damaged.
    """
    if objects.checks_what_it_fetches:
        for digest in dict.fromkeys(row.weights_digest for row in rows):
            index_directory(objects, digest)


def evaluations(table: pa.Table, weights: Mapping[str, str]) -> dict[str, Evaluated]:
    """EVALUATION rows by model, after checking that they are of these weights.

    Raises:
        InvalidInput: a model is missing, or was evaluated with other weights.
    """
    found = {str(row["model"]): row for row in table.to_pylist()}
    for model, digest in weights.items():
        of = found[model]["weights_digest"] if model in found else "none"
        if of != digest:
            raise InvalidInput(
                f"The evaluation is of {model} weights {of[:12]}, sealed are {digest[:12]}. Materialize evaluation."
            )
    return {
        model: Evaluated(
            weights_digest=row["weights_digest"],
            heldout_loss=row["heldout_loss"],
            heldout_tokens=row["heldout_tokens"],
            heldout_digest=row["heldout_digest"],
            measure=row.get("measure", HELDOUT_LOSS),
            figures=json.loads(row.get("figures", "{}")),
        )
        for model, row in found.items()
    }


def _run_of(registry: ModelRegistry, model: Mapping[str, object], name: str) -> str:
    """The run for weights whose training did not reach MLflow, or that were not trained here."""
    digest = str(model["weights_digest"])
    run_id = registry.ensure_run(
        str(model["training_id"]) or f"weights-{digest}", {"weights_digest": digest}, name=name
    )
    registry.finish_run(run_id)
    return run_id
