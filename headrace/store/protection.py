"""Asks every installed room what it protects from garbage collection (entry points `headrace.protection`).

    [project.entry-points."headrace.protection"]
    rollout = "headrace.rollout.protection:protection"

A room answers with objects that must stay whatever their age, by key; with its own objects that it no longer needs; and
with tables that stay as long as what they belong to. The collection asks all rooms, keeps what any of them names, and
deletes the rest unless a lease holds it then (`headrace.store.taking`). A room that cannot tell what it names must name
everything: a guess would delete data. A lease (`headrace.store.leases`) protects an object that nobody names yet.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headrace.clock import Clock
from headrace.errors import InvalidInput
from headrace.store.objects import Entry, ObjectStore
from headrace.store.sealed_directory import WEIGHTS
from headrace.store.small_objects import Damaged
from headrace.store.tombstones import Condemned

PROTECTION = "headrace.protection"
# Without these rooms' answers a collection would delete what they name.
_ROOMS = frozenset({"generation", "rollout", "serving", "training"})
# These ask a service outside the store; the collecting process says where it is.
OUTSIDE = frozenset({"dagster", "mlflow"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The question that a room is asked.

    Attributes:
        now: seconds since the epoch, at the latest, by the store's clock; ages of objects are measured from it.
        clock: this machine's.
        grace_seconds: how long superseded or abandoned objects stay at least.
        damaged: called with each unreadable object; everything that it may name then counts as named.
        environment: says where services outside the store are.
    """

    objects: ObjectStore
    now: float
    clock: Clock
    grace_seconds: float
    damaged: Damaged
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Named:
    """An object that stays, and the reason to show people.

    Attributes:
        key: of the object that makes the rest visible; a key that ends in `/` stands for everything below it.
        while_newest: stays only while the newest versions beside it hold the same content.
    """

    key: str
    reason: str
    while_newest: bool = False


def all_weights(why: str) -> Named:
    """The answer of a room that cannot tell which weights it names."""
    return Named(key=f"{WEIGHTS}/", reason=f"{why}, and may name them")


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """An object that its owner no longer needs, or keeps for its own reason.

    Attributes:
        kind: a noun for people: `weights`, `checkpoint`.
        label: which one of its kind.
        key: the key by which others name it.
        reason: why it may go, or stays.
        condemned: what would be deleted.
        nonce: the nonce under which its readers and writers hold leases; None: it has no readers any more.
        also_leased: further nonces whose leases protect it.
        is_needed: asked again once no reader can begin; None: nothing can have changed in between.
        needs: the key of another object that stays while this one does.
    """

    kind: str
    label: str
    key: str
    num_bytes: int
    reason: str
    condemned: Condemned
    is_kept: bool = False
    nonce: str | None = None
    also_leased: tuple[str, ...] = ()
    is_needed: Callable[[], bool] | None = None
    needs: str | None = None

    @classmethod
    def of_object(cls, entry: Entry, *, kind: str, label: str, reason: str) -> "Leaving":
        """One object that goes by itself."""
        condemned = Condemned(prefix=entry.key, clears=True, manifest_key=entry.key)
        return cls(kind=kind, label=label, key=entry.key, num_bytes=entry.num_bytes, reason=reason, condemned=condemned)


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """A table without which another one of the same partition tells less: for each version of `of` that stays, the
    newest version of `asset` that belongs to it stays.

    Attributes:
        belongs: whether it does, from the facts in the manifests of both (`Manifest.facts`): first the `asset`'s.
    """

    asset: str
    of: str
    belongs: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


@dataclass(frozen=True, kw_only=True)
class Answer:
    named: Iterable[Named] = ()
    leavings: Iterable[Leaving] = ()
    belongings: Iterable[Belonging] = ()


Protector = Callable[[Asked], Answer]


class Protections:
    """What all rooms named, by key."""

    def __init__(self, named: Iterable[Named] = ()) -> None:
        self._exact: dict[str, Named] = {}
        self._below: dict[str, Named] = {}
        self._while_newest: dict[str, Named] = {}
        for one in named:
            if one.key.endswith("/"):
                self._below.setdefault(one.key, one)
            else:
                (self._while_newest if one.while_newest else self._exact).setdefault(one.key, one)

    def of(self, key: str, *, is_newest_content: bool = False) -> str | None:
        """Why the object stays; None: nobody names it."""
        if one := self._exact.get(key):
            return one.reason
        if is_newest_content and (one := self._while_newest.get(key)):
            return one.reason
        return next((one.reason for prefix, one in self._below.items() if key.startswith(prefix)), None)


def installed(*, without: Collection[str] = OUTSIDE) -> dict[str, Protector]:
    """Every installed room that protects something, by name.

    Raises:
        InvalidInput: one of Headrace's own rooms is missing, or an installed one does not load.
    """
    points = {point.name: point for point in entry_points(group=PROTECTION)}
    if missing := sorted(_ROOMS - points.keys()):
        raise InvalidInput(
            f"This installation does not say what {', '.join(missing)} protects (no such entry point of {PROTECTION}): "
            "install Headrace again."
        )
    return {name: _loaded(point) for name, point in sorted(points.items()) if name not in without}


def _loaded(point: EntryPoint) -> Protector:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.name
        raise InvalidInput(f"What {point.name} protects cannot be asked ({error}): install {package} again.") from error
