"""Who makes a content partition, from which inputs and on which version set: decided once, by `create`.

Three kinds of small objects, each made by exactly one writer and never changed:

| object | says | made |
|---|---|---|
| run pin | which inputs a run and its retries read; after which attempt its own one comes | when a run begins |
| claim | attempt N of a partition on these inputs: its version set | when no attempt serves the run |
| settlement | the attempt is `sealed` or `void` | at its end, before anything is published |

The settlement is what makes "aborted" and "sealed" exclude each other: a worker that slept through an abort finds its
attempt void, and publishes nothing; a rollback that comes after `sealed` changes nothing. Claim and rollout journal are
two keys, so the journal's head is read *after* the claim is made, and again before it is settled.

Workers that meet on one claim share its work; they need no lock. The price is that both may run one micro-batch.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

from headrace.clock import Clock, iso
from headrace.errors import HandoffMissing, InvalidInput, ObjectMissing
from headrace.generation.campaign import GENERATION_CODE_VERSION, Campaign
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition, digest_text, partition_path
from headrace.rollout.assignment import assign
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.store.objects import ObjectStore, create_json

Regenerate = Literal["keep_set", "current_set"]

_ATTEMPT = re.compile(r"a(\d{4,})\.json")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt at one partition. Everything that can change its rows is pinned here or in the version set."""

    id: str
    campaign: str
    partition: str
    # Asset → sealed version that the attempt reads; the digest is over what those versions hold.
    inputs: Mapping[str, int]
    inputs_digest: str
    attempt: int
    version_set: str
    # Part of the plan of micro-batches: a resume must cut the rows as the first worker did.
    micro_batch_rows: int
    # What happens if the set is rolled back before the attempt is settled.
    on_abort: Literal["repin", "finish_unpublished"]
    # Why this attempt was opened, for people.
    reason: str
    root_run_id: str
    created_at: str

    def batch_key(self, index: int) -> str:
        return f"{self.batches_prefix}/b{index:05d}.arrow"

    @property
    def batches_prefix(self) -> str:
        return f"batches/{self.id}"


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """How an attempt ended."""

    outcome: Literal["sealed", "void"]
    reason: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The claims of one campaign's partitions."""

    objects: ObjectStore
    journal: Journal
    clock: Clock

    def open(
        self,
        campaign: Campaign,
        partition: ContentPartition,
        prompts: Handoff,
        *,
        root_run_id: str,
        regenerate: Regenerate | None = None,
    ) -> Claim:
        """The attempt that a run has to finish, or that is finished already (see `settlement`).

        Unchanged inputs lead to the attempt that is there; changed ones, a void attempt or `regenerate` to the next. A
        retry (the same `root_run_id`) finds what its first try found, whatever was sealed since: `regenerate` makes one
        new attempt a run, not one a retry.

        Args:
            prompts: the newest version; a retry reads the one that its run pinned.

        Raises:
            HandoffMissing: the campaign has no version set yet.
        """
        pin = self._pin_run(partition, prompts, root_run_id, regenerate)
        create = partial(self._create, campaign, partition, pin, root_run_id)
        # Each pass reads what is there. A claim that this loop makes is judged by the next pass like anybody's, so the
        # journal is read after the claim is made.
        while True:
            last = self._last_attempt(partition.key, pin["inputs_digest"])
            if last is None:
                create(attempt=1, version_set=self._assigned(campaign, partition), reason="first attempt")
                continue
            settlement = self.settlement(last)
            if settlement is None:
                if last.on_abort == "repin" and (reason := self.abort_of(last)):
                    self.settle(last, "void", reason)
                    continue
                return last
            if settlement.outcome == "sealed" and last.attempt > pin["after_attempt"]:
                return last
            is_void = settlement.outcome == "void"
            keeps_set = regenerate == "keep_set" and not is_void
            create(
                attempt=last.attempt + 1,
                version_set=last.version_set if keeps_set else self._assigned(campaign, partition),
                reason=settlement.reason if is_void else f"regenerate: {regenerate}",
            )

    def settlement(self, claim: Claim) -> Settlement | None:
        """How the attempt ended; None while it is under way."""
        try:
            body = _read_json(self.objects, _settlement_key(claim))
        except ObjectMissing:
            return None
        return Settlement(outcome=body["outcome"], reason=body["reason"], at=body["at"])

    def settle(self, claim: Claim, outcome: Literal["sealed", "void"], reason: str) -> Settlement:
        """End an attempt. The first writer decides; everybody gets that decision back."""
        body = {"outcome": outcome, "reason": reason, "at": iso(self.clock.now())}
        body = create_json(self.objects, _settlement_key(claim), body).body
        return Settlement(outcome=body["outcome"], reason=body["reason"], at=body["at"])

    def abort_of(self, claim: Claim) -> str | None:
        """Why the claim's version set was taken back, if it was."""
        state = fold(self.journal.entries())
        if state is None or claim.version_set not in state.aborted:
            return None
        return f"version set {claim.version_set[:12]} was rolled back"

    def attempts(self, partition_key: str, inputs_digest: str) -> list[Claim]:
        """All attempts at a partition on these inputs, oldest first."""
        prefix = _prefix(partition_key, inputs_digest)
        numbers = sorted(int(match[1]) for match in map(_ATTEMPT.fullmatch, self.objects.children(prefix)) if match)
        return [self._read(partition_key, inputs_digest, number) for number in numbers]

    def _pin_run(
        self, partition: ContentPartition, prompts: Handoff, root_run_id: str, regenerate: Regenerate | None
    ) -> dict[str, Any]:
        key = f"{_partition_prefix(partition.key)}/runs/{root_run_id}.json"
        try:
            return _read_json(self.objects, key)
        except ObjectMissing:
            pass
        digest = inputs_digest(prompts)
        sealed = 0
        if regenerate is not None:
            sealed = max(
                (claim.attempt for claim in self.attempts(partition.key, digest) if self._is_sealed(claim)), default=0
            )
        pin = {"inputs": {prompts.asset: prompts.version}, "inputs_digest": digest, "after_attempt": sealed}
        return create_json(self.objects, key, pin).body

    def _is_sealed(self, claim: Claim) -> bool:
        settlement = self.settlement(claim)
        return settlement is not None and settlement.outcome == "sealed"

    def _assigned(self, campaign: Campaign, partition: ContentPartition) -> str:
        state = self._state(campaign)
        return assign(state, campaign.plan.salt, partition.key, campaign.partition_keys(partition.day))

    def _state(self, campaign: Campaign) -> RolloutState:
        state = fold(self.journal.entries())
        if state is None:
            raise HandoffMissing(
                f"Campaign {campaign.name!r} has no version set yet: nothing was rolled out. "
                f"Materialize rollout[{campaign.name}] once a model is registered."
            )
        return state

    def _create(
        self,
        campaign: Campaign,
        partition: ContentPartition,
        pin: Mapping[str, Any],
        root_run_id: str,
        *,
        attempt: int,
        version_set: str,
        reason: str,
    ) -> None:
        """A lost race is as good as a won one: the caller reads what is there."""
        claim = Claim(
            id=digest_text("claim", partition.key, pin["inputs_digest"], str(attempt))[:32],
            campaign=campaign.name,
            partition=partition.key,
            inputs=pin["inputs"],
            inputs_digest=pin["inputs_digest"],
            attempt=attempt,
            version_set=version_set,
            micro_batch_rows=campaign.micro_batch_rows,
            on_abort=campaign.plan.on_abort,
            reason=reason,
            root_run_id=root_run_id,
            created_at=iso(self.clock.now()),
        )
        create_json(self.objects, _claim_key(partition.key, claim.inputs_digest, attempt), asdict(claim))

    def _last_attempt(self, partition_key: str, digest: str) -> Claim | None:
        attempts = self.attempts(partition_key, digest)
        return attempts[-1] if attempts else None

    def _read(self, partition_key: str, digest: str, attempt: int) -> Claim:
        body = _read_json(self.objects, _claim_key(partition_key, digest, attempt))
        return Claim(**{field.name: body[field.name] for field in fields(Claim)})


