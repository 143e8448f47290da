"""Who makes a content partition, from which inputs and on which version set: decided once, by `create`.

Three kinds of small objects, each made by exactly one writer and never changed:

| object | says | made |
|---|---|---|
| run pin | which inputs a run and its retries read; after which attempt its own one comes | when a run begins |
| claim | attempt N of a partition on these inputs: its version set | when no attempt serves the run |
| settlement | the attempt is `sealed` or `void` | at its end, before anything is published |

The settlement is what makes "aborted" and "sealed" exclude each other: a worker that slept through an abort finds its
attempt void, and publishes nothing; a rollback that comes after `sealed` changes nothing. Claim and rollout journal are
two keys, so the journal's head is read *after* the claim is made, and again before it is settled. A void attempt's
micro-batches are dropped before the next attempt is opened.

A mirror (`headrace.generation.mirroring`) is claimed in the same way under keys of its own; its claim says so, and what
is made under it is never published as content.

Workers that meet on one claim share its work; they need no lock. The price is that both may run one micro-batch.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

from headrace.clock import Clock, iso
from headrace.errors import HandoffMissing, InvalidInput, ObjectMissing
from headrace.generation.campaign import GENERATION_CODE_VERSION, Campaign
from headrace.generation.dispatch import Places
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition, digest_text, partition_path
from headrace.rollout.assignment import assign
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.store.objects import ObjectStore, create_json

Regenerate = Literal["keep_set", "current_set", "rolled_back"]

_ATTEMPT = re.compile(r"a(\d{4,})\.json")
_SETTLED = ".settled.json"
_ROOT = "claims/generated_content"
_ID = {"content": "claim", "mirror": "mirror"}


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
    # Of a mirror nothing is published, and its keys are its own.
    kind: Literal["content", "mirror"] = "content"

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
            if is_void:
                # Before the next attempt is there: afterwards nobody looks at this one again.
                self.drop_batches(last)
            keeps_set = regenerate == "keep_set" and not is_void
            create(
                attempt=last.attempt + 1,
                version_set=last.version_set if keeps_set else self._assigned(campaign, partition),
                reason=settlement.reason if is_void else f"regenerate: {regenerate}",
            )

    def open_mirror(
        self, campaign: Campaign, partition: ContentPartition, prompts: Handoff, version_set: str, *, root_run_id: str
    ) -> Claim:
        """The one attempt at a mirror of a partition on a version set, whoever asks for it.

        It may be under way, sealed or void: its set was rolled back, and no set is tried twice.
        """
        digest = mirror_digest(prompts, version_set)
        pin = {"inputs": {prompts.asset: prompts.version}, "inputs_digest": digest}
        if not self.objects.exists(_claim_key(partition.key, digest, 1, "mirror")):
            self._create(
                campaign,
                partition,
                pin,
                root_run_id,
                attempt=1,
                version_set=version_set,
                reason="mirror",
                kind="mirror",
            )
        claim = self._read(partition.key, digest, 1, "mirror")
        # After the claim is made: of an abort that came first, one of the two is seen by whoever comes next.
        if self.settlement(claim) is None and (reason := self.abort_of(claim)):
            self.settle(claim, "void", reason)
        return claim

    def places(self, state: RolloutState | None, partition_keys: Iterable[str]) -> Places | None:
        """What the candidate's cap allows of these partitions, for `dispatch`; takes no place. None: no cap."""
        if state is None or state.candidate is None or state.cap is None:
            return None
        leases = CapLeases(self.objects, self.journal.name, self.clock)
        # Under a cap of 0 nobody gets a place, and whoever has one is told so.
        taken = frozenset(key for key in partition_keys if leases.take_for(state.trial, 0, key))
        return Places(taken=taken, num_left=max(0, state.cap - leases.num_leased(state.trial)))

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

    def drop_batches(self, claim: Claim) -> None:
        """Take away what a void attempt made. What a worker that slept commits later, that worker drops itself."""
        settlement = self.settlement(claim)
        assert settlement is not None, "an attempt under way has its rows in its micro-batches alone"
        if settlement.outcome == "void":
            self.objects.delete_prefix(claim.batches_prefix)
            # Two that delete at the same time may stop each other half-way.
            while self.objects.list(claim.batches_prefix):
                self.objects.delete_prefix(claim.batches_prefix)

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
        pin = {
            "inputs": {prompts.asset: prompts.version},
            "inputs_digest": digest,
            "after_attempt": self._sealed_to_replace(partition.key, digest, regenerate),
        }
        return create_json(self.objects, key, pin).body

    def _sealed_to_replace(self, partition_key: str, digest: str, regenerate: Regenerate | None) -> int:
        """The sealed attempt that a run is to make again; 0: none, what is sealed serves it."""
        if regenerate is None:
            return 0
        sealed = [claim for claim in self.attempts(partition_key, digest) if self._is_sealed(claim)]
        if not sealed or (regenerate == "rolled_back" and not self.abort_of(sealed[-1])):
            return 0
        return sealed[-1].attempt

    def _is_sealed(self, claim: Claim) -> bool:
        settlement = self.settlement(claim)
        return settlement is not None and settlement.outcome == "sealed"

    def _assigned(self, campaign: Campaign, partition: ContentPartition) -> str:
        """The set that a new attempt starts on. Where the candidate has a cap, it takes its place out of it first.

        A worker that dies before its claim is made leaves a place taken, which the partition finds again.
        """
        state = self._state(campaign)
        version_set = assign(state, campaign.plan.salt, partition.key, campaign.partition_keys(partition.day))
        if version_set == state.stable or state.cap is None:
            return version_set
        leases = CapLeases(self.objects, campaign.name, self.clock)
        return version_set if leases.take_for(state.trial, state.cap, partition.key) else state.stable

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
        kind: Literal["content", "mirror"] = "content",
    ) -> None:
        """A lost race is as good as a won one: the caller reads what is there."""
        claim = Claim(
            id=digest_text(_ID[kind], partition.key, pin["inputs_digest"], str(attempt))[:32],
            campaign=campaign.name,
            partition=partition.key,
            inputs=pin["inputs"],
            inputs_digest=pin["inputs_digest"],
            attempt=attempt,
            version_set=version_set,
            micro_batch_rows=campaign.micro_batch_rows,
            # A mirror of a set that was rolled back is of no use to anybody.
            on_abort=campaign.plan.on_abort if kind == "content" else "repin",
            reason=reason,
            root_run_id=root_run_id,
            created_at=iso(self.clock.now()),
            kind=kind,
        )
        create_json(self.objects, _claim_key(partition.key, claim.inputs_digest, attempt, kind), asdict(claim))

    def _last_attempt(self, partition_key: str, digest: str) -> Claim | None:
        attempts = self.attempts(partition_key, digest)
        return attempts[-1] if attempts else None

    def _read(
        self, partition_key: str, digest: str, attempt: int, kind: Literal["content", "mirror"] = "content"
    ) -> Claim:
        return _claim(_read_json(self.objects, _claim_key(partition_key, digest, attempt, kind)))


