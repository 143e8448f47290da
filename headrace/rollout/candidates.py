"""Which version set a rollout tries next, by registered models and its subject's file. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.errors import InvalidInput
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.states import RolloutState
from headrace.version_sets.sets import VersionSet


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A set to try, and why."""

    version_set: VersionSet
    reason: str


class Candidates(Protocol):
    """The source of a rollout's sets."""

    @property
    def missing(self) -> str:
        """Why there is no first or next set, in one sentence."""
        ...

    def first(self) -> Wanted | None: ...

    def following(self, state: RolloutState) -> Wanted | None:
        """The next set to try; never one that is stable, or was aborted or withdrawn."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelCandidates:
    """The versions of one registered model.

    The base model is the first stable set. A changed campaign file becomes a candidate with the stable model before any
    new model does, so one switch changes one thing. Then trained models follow, oldest first, each once.

    Args:
        model_name: the registered model whose versions are candidates.
        models: all known versions, of any model; duplicates are allowed.
        desired: the set in which the file would now run a version.
    """

    model_name: str
    models: Sequence[ModelVersion]
    desired: Callable[[ModelVersion], VersionSet]

    @property
    def missing(self) -> str:
        if self._base() is None:
            return f"No base version of {self.model_name} is registered. Materialize registered_version."
        return f"No version of {self.model_name} waits to be tried."

    def first(self) -> Wanted | None:
        base = self._base()
        if base is None:
            return None
        reason = f"the first stable set is the base, {_name(base)}"
        return Wanted(version_set=self.desired(base), reason=reason)

    def following(self, state: RolloutState) -> Wanted | None:
        for version in self._untried(state):
            wanted = self.desired(version)
            if wanted.id == state.stable or wanted.id in state.aborted | state.withdrawn:
                continue
            changed = version.weights_digest == state.stable_weights
            reason = f"the campaign's settings changed for {_name(version)}" if changed else f"{_name(version)} is new"
            return Wanted(version_set=wanted, reason=reason)
        return None

    def _versions(self) -> list[ModelVersion]:
        own = [model for model in self.models if model.model_name == self.model_name]
        return sorted(own, key=lambda version: int(version.version))

    def _base(self) -> ModelVersion | None:
        return next((version for version in self._versions() if version.kind == "base"), None)

    def _untried(self, state: RolloutState) -> list[ModelVersion]:
        versions = self._versions()
        stable = [version for version in versions if version.weights_digest == state.stable_weights]
        trained = [
            version
            for version in versions
            if version.kind == "trained" and version.weights_digest not in state.considered_weights
        ]
        return [*stable[:1], *trained]


@dataclass(frozen=True, kw_only=True)
class NewestCandidates:
    """One set at a time: the file's roles with the models that are registered now.

    All roles that changed since the stable set switch together.

    Args:
        desired: the set that the file asks for; raises InvalidInput if one of its models is not registered.
        whose: the subject's name in messages, such as "service".
    """

    name: str
    whose: str
    desired: Callable[[], VersionSet]

    @property
    def missing(self) -> str:
        try:
            self.desired()
        except InvalidInput as error:
            return str(error)
        return f"Nothing that {self.name} asks for waits to be tried."

    def first(self) -> Wanted | None:
        wanted = self._desired_or_none()
        return wanted and Wanted(
            version_set=wanted, reason=f"the first stable set is what the {self.whose}'s file asks for"
        )

    def following(self, state: RolloutState) -> Wanted | None:
        wanted = self._desired_or_none()
        if wanted is None or wanted.id == state.stable or wanted.id in state.aborted | state.withdrawn:
            return None
        return Wanted(version_set=wanted, reason=f"the {self.whose}'s file or its models changed")

    def _desired_or_none(self) -> VersionSet | None:
        try:
            return self.desired()
        except InvalidInput:
            return None


def _name(version: ModelVersion) -> str:
    recipe = f" ({version.recipe})" if version.recipe else ""
    return f"{version.model_name} version {version.version}{recipe}"
