"""What attempts under way make, by the version sets that they pin: a campaign's file may say something else by now."""

from headrace.errors import HandoffCorrupt, ObjectMissing
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.claims import unsettled
from headrace.generation.micro_batches import committed
from headrace.generation.steps import Step, media_kinds, steps_of
from headrace.rollout.states import RolloutState
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.version_sets.media_settings import MemberKind
from headrace.version_sets.sets import VersionSets


def claims_under_way(objects: ObjectStore, campaign: str) -> dict[str, Claim]:
    """Partition → its attempt that is not settled. Unreadable claims are left out: their runs say so."""
    claims = unsettled(objects, campaign, damaged=PassedOver())
    return {claim.partition: claim for claim in claims if claim.kind == "content"}


def makers_of(objects: ObjectStore, version_set: str) -> tuple[str, ...]:
    """The roles of a set that paint or speak; none, too, if the set cannot be read."""
    return tuple(step.role for step in _steps(objects, version_set)[1:])


def makes_media(objects: ObjectStore, campaign: Campaign, state: RolloutState | None, claim: Claim | None) -> bool:
    """Whether a run at a partition may have to paint or speak.

    Args: claim: its attempt under way.
    """
    if campaign.makers:
        return True
    sets = [state.stable, state.candidate] if state else []
    return any(makers_of(objects, one) for one in [*sets, claim.version_set if claim else None] if one)


def num_committed(objects: ObjectStore, claim: Claim, num_rows: int) -> int:
    """An attempt's rows that are made, of `num_rows`. Of a chain each step counts for its share of a row."""
    steps = _steps(objects, claim.version_set)
    roles = ["", *(step.role for step in steps[1:])]
    made = sum(min(len(committed(objects, claim, role)) * claim.micro_batch_rows, num_rows) for role in roles)
    return made // len(roles)


def unmade_kinds(objects: ObjectStore, claim: Claim, num_rows: int) -> tuple[MemberKind, ...]:
    """The kinds of which an attempt lacks parts, in the order of its chain; texts alone as long as they are not made.

    Texts, too, if its set cannot be read: their run says so.

    Args: num_rows: of its partition.
    """
    num_batches = -(-num_rows // claim.micro_batch_rows)
    steps = _steps(objects, claim.version_set)
    if not steps or len(committed(objects, claim)) < num_batches:
        return ("text",)
    return media_kinds(step for step in steps[1:] if len(committed(objects, claim, step.role)) < num_batches)


def _steps(objects: ObjectStore, version_set: str) -> tuple[Step, ...]:
    try:
        return steps_of(VersionSets(objects).get(version_set))
    except (ObjectMissing, HandoffCorrupt):
        return ()
