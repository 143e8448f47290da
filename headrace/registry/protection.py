"""Protects weights that MLflow's aliases name, whoever set them: entry point `mlflow` of `headrace.protection`.

A version without an alias protects nothing: each training is registered, and a retired version's rows stay traceable by
its digest, training and data. To keep its weights, give it an alias of any name. If MLflow does not answer, all weights
stay.
"""

from collections.abc import Iterator

from headrace.errors import RegistryMissing, RegistryUnavailable
from headrace.registry.mlflow_models import ModelRegistry
from headrace.store.protection import Answer, Asked, Named, all_weights
from headrace.store.sealed_directory import WEIGHTS, directory_key

TRACKING_URI = "MLFLOW_TRACKING_URI"


def protection(asked: Asked) -> Answer:
    return Answer(named=_named(asked))


def _named(asked: Asked) -> Iterator[Named]:
    if not asked.objects.children(WEIGHTS):
        return  # importing it costs two seconds
    if not (uri := asked.environment.get(TRACKING_URI)):
        yield all_weights(f"{TRACKING_URI} is not set, so MLflow's aliases are unknown")
        return
    try:
        found = ModelRegistry(uri).aliased_weights()
    except (RegistryUnavailable, RegistryMissing) as error:
        yield all_weights(str(error).rstrip("."))
        return
    for digest, label in found.items():
        yield Named(key=directory_key(digest), reason=f"MLflow's alias {label}")
