"""What live serving needs of a store: the weights of every set that a session is pinned to."""

from collections.abc import Iterator

from headrace.rollout.layout import ROOT
from headrace.rollout.protection import weights_of
from headrace.serving.sessions import pinned_sets
from headrace.store.protection import Answer, Asked, Named


def protection(asked: Asked) -> Answer:
    return Answer(named=_named(asked))


def _named(asked: Asked) -> Iterator[Named]:
    for name in asked.objects.children(ROOT):
        # An unreadable pin binds nobody: its session continues with the stable set.
        for version_set in pinned_sets(asked.objects, name, asked.clock.now(), damaged=asked.damaged):
            yield from weights_of(asked, version_set, f"sessions of {name}")
