"""The steps by which a version set makes a row: its text, then whatever is painted and spoken of it. Pure.

A step's seed comes from what led to it, not from the whole set: the prompt, and the members whose output it reads. For
a picture or a recording these are the writers and its own maker, so a new painter leaves every text and every recording
as it was, byte for byte, and two painters are compared on the same texts. A set whose members all write leads to its
texts as a whole: its seeds are those that it had before there were steps.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSet


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a chain.

    Attributes:
        roles: those that write together, one after the other, or the one that paints or speaks; none where prompts are
            taken as they are.
        led_to_by: the id of the set of the members that lead to it.
    """

    kind: MemberKind
    roles: tuple[str, ...]
    led_to_by: str

    @property
    def role(self) -> str:
        """The role whose output it is."""
        return self.roles[-1]


def steps_of(version_set: VersionSet) -> tuple[Step, ...]:
    """The steps in their order; the first one makes the texts."""
    order = version_set.chain or tuple(member.role for member in version_set.members)
    kinds: dict[str, MemberKind] = {member.role: member.kind for member in version_set.members}
    writers = tuple(role for role in order if kinds[role] == "text")
    makers = tuple(role for role in order if kinds[role] != "text")
    if not makers:
        return (Step(kind="text", roles=writers, led_to_by=version_set.id),)
    texts = Step(kind="text", roles=writers, led_to_by=_part(version_set, *writers).id if writers else "")
    return (
        texts,
        *(Step(kind=kinds[one], roles=(one,), led_to_by=_part(version_set, *writers, one).id) for one in makers),
    )


def media_kinds(steps: Iterable[Step]) -> tuple[MemberKind, ...]:
    """The kinds of media that the steps make, each once."""
    kinds: dict[MemberKind, None] = {step.kind: None for step in steps if step.kind != "text"}
    return tuple(kinds)


def _part(version_set: VersionSet, *roles: str) -> VersionSet:
    """The set of these members alone. One writer's is the set of a campaign that has no other role."""
    *earlier, role = roles
    if earlier:
        members = tuple(member for member in version_set.members if member.role in roles)
        return replace(version_set, members=members, chain=roles)
    member = version_set.member(role)
    alone = (replace(member, engine=None),)
    return replace(version_set, members=alone, engine=member.engine or version_set.engine, chain=())
