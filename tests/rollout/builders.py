"""Builders for rollouts: what a test does not mention is plain and valid."""

from pathlib import Path
from typing import Any

from headrace.clock import FixedClock
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Step
from headrace.rollout.states import RolloutState, fold
from headrace.store.local import LocalStore
from headrace.version_sets.sets import Decoding, EngineSpec, Member, VersionSet
from simulation.models import model_of


def make_member(role: str = "writer", **changes: Any) -> Member:
    settings: dict[str, Any] = {
        "role": role,
        "model_name": "tiny",
        "model_version": "1",
        "weights_digest": "d1",
        "weights_uri": "file:///store/weights/d1",
        "system_prompt": "",
        "user_template": "{text}",
        "decoding": Decoding(temperature=0.7, top_p=0.9, max_new_tokens=40),
    }
    return Member(**(settings | changes))


def make_set(*members: Member, code_version: str = "1", **engine: Any) -> VersionSet:
    settings: dict[str, Any] = {"name": "echo", "build": "echo 1"}
    return VersionSet(
        members=members or (make_member(),),
        engine=EngineSpec(**(settings | engine)),
        code_version=code_version,
    )


def make_model(version: int, *, kind: str = "trained", **changes: Any) -> ModelVersion:
    return model_of("tiny", version, kind=kind, **changes)


def desired(model: ModelVersion, **engine: Any) -> VersionSet:
    """The set in which a model version runs, as a campaign would build it."""
    member = make_member(
        model_name=model.model_name,
        model_version=model.version,
        weights_digest=model.weights_digest,
        weights_uri=model.weights_uri,
    )
    return make_set(member, **engine)


def steps(*weights: float, **settings: Any) -> tuple[Step, ...]:
    """A plan's steps, all with the same settings."""
    return tuple(Step(weight=weight, **settings) for weight in weights)


def make_journal(directory: Path, name: str = "glossary") -> Journal:
    return Journal(LocalStore(directory), name, FixedClock())


def make_entry(number: int, event: str, at: float = 0.0, **fields: Any) -> Entry:
    return Entry(number=number, event=event, fields=fields, at=at, prev="", nonce="", digest="")


def reviewed_row(position: int, version_set: str, *, kept: bool) -> dict[str, Any]:
    """Of the asset reviewed_content."""
    return {
        "row_id": f"{version_set}-{position}",
        "prompt_id": str(position),
        "position": position,
        "prompt": "p",
        "output": "o",
        "version_set": version_set,
        "num_output_tokens": 1,
        "kept": kept,
        "rejected_by": [] if kept else ["empty"],
    }


def state_of(journal: Journal) -> RolloutState:
    """Of a rollout that has begun."""
    state = fold(journal.entries())
    assert state is not None
    return state
