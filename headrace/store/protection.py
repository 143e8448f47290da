"""Who protects what from garbage collection, asked of everybody that is installed (entry points `headrace.protection`).

    [project.entry-points."headrace.protection"]
    rollout = "headrace.rollout.protection:protection"

A room's answer says two things: which objects it names, by key, so that they stay whatever their age; and what it holds
itself that it has no use for any more. The collection asks everybody, drops what anybody names, and takes the rest
against the leases of that moment (`headrace.store.taking`). Whoever cannot tell what it names says that it names all:
a guess would delete it. Something that is named by nobody yet is protected by a lease (`headrace.store.leases`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from headrace.clock import Clock
from headrace.errors import InvalidInput
from headrace.store.objects import ObjectStore
from headrace.store.sealed_directory import WEIGHTS
from headrace.store.small_objects import Damaged
from headrace.store.tombstones import Condemned

PROTECTION = "headrace.protection"
# Without what these say, a collection would take what they name.
_ROOMS = frozenset({"generation", "rollout", "serving", "training"})
# These ask a service beside the store, and whoever collects says where it is.
OUTSIDE = frozenset({"dagster", "mlflow"})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a room is asked about.

    Attributes:
        now: seconds since the epoch by the store's clock, at the latest; ages of objects are told by it.
        clock: this machine's.
        grace_seconds: how long what was superseded, or left behind, stays at least.
        damaged: told of what cannot be read; whatever it may name is then named.
        environment: where services beside the store are.
    """

    objects: ObjectStore
    now: float
    clock: Clock
    grace_seconds: float
    damaged: Damaged
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Named:
    """Something that stays, and why, for people.

    Attributes:
        key: of the object that makes it be there; one that ends in `/`: of everything below.
        while_newest: only while the newest versions beside it hold the same content.
    """

    key: str
    reason: str
    while_newest: bool = False


def all_weights(why: str) -> Named:
    """What somebody says who cannot tell which weights he names."""
    return Named(key=f"{WEIGHTS}/", reason=f"{why}, and may name them")


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """What its owner has no use for any more, or keeps for a reason of its own.

    Attributes:
        kind: a noun for people: `weights`, `checkpoint`.
        label: which one.
        key: by which others name it.
        reason: why it may go, or stays.
        condemned: what would be deleted.
        nonce: under which whoever reads or writes it holds leases; None: nobody looks at it any more.
        also_leased: nonces whose leases protect it too.
        is_needed: asked once more when nobody can begin to read it; None: nothing can have come in between.
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


@dataclass(frozen=True, kw_only=True)
class Answer:
    named: Iterable[Named] = ()
    leavings: Iterable[Leaving] = ()


Protector = Callable[[Asked], Answer]


class Protections:
    """What everybody named, by key."""

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
        """Why it stays; None: nobody names it."""
        if one := self._exact.get(key):
            return one.reason
        if is_newest_content and (one := self._while_newest.get(key)):
            return one.reason
        return next((one.reason for prefix, one in self._below.items() if key.startswith(prefix)), None)


def installed(*, without: Collection[str] = OUTSIDE) -> dict[str, Protector]:
    """Everybody who protects something, by name.

    Raises:
        InvalidInput: one of Headrace's own rooms is not there, or one that is there does not load.
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
