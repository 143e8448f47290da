"""Sealed weights and garbage collection: what goes, and that nothing goes that somebody seals, opens or names."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import FixedClock
from headrace.errors import HandoffCollected, HandoffMissing
from headrace.handoff.collecting import CollectionReport, collect, plan_collection
from headrace.store.leases import HELD_SECONDS
from headrace.store.local import LocalStore
from headrace.store.objects import ObjectStore
from headrace.store.protection import Answer, Asked, Leaving, Named
from headrace.store.sealed_directory import (
    SealedDirectory,
    collected_key,
    directory_key,
    find_directory,
    open_directory,
    seal_directory,
    was_collected,
)

RECIPE = {"model": "tiny", "recipe": "flash"}


class Watched(LocalStore):
    """Calls back before each operation that a collector or a sealer does."""

    def __init__(self, directory: Path, before: Callable[[str], None] = lambda operation: None) -> None:
        super().__init__(directory)
        self.before = before


def _watched(name: str) -> Callable[..., Any]:
    def method(self: Watched, key: str, *arguments: Any, **given: Any) -> Any:
        self.before(f"{name} {key}")
        return getattr(LocalStore, name)(self, key, *arguments, **given)

    return method


for operation in ("create", "read", "exists", "children", "entries", "list", "delete", "delete_prefix"):
    setattr(Watched, operation, _watched(operation))


class Killed(BaseException):
    pass


class Site:
    """Weights of recipes in a store whose leases of now have run out."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FixedClock(time.time())
        self.store = LocalStore(directory / "store")

    def source(self, content: str) -> Path:
        source = self.directory / content
        source.mkdir(exist_ok=True)
        (source / "model.safetensors").write_bytes(content.encode() * 1000)
        (source / "config.json").write_text("{}")
        return source

    def seal(self, content: str, **attributes: str) -> SealedDirectory:
        sealed = seal_directory(self.store, self.source(content), attributes=attributes, clock=self.clock)
        self.clock.advance(1)
        return sealed

    def days_pass(self, days: float = 2) -> None:
        self.clock.advance(days * 24 * 3600)

    def collect(self, store: LocalStore | None = None, *, named: Sequence[str] = (), keep: int = 1) -> CollectionReport:
        store = store or self.store
        answer = Answer(named=[Named(key=directory_key(digest), reason="somebody names it") for digest in named])
        return collect(store, self.clock, self.plan(answer, store, keep=keep))

    def plan(self, answer: Answer = Answer(), store: LocalStore | None = None, *, keep: int = 1) -> Any:  # noqa: B008
        protectors = {"somebody": lambda asked: answer}
        store = store or self.store
        return plan_collection(store, self.clock, keep_versions=keep, grace_seconds=-1.0, protectors=protectors)

    def is_whole(self, sealed: SealedDirectory, content: str) -> bool:
        found = open_directory(self.store, sealed.digest, clock=self.clock)
        return (found / "model.safetensors").read_bytes() == content.encode() * 1000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def digests(report: CollectionReport) -> list[str]:
    return [one.key.rpartition("/")[2] for one in report.leavings]


def test_of_each_recipe_the_newest_weights_stay_and_older_ones_go(site: Site) -> None:
    old, newer, newest = (site.seal(name, **RECIPE) for name in ("a", "b", "c"))
    other = site.seal("d", model="tiny", recipe="slow")
    site.days_pass()
    assert digests(site.collect(keep=2)) == [old.digest]
    assert site.is_whole(newer, "b")
    assert site.is_whole(newest, "c")
    assert site.is_whole(other, "d")
    assert site.store.list(old.key) == []
    # What they were stays: files with their digests, and which training made them.
    assert site.store.exists(old.manifest_key)


def test_weights_of_no_recipe_stay_while_they_are_named(site: Site) -> None:
    base = site.seal("base")
    site.days_pass()
    assert site.collect(named=[base.digest]).gone == ()
    assert digests(site.collect()) == [base.digest]


def test_the_base_of_an_adapter_stays_while_the_adapter_does(site: Site) -> None:
    base, other = site.seal("base"), site.seal("other")
    old, newest = (site.seal(name, **RECIPE, needs_weights=base.digest) for name in ("a", "b"))
    site.days_pass()
    assert set(digests(site.collect())) == {old.digest, other.digest}
    [kept] = [one for one in site.plan().others if one.key == directory_key(base.digest)]
    assert kept.reason == f"weights {newest.digest[:12]} of tiny.flash needs it"
    site.seal("c", **RECIPE)
    site.days_pass()
    assert set(digests(site.collect())) == {newest.digest, base.digest}


