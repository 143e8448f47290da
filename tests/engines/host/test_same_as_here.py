"""What a host's model gives is what the same model gives in this process: bytes, counts, notes, refusals."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest

from headrace.engines import conformance, media_conformance
from headrace.engines.asking import close
from headrace.engines.base import Engine, LoadedModel, NoAnswer, TurnRefused
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaEngine, MediaTurn
from headrace.errors import HandoffMissing, InvalidInput
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.version_sets.sets import Member
from tests.engines.host.hosts import RunningHost
from tests.generation.builders import make_member

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture
def both(host: RunningHost, objects: LocalStore, loop: LoopThread) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Opens an engine here and at the host."""
    opened: list[LoadedModel] = []

    def open_both(open_one: Callable[[Deployment], LoadedModel]) -> tuple[Any, Any]:
        opened.extend(open_one(deployment) for deployment in (Deployment(), host.deployment(objects)))
        return opened[-2], opened[-1]

    yield open_both
    for one in opened:
        loop.run(close(one))


def told(outcome: Any) -> Any:
    """An outcome as values; exceptions are equal to nothing."""
    return (type(outcome), str(outcome), vars(outcome)) if isinstance(outcome, NoAnswer) else outcome


def test_texts_and_what_the_engine_says_of_itself(
    both: Callable[..., tuple[Engine, Engine]], objects: LocalStore, tiny_model: Any, loop: LoopThread
) -> None:
    sealed = seal_directory(objects, tiny_model)
    member = replace(make_member(), weights_digest=sealed.digest, weights_uri=sealed.uri)
    here, there = both(
        lambda deployment: conformance.opened(
            "transformers", objects=objects, member=member, deployment=deployment, dtype="float32", batch_rows=4
        )
    )
    facts = ("name", "build", "deterministic", "computes_on_cpu", "mixes_rows", "num_at_once")
    assert [getattr(there, name) for name in facts] == [getattr(here, name) for name in facts]
    turns = [conformance.turn(text, seed=2**62 + seed) for seed, text in enumerate(conformance.TEXTS.values())]
    turns += [conformance.turn(max_tokens=100_000), conformance.turn(stop=("a", "e"))]
    answers = [list(map(told, loop.run(one.answer_together(turns)))) for one in (here, there)]
    assert answers[0] == answers[1]
    assert answers[0][-2][0] is TurnRefused, "a turn that is too long is refused alike"

    async def alone(engine: Engine) -> list[Any]:
        return [await engine.answer(turns[0]), *[piece async for piece in engine.stream(turns[0])]]

    assert loop.run(alone(here)) == loop.run(alone(there))


@pytest.mark.parametrize("kind", ["diffusers", "hibari", "echo"])
def test_media(
    both: Callable[..., tuple[MediaEngine, MediaEngine]],
    objects: LocalStore,
    pixel_pipeline: Any,
    loop: LoopThread,
    kind: str,
) -> None:
    member, options = media_conformance.painter(), {}
    if kind == "diffusers":
        sealed = seal_directory(objects, pixel_pipeline)
        member = media_conformance.painter(width=16, height=16, num_inference_steps=2)
        member = replace(member, weights_digest=sealed.digest, weights_uri=sealed.uri)
        options = {"dtype": "float32", "batch_rows": 4}
    elif kind == "hibari":
        version = metadata.version("hibari-tts")
        member = replace(media_conformance.speaker(), model_name="hibari", model_version=version)
    here, there = both(
        lambda deployment: media_conformance.opened(kind, member, objects=objects, deployment=deployment, **options)
    )
    texts = ["A mill race.", "The wheel turns 🛠 and stops.", "水", "", "a" * 5000, "one two"]
    turns = [MediaTurn(unit=str(seed), text=text, seed=2**62 + seed) for seed, text in enumerate(texts)]
    turns.append(replace(turns[0], speed=1.5))
    outcomes = [list(map(told, loop.run(one.make_together(turns)))) for one in (here, there)]
    assert outcomes[0] == outcomes[1]
    assert told(outcomes[0][3])[0] is TurnRefused, "an empty text is refused alike"


@pytest.mark.parametrize("what", ["weights that are not there", "a voice that is not there"])
def test_a_model_that_cannot_be_opened_is_refused_alike(host: RunningHost, objects: LocalStore, what: str) -> None:
    def open_one(deployment: Deployment) -> LoadedModel:
        if what == "weights that are not there":
            missing = replace(make_member(), weights_digest="0" * 64, weights_uri="file:///nowhere")
            return conformance.opened("transformers", objects=objects, member=missing, deployment=deployment)
        member: Member = media_conformance.speaker(voice="nobody")
        member = replace(member, model_name="hibari", model_version=metadata.version("hibari-tts"))
        return media_conformance.opened("hibari", member, objects=objects, deployment=deployment)

    refusals = []
    for deployment in (Deployment(), host.deployment(objects), host.deployment(objects)):
        with pytest.raises((InvalidInput, HandoffMissing)) as refused:
            open_one(deployment)
        refusals.append((refused.type, str(refused.value), refused.value.culprits))
    assert refusals[0] == refusals[1] == refusals[2]
    [row] = [row for row in host.table.data if row.refusal == refusals[0][1]]
    assert (row.loads, row.state) == (0, "absent")