def inputs_digest(prompts: Handoff) -> str:
    """Names the inputs of an attempt by what they hold: the same prompts sealed again are the same inputs."""
    return digest_text("inputs", GENERATION_CODE_VERSION, prompts.asset, prompts.content_digest)


def check_regenerate(value: str | None) -> Regenerate | None:
    """A run config's `regenerate`; empty and None mean no.

    Raises:
        InvalidInput: another word.
    """
    if not value:
        return None
    if value not in ("keep_set", "current_set"):
        raise InvalidInput(f"regenerate must be keep_set or current_set, or left out, got {value!r}.")
    return value


def _partition_prefix(partition_key: str) -> str:
    return f"claims/generated_content/{partition_path(partition_key)}"


def _prefix(partition_key: str, digest: str) -> str:
    return f"{_partition_prefix(partition_key)}/{digest[:16]}"


def _claim_key(partition_key: str, digest: str, attempt: int) -> str:
    return f"{_prefix(partition_key, digest)}/a{attempt:04d}.json"


def _settlement_key(claim: Claim) -> str:
    return f"{_prefix(claim.partition, claim.inputs_digest)}/a{claim.attempt:04d}.settled.json"


def _read_json(objects: ObjectStore, key: str) -> dict[str, Any]:
    return json.loads(objects.read(key))
