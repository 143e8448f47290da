from importlib.metadata import EntryPoint, EntryPoints, entry_points

import pytest

from headrace.errors import InvalidInput
from headrace.store import protection
from headrace.store.protection import OUTSIDE, PROTECTION, Answer, Asked, Named, Protections, installed


def nobody(asked: Asked) -> Answer:
    return Answer()


def with_others(monkeypatch: pytest.MonkeyPatch, *added: EntryPoint, but: str = "") -> None:
    points = [one for one in entry_points(group=PROTECTION) if one.name != but]
    monkeypatch.setattr(protection, "entry_points", lambda group: EntryPoints([*points, *added]))


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=PROTECTION)


def test_what_is_named_stays_alone_or_with_all_that_lies_below() -> None:
    named = [Named(key="weights/ab", reason="a rollout"), Named(key="handoff/docs/", reason="a damaged claim")]
    protections = Protections([*named, Named(key="weights/ab", reason="a session")])
    keys = ("weights/ab", "weights/abc", "handoff/docs/all/v000001/manifest.json", "handoff/document/all")
    assert [protections.of(key) for key in keys] == ["a rollout", None, "a damaged claim", None]


def test_some_things_are_named_only_while_the_newest_hold_the_same() -> None:
    protections = Protections([Named(key="v1", reason="a sealed claim", while_newest=True)])
    assert (protections.of("v1"), protections.of("v1", is_newest_content=True)) == (None, "a sealed claim")


def test_every_room_answers_and_what_asks_beside_the_store_only_where_it_is_wanted() -> None:
    rooms = {"generation", "rollout", "serving", "training"}
    assert installed().keys() == rooms
    assert installed(without=()).keys() == rooms | OUTSIDE


def test_another_package_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with_others(monkeypatch, point("theirs", f"{__name__}:nobody"))
    assert installed()["theirs"] is nobody


@pytest.mark.parametrize("gone", ["generation", "rollout", "serving", "training"])
def test_nothing_is_planned_where_a_room_of_ours_is_not_asked(monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    with_others(monkeypatch, but=gone)
    with pytest.raises(InvalidInput, match=f"does not say what {gone} protects .* install Headrace again"):
        installed()


def test_a_room_that_does_not_load_stops_the_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    with_others(monkeypatch, point("theirs", "no_such_module:protection"))
    with pytest.raises(
        InvalidInput, match=r"What theirs protects cannot be asked \(No module named 'no_such_module'\)"
    ):
        installed()