def inputs_digest(prompts: Handoff) -> str:
    """Names the inputs of an attempt by what they hold: the same prompts sealed again are the same inputs."""
    return digest_text("inputs", GENERATION_CODE_VERSION, prompts.asset, prompts.content_digest)


def mirror_digest(prompts: Handoff, version_set: str) -> str:
    """Names a mirror by what its rows follow from; no content has this digest, so the two never share a claim."""
    return digest_text("mirror", inputs_digest(prompts), version_set)


def mirror_run_key(partition_key: str, root_run_id: str) -> str:
    """What a run that mirrors a partition pinned: the set, and the versions that it reads."""
    return f"{_partition_prefix(partition_key, 'mirror')}/runs/{root_run_id}.json"


def unsettled(objects: ObjectStore, campaign: str) -> list[Claim]:
    """Attempts and mirrors of a campaign that are under way, or that their worker left. One listing."""
    keys = objects.list(_ROOT)
    settled = {key.removesuffix(_SETTLED) for key in keys if key.endswith(_SETTLED)}
    claims = []
    for key in keys:
        if _ATTEMPT.fullmatch(key.rpartition("/")[2]) and key.removesuffix(".json") not in settled:
            body = _read_json(objects, key)
            if body["campaign"] == campaign:
                claims.append(_claim(body))
    return claims


def check_regenerate(value: str | None) -> Regenerate | None:
    """A run config's `regenerate`; empty and None mean no.

    Raises:
        InvalidInput: another word.
    """
    if not value:
        return None
    if value not in ("keep_set", "current_set", "rolled_back"):
        raise InvalidInput(f"regenerate must be keep_set, current_set or rolled_back, or left out, got {value!r}.")
    return value


def _partition_prefix(partition_key: str, kind: str = "content") -> str:
    # Under the partition that they mirror: garbage collection reads both kinds in one listing.
    return f"{_ROOT}/{partition_path(partition_key)}" + ("/mirrors" if kind == "mirror" else "")


def _prefix(partition_key: str, digest: str, kind: str = "content") -> str:
    return f"{_partition_prefix(partition_key, kind)}/{digest[:16]}"


def _claim_key(partition_key: str, digest: str, attempt: int, kind: str = "content") -> str:
    return f"{_prefix(partition_key, digest, kind)}/a{attempt:04d}.json"


def _settlement_key(claim: Claim) -> str:
    return f"{_prefix(claim.partition, claim.inputs_digest, claim.kind)}/a{claim.attempt:04d}{_SETTLED}"


def _read_json(objects: ObjectStore, key: str) -> dict[str, Any]:
    return json.loads(objects.read(key))


def _claim(body: Mapping[str, Any]) -> Claim:
    # Claims of earlier releases lack the newest fields, which have defaults.
    return Claim(**{field.name: body[field.name] for field in fields(Claim) if field.name in body})
