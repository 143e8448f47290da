"""One rollout in one process: the tick that schedulers and commands share.

Reads the journal once, and afterwards only new entries; the same for sets, which never change.
"""

import socket
from collections.abc import Callable, Sequence

from headrace.clock import Clock
from headrace.registry.model_versions import ModelVersion
from headrace.rollout.aliases import AliasRegistry, project_if_possible
from headrace.rollout.catalogue import Catalogue, refusal_of
from headrace.rollout.controller import Action, Facts, next_action, tick, verdict_on
from headrace.rollout.journal import Entry, Journal
from headrace.rollout.plan import Plan
from headrace.rollout.preparation import Prepare, preparations
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.status import RolloutStatus, last_trial, read_status
from headrace.rollout.subject import Subject
from headrace.store.objects import ObjectStore
from headrace.store.small_objects import PassedOver
from headrace.version_sets.sets import VersionSets

# Appends a person's event to the journal, before the rollout continues by itself; the last argument ends running work
# on a set that is rolled back.
Intervention = Callable[[Journal, Plan, Callable[[str], None]], Entry]


class Rollout:
    def __init__(self, store: ObjectStore, name: str, clock: Clock, *, node: str | None = None) -> None:
        """Args: node: this process's name where it prepares sets; None: the machine's name."""
        self.name = name
        self._node = node or socket.gethostname()
        self.journal = Journal(store, name, clock)
        self.version_sets = VersionSets(store)
        self._store = store
        self._clock = clock

    def state(self) -> RolloutState | None:
        return fold(self.journal.entries())

    def why_no_set(self, subject: Subject, models: Sequence[ModelVersion]) -> str | None:
        """Why the subject has no version set, on which alone its units are made; None: it has one."""
        if self.state() is not None:
            return None
        action = next_action(None, subject.plan, self.facts(subject, models))
        if action.kind == "none":
            return action.reason
        return f"No rollout run has begun it yet ({action.reason}). Materialize rollout, partition {self.name}."

    def facts(
        self,
        subject: Subject,
        models: Sequence[ModelVersion],
        *,
        catalogue: Catalogue | None = None,
        damaged: PassedOver | None = None,
    ) -> Facts:
        """The inputs of a decision beside the journal.

        Args:
            catalogue: says whether a set's models may be tried; None: all sealed ones may.
            damaged: called for what is left out.
        """
        damaged = damaged or PassedOver()
        return Facts(
            candidates=subject.candidates(models),
            now=self._clock.now(),
            evidence=lambda state: subject.evidence(models, state, damaged=damaged),
            preparations=lambda proposal: preparations(self._store, self.name, proposal),
            node=self._node if subject.is_prepared_here else None,
            refusal=lambda wanted: refusal_of(catalogue, wanted) if catalogue else None,
            before_abort=lambda candidate: subject.end_under_way(candidate, damaged=damaged),
            damaged=damaged,
        )

    def tick(
        self,
        subject: Subject,
        models: Sequence[ModelVersion],
        *,
        prepare: Prepare | None = None,
        catalogue: Catalogue | None = None,
        intervention: Intervention | None = None,
        damaged: PassedOver | None = None,
    ) -> list[Action]:
        """Takes the rollout as far as its evidence allows, after a person's `intervention`, if given.

        Args:
            prepare: makes a set ready in this process: the first one, and proposals that this process must prepare.
        """
        facts = self.facts(subject, models, catalogue=catalogue, damaged=damaged)
        if intervention is not None:
            intervention(self.journal, subject.plan, facts.before_abort)
        return tick(
            self.journal,
            self.version_sets,
            subject.plan,
            facts,
            store=self._store,
            clock=self._clock,
            prepare=prepare,
        )

    def project(self, registry: AliasRegistry, plan: Plan) -> str:
        """Writes the journal's aliases to the registry. Returns what was done, in words."""
        return project_if_possible(self.journal, self.version_sets, self._store, registry, prefix=plan.alias_prefix)

    def status(
        self,
        subject: Subject | None = None,
        models: Sequence[ModelVersion] = (),
        *,
        with_rows: bool = False,
        drift: Sequence[str] | None = None,
        damaged: PassedOver | None = None,
    ) -> RolloutStatus:
        """The rollout's standing.

        Args:
            subject: if given, its gate judges the candidate, or the last one.
            with_rows: looks for rows that rolled-back sets published.
        """
        damaged = damaged or PassedOver()
        entries = self.journal.entries()
        evidence = verdict = bad_rows = None
        if subject is not None:
            if trial := last_trial(entries):
                evidence = subject.evidence(models, trial, damaged=damaged)
                verdict = verdict_on(trial, subject.plan, evidence, now=self._clock.now())
            state = fold(entries)
            if with_rows and state is not None:
                bad_rows = subject.bad_rows(state.aborted, damaged=damaged)
        return read_status(
            self._store,
            self.name,
            self._clock,
            entries=entries,
            version_sets=self.version_sets,
            plan=subject.plan if subject else None,
            evidence=evidence,
            verdict=verdict,
            bad_rows=bad_rows,
            drift=drift,
            damaged=damaged,
        )
