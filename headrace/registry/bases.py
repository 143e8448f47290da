"""Base models that a campaign or a service names by their weights: sealed and registered before its rollout needs them.

A sealed table for each subject says which versions its weights became. Rollouts read it like any registration, so they
need no MLflow, and no training.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from headrace.engines.model_directory import local_model_directory, model_directory
from headrace.engines.roles import Role
from headrace.errors import HandoffCorrupt
from headrace.handoff.schemas import MODEL_VERSIONS
from headrace.handoff.versions import HandoffStore
from headrace.keys import digest_text
from headrace.registry.mlflow_models import ModelRegistry
from headrace.registry.model_versions import ModelVersion, to_table
from headrace.registry.registered import BASE_VERSION
from headrace.registry.registration import index_weights, register_base
from headrace.store.objects import canonical_json
from headrace.store.sealed_directory import seal_directory

_SOURCES, _DIGESTS = "sources", "digests"
_CODE_VERSION = "1"


def has_unregistered_bases(handoffs: HandoffStore, name: str, roles: Mapping[str, Role], home: Path) -> bool:
    """Whether weights that a subject's file names are new, or their files changed. Reads no file, only their times.

    A registration that cannot be read is made again.
    """
    if not any(role.weights for role in roles.values()):
        return False
    try:
        newest = handoffs.newest(BASE_VERSION, name)
    except HandoffCorrupt:
        return True
    return newest is None or newest.attributes.get(_SOURCES) != _sources(roles, home)


def registered_bases(handoffs: HandoffStore, name: str, roles: Mapping[str, Role]) -> dict[str, str]:
    """Role → digest of the weights that a subject's file names, as registered last; nothing of what cannot be read."""
    if not any(role.weights for role in roles.values()):
        return {}
    try:
        newest = handoffs.newest(BASE_VERSION, name)
        found: object = json.loads(newest.attributes.get(_DIGESTS, "{}")) if newest else {}
    except (HandoffCorrupt, ValueError):
        return {}
    return {str(label): str(digest) for label, digest in found.items()} if isinstance(found, dict) else {}


def register_bases(
    handoffs: HandoffStore,
    registry: ModelRegistry,
    name: str,
    roles: Mapping[str, Role],
    home: Path,
    *,
    run_id: str,
) -> list[ModelVersion]:
    """Seals and registers the weights that a subject's file names; nothing if all of them are registered.

    Args: name: the subject's. home: where relative directories start.

    Raises:
        InvalidInput: weights are neither a model directory nor a model of the hub.
        RegistryUnavailable: MLflow does not answer.
    """
    if not has_unregistered_bases(handoffs, name, roles, home):
        return []
    # Before the files are read: what changes meanwhile is registered by the next call.
    sources = _sources(roles, home)
    rows, digests = [], {}
    for label, role in roles.items():
        if role.weights:
            directory = model_directory(role.weights, setting=f"{name}: weights of {label}", home=home)
            weights = seal_directory(handoffs.objects, directory)
            rows.append(register_base(registry, model_name=role.model, weights=weights, source=role.weights))
            digests[label] = weights.digest
    index_weights(handoffs.objects, rows)
    handoffs.publish(
        BASE_VERSION,
        name,
        to_table(rows),
        schema=MODEL_VERSIONS,
        code_version=_CODE_VERSION,
        run_id=run_id,
        attributes={_SOURCES: sources, _DIGESTS: canonical_json(digests).decode()},
    )
    return rows


def _sources(roles: Mapping[str, Role], home: Path) -> str:
    """Role → its weights' name, with a digest of the files' names, sizes and times if they are in a directory."""
    found = {}
    for label, role in roles.items():
        if role.weights:
            directory = local_model_directory(role.weights, home)
            found[label] = f"{role.weights} {_listing(directory) if directory else ''}".rstrip()
    return canonical_json(found).decode()


def _listing(directory: Path) -> str:
    stats = [(path, path.stat()) for path in sorted(directory.rglob("*")) if path.is_file()]
    return digest_text(*(f"{path.relative_to(directory)} {one.st_size} {one.st_mtime_ns}" for path, one in stats))[:16]
