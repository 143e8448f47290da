"""Decides once, by `create`, from which inputs and on which version set a content partition is made.

The settlement (`headrace.generation.claim_objects`) makes "aborted" and "sealed" exclude each other: a worker that
slept through an abort finds its attempt void and publishes nothing; a rollback after `sealed` changes nothing. Claim
and rollout journal are two keys, so the journal's head is read *after* the claim is made, and again before the
settlement. A void attempt's micro-batches are dropped before the next attempt opens.

A mirror (`headrace.generation.mirroring`) is claimed in the same way under its own keys. Its claim is marked, and its
rows are never published as content.

Workers that meet on one claim share its work without a lock. The price: both may run one micro-batch.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from headrace.clock import Clock, iso
from headrace.errors import HandoffCollected, HandoffCorrupt, HandoffMissing, InvalidInput, ObjectMissing
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import (
    CLAIM,
    ROOT,
    RUN_PIN,
    SETTLED,
    SETTLEMENT,
    Claim,
    RunPin,
    Settlement,
    attempt_id,
    batches_prefix,
    claim_chain,
    inputs_digest,
    is_claim,
    mirror_digest,
    run_pin_key,
)
from headrace.generation.dispatch import Places
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import Handoff
from headrace.keys import ContentPartition, partition_from_path
from headrace.rollout.assignment import assign
from headrace.rollout.caps import CapLeases
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.store.chain import Chain
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import Damaged, create_object, read_object

Regenerate = Literal["keep_set", "current_set", "rolled_back"]


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
        """The attempt that a run must finish, or that is finished already (see `settlement`).

        Unchanged inputs lead to the existing attempt; changed inputs, a void attempt or `regenerate` lead to a new one.
        A retry (with the same `root_run_id`) gets the same as its first try, whatever was sealed since: `regenerate`
        makes one new attempt for each run, not for each retry.

        Args:
            prompts: the newest version; a retry reads its run's pinned one.

        Raises:
            HandoffMissing: the campaign has no version set yet.
            HandoffCorrupt: the last attempt cannot be read; `regenerate: current_set` opens the next one instead.
        """
        pin = self._pin_run(partition, prompts, root_run_id, regenerate)
        create = partial(self._create, campaign, partition, pin, root_run_id)
        attempts = claim_chain(self.objects, partition.key, pin.inputs_digest)
        # Each pass reads the present state. The next pass also judges a claim that this loop makes, so the journal is
        # read after the claim is made.
        while True:
            try:
                newest = attempts.last()
                last = newest[1] if newest else None
                settlement = self.settlement(last) if last else None
            except HandoffCorrupt as damage:
                if regenerate != "current_set" or attempts.highest() > pin.after_attempt:
                    raise
                version_set = self._assigned(campaign, partition)
                reason = f"regenerate: current_set, {damage.key} cannot be read"
                ids = partial(attempt_id, "content", partition.key, pin.inputs_digest)
                self._pass_over(attempts, partial(create, version_set=version_set), reason, ids)
                continue
            if last is None:
                create(attempt=1, version_set=self._assigned(campaign, partition), reason="first attempt")
                continue
            if settlement is None:
                if last.on_abort == "repin" and (reason := self.abort_of(last)):
                    self.settle(last, "void", reason)
                    continue
                return last
            if settlement.outcome == "sealed" and last.attempt > pin.after_attempt:
                return last
            is_void = settlement.outcome == "void"
            if is_void:
                # Before the next attempt exists: afterwards nobody looks at this one again.
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
        """The single attempt at a mirror of a partition on a version set; skips an attempt that cannot be read.

        It may be running, sealed or void: then its set was rolled back, and no set is tried twice.
        """
        digest = mirror_digest(prompts, version_set)
        pin = RunPin(inputs={prompts.asset: prompts.version}, inputs_digest=digest)
        chain, reason, claim = claim_chain(self.objects, partition.key, digest, "mirror"), "mirror", None
        create = partial(self._create, campaign, partition, pin, root_run_id, version_set=version_set, kind="mirror")
        while claim is None:
            try:
                if (newest := chain.last()) is None:
                    create(attempt=1, reason=reason)
                    continue
                claim = newest[1]
            except HandoffCorrupt as damage:
                # Nobody reads a mirror's rows, so another attempt does no harm.
                ids = partial(attempt_id, "mirror", partition.key, digest)
                self._pass_over(chain, create, f"mirror, {damage.key} cannot be read", ids)
        # Checked after the claim is made: if an abort came first, the next reader sees one of the two.
        if self.settlement(claim) is None and (reason := self.abort_of(claim)):
            self.settle(claim, "void", reason)
        return claim

    def places(self, state: RolloutState | None, partition_keys: Iterable[str]) -> Places | None:
        """The candidate's cap on these partitions, for `dispatch`; takes no place. None: there is no cap."""
        if state is None or state.candidate is None or state.cap is None:
            return None
        leases = CapLeases(self.objects, self.journal.name, self.clock)
        try:
            # A cap of 0 gives no new places, and shows which partitions have one.
            taken = frozenset(key for key in partition_keys if leases.take_for(state.trial, 0, key))
        except HandoffCorrupt:
            return Places(taken=frozenset(), num_left=0)
        return Places(taken=taken, num_left=max(0, state.cap - leases.num_leased(state.trial)))

    def settlement(self, claim: Claim) -> Settlement | None:
        """How the attempt ended; None while it runs."""
        try:
            return read_object(self.objects, self._settlement_key(claim), SETTLEMENT)
        except ObjectMissing:
            return None

    def settle(self, claim: Claim, outcome: Literal["sealed", "void"], reason: str) -> Settlement:
        """Ends an attempt. The first writer decides; every caller gets that decision back."""
        return self._settle(self._settlement_key(claim), outcome, reason)

    def end_unreadable(self, claim_key: str, reason: str) -> None:
        """Voids an attempt with an unreadable claim: nobody can resume it, and a worker that has it publishes
        nothing."""
        with suppress(HandoffCorrupt):  # an unreadable settlement stops publishing, too
            self._settle(claim_key.removesuffix(".json") + SETTLED, "void", reason)

    def drop_batches(self, claim: Claim) -> None:
        """Deletes a void attempt's rows. A worker that slept and commits later drops its rows itself."""
        settlement = self.settlement(claim)
        assert settlement is not None, "an attempt under way has its rows in its micro-batches alone"
        if settlement.outcome == "void":
            self.objects.delete_prefix(claim.batches_prefix)
            # A worker that has not seen the settlement yet may commit meanwhile.
            while self.objects.list(claim.batches_prefix):
                self.objects.delete_prefix(claim.batches_prefix)

    def abort_of(self, claim: Claim) -> str | None:
        """Why the claim's version set was rolled back; None: it was not."""
        state = fold(self.journal.entries())
        if state is None or claim.version_set not in state.aborted:
            return None
        return f"version set {claim.version_set[:12]} was rolled back"

    def attempts(self, partition_key: str, inputs_digest: str) -> list[Claim]:
        """All attempts at a partition on these inputs, oldest first."""
        chain = claim_chain(self.objects, partition_key, inputs_digest)
        return [chain.read(number) for number in chain.numbers()]

    def attempt_named(self, claim: Claim, claim_id: str) -> int:
        """The number of the attempt with this id on `claim`'s inputs; 0: there is none. Reads no claim."""
        numbers = claim_chain(self.objects, claim.partition, claim.inputs_digest, claim.kind).made()
        ids = {attempt_id(claim.kind, claim.partition, claim.inputs_digest, number): number for number in numbers}
        return ids.get(claim_id, 0)

    def _pin_run(
        self, partition: ContentPartition, prompts: Handoff, root_run_id: str, regenerate: Regenerate | None
    ) -> RunPin:
        key = run_pin_key(partition.key, root_run_id)
        try:
            return read_object(self.objects, key, RUN_PIN)
        except ObjectMissing:
            pass
        digest = inputs_digest(prompts)
        pin = RunPin(
            inputs={prompts.asset: prompts.version},
            inputs_digest=digest,
            after_attempt=self._sealed_to_replace(partition.key, digest, regenerate),
        )
        return create_object(self.objects, key, RUN_PIN, pin).value

    def _sealed_to_replace(self, partition_key: str, digest: str, regenerate: Regenerate | None) -> int:
        """The sealed attempt that a run must replace; 0: none, so it uses what is sealed."""
        if regenerate is None:
            return 0
        chain = claim_chain(self.objects, partition_key, digest)
        try:
            for number in reversed(chain.numbers()):
                claim = chain.read(number)
                settlement = self.settlement(claim)
                if settlement is not None and settlement.outcome == "sealed":
                    return 0 if regenerate == "rolled_back" and not self.abort_of(claim) else number
        except HandoffCorrupt:
            if regenerate != "current_set":
                raise
            return chain.highest()
        return 0

    def _settle(self, key: str, outcome: Literal["sealed", "void"], reason: str) -> Settlement:
        settlement = Settlement(outcome=outcome, reason=reason, at=iso(self.clock.now()))
        return create_object(self.objects, key, SETTLEMENT, settlement).value

    def _pass_over(
        self, chain: Chain[Claim], create: Callable[..., None], reason: str, ids: Callable[[int], str]
    ) -> None:
        """Opens the next attempt after a damaged or missing one, which becomes void."""
        number = chain.highest()
        self.end_unreadable(chain.key(number), "its claim cannot be read")
        self.objects.delete_prefix(batches_prefix(ids(number)))
        create(attempt=number + 1, reason=reason, is_listed=True)
        # In this order: a kill in between leaves a gap, which the next call skips as well.
        for lost in sorted(set(range(1, number + 1)) - set(chain.made())):
            chain.give_up(lost)

    def _assigned(self, campaign: Campaign, partition: ContentPartition) -> str:
        """The set for a new attempt. If the candidate has a cap, this takes a place under it first.

        If the worker dies before its claim is made, the partition keeps its place and finds it again.
        """
        state = self._state(campaign)
        version_set = assign(state, campaign.plan.ranking_salt, partition.key, campaign.population(partition))
        if version_set == state.stable or state.cap is None:
            return version_set
        leases = CapLeases(self.objects, campaign.name, self.clock)
        try:
            return version_set if leases.take_for(state.trial, state.cap, partition.key) else state.stable
        except HandoffCorrupt:
            # Nobody knows what the cap has left; `headrace rollout status` reports that.
            return state.stable

    def _state(self, campaign: Campaign) -> RolloutState:
        state = fold(self.journal.entries())
        if state is None:
            raise HandoffMissing(
                f"Campaign {campaign.name!r} has no version set yet: nothing was rolled out. "
                f"Materialize rollout[{campaign.name}] once a model is registered.",
                campaign=campaign.name,
            )
        return state

    def _create(
        self,
        campaign: Campaign,
        partition: ContentPartition,
        pin: RunPin,
        root_run_id: str,
        *,
        attempt: int,
        version_set: str,
        reason: str,
        kind: Literal["content", "mirror"] = "content",
        is_listed: bool = False,
    ) -> None:
        """Creates a claim, or loses the race for it: either way the caller reads the claim that exists.

        Raises:
            HandoffCollected: the run's inputs are gone, such as after an erasure, so nobody could finish the attempt.
        """
        for asset, version in pin.inputs.items():
            if not self.objects.exists(manifest_key(asset, partition.key, version)):
                raise HandoffCollected(
                    f"{asset}[{partition.key}] v{version}, which run {root_run_id} and its retries read, was erased or "
                    "garbage-collected. Launch the partition as a new run, which reads the newest version.",
                    asset=asset,
                    partition=partition.key,
                    version=version,
                )
        claim = Claim(
            id=attempt_id(kind, partition.key, pin.inputs_digest, attempt),
            campaign=campaign.name,
            partition=partition.key,
            inputs=pin.inputs,
            inputs_digest=pin.inputs_digest,
            attempt=attempt,
            version_set=version_set,
            micro_batch_rows=campaign.micro_batch_rows,
            # A mirror of a rolled-back set is useless.
            on_abort=campaign.plan.on_abort if kind == "content" else "repin",
            reason=reason,
            root_run_id=root_run_id,
            created_at=iso(self.clock.now()),
            kind=kind,
        )
        claim_chain(self.objects, partition.key, claim.inputs_digest, kind).create(attempt, claim, is_listed=is_listed)

    def _settlement_key(self, claim: Claim) -> str:
        return claim_chain(self.objects, claim.partition, claim.inputs_digest, claim.kind).key(claim.attempt, SETTLED)


