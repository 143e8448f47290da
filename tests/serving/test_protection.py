"""A session's pin keeps the weights of its set, for as long as it binds."""

from pathlib import Path
from typing import Any

from headrace.serving.protection import protection
from headrace.serving.sessions import SESSION_PIN, SKEW_SECONDS_MAX, SessionPin
from headrace.store.protection import Asked
from headrace.store.small_objects import PassedOver, create_object
from tests.rollout.scenes import Scene


def pin(scene: Scene, number: int, version: int, *, session: str = "ab12", seconds: float = 600.0, **given: Any) -> str:
    key = f"rollout/{scene.name}/sessions/{session[:2]}/{session}/{number:06d}.json"
    record = SessionPin(
        version_set=scene.sets[version].id,
        entry=1,
        trial=0,
        expires_at=scene.clock.now() + seconds,
        reason="weight",
        **given,
    )
    create_object(scene.store, key, SESSION_PIN, record)
    return key


def named(scene: Scene, damaged: PassedOver | None = None) -> set[str]:
    asked = Asked(
        objects=scene.store,
        now=scene.clock.now(),
        clock=scene.clock,
        grace_seconds=0,
        damaged=damaged or PassedOver(),
    )
    return {one.key.removeprefix("weights/")[:1] for one in protection(asked).named}


def test_a_live_pin_names_the_weights_of_its_set_whatever_the_journal_says(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    pin(scene, 1, 3)
    assert named(scene) == {"3", "e"}
    scene.clock.advance(600 + SKEW_SECONDS_MAX - 1)
    assert named(scene) == {"3", "e"}
    scene.clock.advance(2)
    assert named(scene) == set()


def test_of_a_session_the_newest_pin_counts(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    pin(scene, 1, 3)
    pin(scene, 2, 2, is_provisional=True)
    pin(scene, 1, 4, session="cd34")
    assert named(scene) == {"2", "4", "e"}


def test_a_pin_that_cannot_be_read_binds_nobody_and_is_told(tmp_path: Path) -> None:
    scene, damaged = Scene(tmp_path), PassedOver()
    path = scene.store.local_path(pin(scene, 1, 3))
    path.chmod(0o644)
    path.write_bytes(b"{}")
    assert named(scene, damaged) == set()
    assert len(damaged.keys) == 1