def test_a_damaged_manifest_may_be_an_adapters_that_needs_a_base(site: Site) -> None:
    base = site.seal("base")
    adapter = site.seal("a", **RECIPE, needs_weights=base.digest)
    path = site.store.local_path(adapter.manifest_key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3])
    site.days_pass()
    assert site.collect().gone == ()
    assert site.is_whole(base, "base")


def test_a_dry_run_gives_each_reason(site: Site) -> None:
    old, named, newest = (site.seal(name, **RECIPE) for name in ("a", "b", "c"))
    base = site.seal("base")
    site.days_pass()
    open_directory(site.store, base.digest, clock=site.clock)
    answer = Answer(named=[Named(key=directory_key(named.digest), reason="rollout glossary, stable")])
    found = {one.key: (one.is_kept, one.reason) for one in site.plan(answer).others}
    assert found == {
        directory_key(newest.digest): (True, "among the newest 1 of tiny.flash"),
        directory_key(named.digest): (True, "rollout glossary, stable"),
        directory_key(old.digest): (False, "older than the newest 1 of tiny.flash, and nobody names them"),
        directory_key(base.digest): (True, "leased: it was sealed or opened a short while ago"),
    }
    assert site.is_whole(old, "a")


def test_who_sealed_or_opened_weights_has_a_day_to_name_them(site: Site) -> None:
    sealed = site.seal("a")
    for look in (lambda: site.seal("a"), lambda: open_directory(site.store, sealed.digest, clock=site.clock)):
        site.clock.advance(HELD_SECONDS - 3600)
        look()
        site.clock.advance(HELD_SECONDS - 3600)
        assert site.collect().gone == ()
    site.days_pass()
    assert digests(site.collect()) == [sealed.digest]


def test_collected_weights_say_so_and_what_to_do(site: Site) -> None:
    sealed = site.seal("a")
    site.days_pass()
    site.collect()
    assert (find_directory(site.store, sealed.digest), was_collected(site.store, sealed.digest)) == (None, True)
    with pytest.raises(HandoffCollected, match=rf"The weights {sealed.digest[:12]} were garbage-collected: neither a"):
        open_directory(site.store, sealed.digest)
    with pytest.raises(HandoffMissing, match="No weights with digest 0000 are sealed") as never:
        open_directory(site.store, "0000")
    assert not isinstance(never.value, HandoffCollected)


def test_collected_weights_that_are_sealed_again_are_there_again_and_may_go_again(site: Site) -> None:
    for newer in ("b", "c", "d"):
        sealed = site.seal("a", **RECIPE)
        assert site.is_whole(sealed, "a")
        assert not was_collected(site.store, sealed.digest)
        site.seal(newer, **RECIPE)
        site.days_pass()
        assert sealed.digest in digests(site.collect())
    # One manifest and one note for each time.
    assert len(site.store.list(directory_key(sealed.digest))) == 6
    assert site.store.list(f"{directory_key(sealed.digest)}/manifest-000003.json") == []
    assert site.store.list("condemned") == []


def test_damaged_manifests_stay_and_so_does_what_they_may_name(site: Site) -> None:
    sealed = site.seal("a")
    path = site.store.local_path(sealed.manifest_key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3])
    site.days_pass()
    plan = site.plan()
    assert [(one.kind, one.is_kept, one.reason) for one in plan.others] == [
        ("orphan", True, "a damaged manifest may name it")
    ]
    assert "Manifest" in plan.damaged[0]
    assert site.seal("a").digest == sealed.digest


def test_what_a_killed_sealer_left_goes(site: Site) -> None:
    store = Watched(site.store.directory)

    def killed(operation: str) -> None:
        if operation.startswith("create weights/") and operation.endswith("manifest.json"):
            raise Killed

    store.before = killed
    with pytest.raises(Killed):
        seal_directory(store, site.source("a"), clock=site.clock)
    assert site.collect().gone == ()  # it may still be at it
    site.days_pass()
    assert [one.kind for one in site.collect().leavings] == ["orphan"]
    assert site.store.list("weights") == []
    assert site.is_whole(site.seal("a"), "a")


def operations_of_a_collection(directory: Path) -> int:
    site = Site(directory)
    site.seal("a")
    site.days_pass()
    seen: list[str] = []
    site.collect(Watched(site.store.directory, seen.append))
    return len(seen)