def unsettled(objects: ObjectStore, campaign: str, *, damaged: Damaged | None = None) -> list[Claim]:
    """A campaign's attempts and mirrors that run, or that their worker abandoned. One listing.

    Does not read other campaigns' claims.

    Args:
        damaged: called for unreadable claims, which are left out.

    Raises:
        HandoffCorrupt: a claim of this campaign is damaged, and `damaged` is None.
    """
    keys = objects.list(ROOT)
    settled = {key.removesuffix(SETTLED) for key in keys if key.endswith(SETTLED)}
    claims = []
    for key in keys:
        if is_claim(key) and key.removesuffix(".json") not in settled and _campaign_of(key) == campaign:
            try:
                claims.append(read_object(objects, key, CLAIM))
            except ObjectMissing:
                continue
            except HandoffCorrupt as error:
                if damaged is None:
                    raise
                damaged(error)
    return claims


def _campaign_of(key: str) -> str | None:
    """The campaign of a key below ROOT. Its partition's name shows it, so no claim need be read."""
    partition = ContentPartition.find(partition_from_path(key.split("/")[2]))
    return partition.campaign if partition else None


def check_regenerate(value: str | None) -> Regenerate | None:
    """Checks a run config's `regenerate`; empty and None mean no.

    Raises:
        InvalidInput: the word is unknown.
    """
    if not value:
        return None
    if value not in ("keep_set", "current_set", "rolled_back"):
        raise InvalidInput(f"regenerate must be keep_set, current_set or rolled_back, or left out, got {value!r}.")
    return value
