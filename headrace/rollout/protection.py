"""What rollouts need of a store, and which objects of old trials nobody reads any more.

A rollout names the weights of its stable set, of the previous one (to go back to), of the candidate, of a proposal, and
of every set that lost such a place less than the grace time ago. Sets themselves are never deleted. Evidence, caps and
preparation records of the present trial stay, or of the last one; those of earlier trials go, while their decisions and
figures stay in the journal. An unreadable journal may name anything: then no weights go, and nothing of its rollout.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

from headrace.errors import HandoffCorrupt, IllegalTransition, ObjectMissing
from headrace.rollout import states
from headrace.rollout.aliases import projections
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.layout import What, rollout_names, rollout_prefix
from headrace.rollout.states import fold
from headrace.rollout.status import last_trial, previous_stable
from headrace.store.listings import by_prefix, size_and_time
from headrace.store.protection import Answer, Asked, Leaving, Named, all_weights
from headrace.store.sealed_directory import directory_key
from headrace.store.tombstones import Condemned
from headrace.version_sets.sets import VersionSets


def protection(asked: Asked) -> Answer:
    named: list[Named] = []
    leavings: list[Leaving] = []
    for name in rollout_names(asked.objects):
        try:
            entries = Journal(asked.objects, name, asked.clock).entries()
            named += _named(asked, name, entries)
            leavings += _leavings(asked, name, entries)
        except (HandoffCorrupt, IllegalTransition) as error:
            if isinstance(error, HandoffCorrupt):
                asked.damaged(error)
            named.append(all_weights(f"journal {name} cannot be read"))
    return Answer(named=named, leavings=leavings)


def weights_of(asked: Asked, version_set: str, who: str) -> Iterator[Named]:
    """Names the weights of a set that `who` needs."""
    try:
        members = VersionSets(asked.objects).get(version_set).members
    except (HandoffCorrupt, ObjectMissing) as error:
        if isinstance(error, HandoffCorrupt):
            asked.damaged(error)
        yield all_weights(f"version set {version_set[:12]}, of {who}, cannot be read")
        return
    for member in members:
        if member.is_registered:
            yield Named(key=directory_key(member.weights_digest), reason=f"{who}: version set {version_set[:12]}")


def _named(asked: Asked, name: str, entries: Sequence[Entry]) -> Iterator[Named]:
    state = fold(entries)
    if state is None:
        return
    # Sets in place when the grace time began, and sets that came later.
    old = list(takewhile(lambda entry: asked.now - entry.at > asked.grace_seconds, entries))
    before = fold(old)
    young = {entry.fields.get("version_set") for entry in entries[len(old) :]}
    young |= {before.stable, before.candidate, before.proposed} if before else set()
    places = {
        state.stable: "stable",
        previous_stable(entries): "the stable one before",
        state.candidate: "on trial",
        state.proposed: "proposed",
    }
    for version_set, place in places.items():
        if version_set:
            yield from weights_of(asked, version_set, f"rollout {name}, {place}")
    for version_set in sorted(one for one in young if one and one not in places):
        yield from weights_of(asked, version_set, f"rollout {name}, there less than the grace time ago")


def _leavings(asked: Asked, name: str, entries: Sequence[Entry]) -> Iterator[Leaving]:
    trial = last_trial(entries)
    proposals = [entry.number for entry in entries if entry.event == states.PROPOSED]
    named = {trial.trial if trial else 0, proposals[-1] if proposals else 0}
    if trial is not None:
        # Its nodes' records lie under the proposal from which it started.
        named |= {max((number for number in proposals if number < trial.trial), default=0)}
    for what in ("evidence", "caps", "prepared"):
        yield from _of_earlier_entries(asked, name, what, named)
    chain = projections(asked.objects, name)
    sizes = {entry.key: entry.num_bytes for entry in asked.objects.entries(chain.prefix)}
    for number in chain.made(key.rpartition("/")[2] for key in sizes)[:-1]:
        key = chain.key(number)
        yield _leaving(f"aliases of {name} after entry {number}", key, sizes[key], "later ones were written")


def _of_earlier_entries(asked: Asked, name: str, what: What, named: set[int]) -> Iterator[Leaving]:
    root = rollout_prefix(name, what)
    for prefix, listed in by_prefix(asked.objects.entries(root), depth=root.count("/") + 2).items():
        entry = prefix.rpartition("/")[2]
        num_bytes, written_at = size_and_time(listed)
        if not entry.isdecimal() or int(entry) in named or asked.now - written_at <= asked.grace_seconds:
            continue
        reason = f"of entry {int(entry)}, whose trial is over and not the last one"
        yield _leaving(f"{what} of {name}", prefix, num_bytes, reason)


def _leaving(label: str, key: str, num_bytes: int, reason: str) -> Leaving:
    """An object that nobody reads, and whose late writer decides nothing with it: it needs no lease check."""
    condemned = Condemned(prefix=key, clears=True, manifest_key=key if key.endswith(".json") else None)
    return Leaving(kind="evidence", label=label, key=key, num_bytes=num_bytes, reason=reason, condemned=condemned)