def test_a_collector_killed_anywhere_loses_nothing_and_the_next_one_ends_it(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    num_operations = operations_of_a_collection(tmp_path / "first")
    assert num_operations > 20
    for point in range(num_operations):
        directory = tmp_path / str(point)
        directory.mkdir()
        site = Site(directory)
        named, unnamed = site.seal("named"), site.seal("a")
        site.days_pass()
        count = iter(range(10_000))

        def killed(operation: str, point: int = point, count: Any = count) -> None:
            if next(count) == point:
                raise Killed

        with pytest.raises(Killed):
            site.collect(Watched(site.store.directory, killed), named=[named.digest])
        # Whatever the kill left, the same files can be sealed at once, and are whole.
        again = point % 2 == 0
        if again:
            assert site.is_whole(site.seal("a"), "a"), point
        site.days_pass(3)
        site.collect(named=[named.digest] + [unnamed.digest] * again)
        assert site.is_whole(named, "named"), point
        if again:
            assert site.is_whole(unnamed, "a"), point
        else:
            assert was_collected(site.store, unnamed.digest), point
        site.days_pass()
        site.collect()
        assert site.store.list("condemned") + site.store.list("weights/parts") == [], point


@pytest.mark.parametrize("then", ["seal", "open"])
def test_a_sealer_or_reader_at_any_point_of_a_collection_has_whole_weights_or_is_told(
    tmp_path: Path, then: str
) -> None:
    """The collector goes on afterwards: whatever it decides then, it takes nothing that was sealed or opened."""
    (tmp_path / "first").mkdir()
    outcomes = set()
    for point in range(operations_of_a_collection(tmp_path / "first")):
        directory = tmp_path / str(point)
        directory.mkdir()
        site = Site(directory)
        sealed = site.seal("a")
        site.days_pass()
        count = iter(range(10_000))
        told: list[bool] = []

        def meet(operation: str, site: Site = site, sealed: Any = sealed, count: Any = count, told: Any = told) -> None:
            if next(count) != point:  # noqa: B023
                return
            try:
                seal_directory(site.store, site.source("a"), clock=site.clock) if then == "seal" else open_directory(
                    site.store, sealed.digest, clock=site.clock
                )
            except HandoffCollected:
                told.append(True)

        report = site.collect(Watched(site.store.directory, meet))
        if not told:
            assert site.is_whole(sealed, "a"), (point, report)
        outcomes.add((bool(told), bool(report.gone)))
        site.days_pass(3)
        site.collect()
        assert site.store.list("condemned") + site.store.list("weights/parts") == [], point
    assert outcomes == ({(False, True), (False, False)} if then == "seal" else {(True, True), (False, False)})


def test_a_collector_that_slept_through_another_and_a_new_sealing_takes_nothing_of_it(site: Site) -> None:
    """It has decided, and is about to delete; meanwhile all is collected, and sealed again."""
    for place in ("create weights/", "delete_prefix weights/", "delete_prefix leases/", "delete condemned/"):
        sealed = site.seal("a")
        site.days_pass()
        slept: list[str] = []

        def sleep(operation: str, place: str = place, slept: list[str] = slept) -> None:
            if operation.startswith(place) and not slept:
                slept.append(operation)
                site.collect()
                site.seal("a")

        site.collect(Watched(site.store.directory, sleep))
        assert slept
        assert site.is_whole(sealed, "a"), place
        site.days_pass()
        site.collect()


def test_a_collection_asks_for_names_after_it_has_looked(site: Site) -> None:
    """Somebody names weights while the plan is being made."""
    sealed = site.seal("a")
    site.days_pass()
    looked: list[str] = []

    def names(asked: Asked) -> Answer:
        def late() -> Any:
            assert any(operation.startswith("entries weights") for operation in looked)
            yield Named(key=directory_key(sealed.digest), reason="just named")

        return Answer(named=late())

    store = Watched(site.store.directory, looked.append)
    plan = plan_collection(store, site.clock, grace_seconds=-1.0, protectors={"late": names})
    assert [one.reason for one in plan.others] == ["just named"]


def test_a_note_is_not_taken_for_a_manifest(site: Site) -> None:
    sealed = site.seal("a")
    site.days_pass()
    site.collect()
    assert site.store.exists(collected_key(sealed.manifest_key))
    leavings: list[Leaving] = list(site.plan().others)
    assert leavings == []


def test_any_store_collects_weights_and_takes_them_again(any_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"0123" * 1000)
    clock = FixedClock(time.time())
    for number in (1, 2):
        sealed = seal_directory(any_store, source, clock=clock)
        assert (open_directory(any_store, sealed.digest, clock=clock) / "model.safetensors").stat().st_size == 4000
        clock.advance(2 * HELD_SECONDS)
        plan = plan_collection(any_store, clock, grace_seconds=-1.0, protectors={})
        assert [one.key for one in collect(any_store, clock, plan).leavings] == [directory_key(sealed.digest)]
        assert was_collected(any_store, sealed.digest)
        assert len(any_store.list("weights")) == 2 * number
