"""Asks the registry, the catalogue of models, once whether a set may be tried, before it is proposed."""

from typing import Protocol

from headrace.errors import RegistryUnavailable
from headrace.version_sets.sets import VersionSet


class Catalogue(Protocol):
    """The part of `headrace.registry.mlflow_models.ModelRegistry` that is used here."""

    def find_by_digest(self, model_name: str, weights_digest: str) -> str | None: ...


def refusal_of(catalogue: Catalogue, version_set: VersionSet) -> str | None:
    """Why a set cannot be tried now: the registry does not know a member, or does not answer. None: it can.

    Members that are not registered are skipped.
    """
    for member in version_set.members:
        if not member.is_registered:
            continue
        try:
            version = catalogue.find_by_digest(member.model_name, member.weights_digest)
        except RegistryUnavailable as error:
            return str(error)
        if version != member.model_version:
            return (
                f"the registry has the weights {member.weights_digest[:12]} of {member.model_name} as "
                f"{f'version {version}' if version else 'no version'}, the set as version {member.model_version}."
            )
    return None
