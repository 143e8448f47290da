"""One campaign's day as real Dagster runs: what is missing is launched, partition by partition, and nothing else.

What a run needs is decided by the store, never by what an earlier call did: the same call goes on where another one was
killed, and one more call when all is made starts nothing but the report. A run that makes the same rows already (an
earlier call's, a schedule's, a person's) is followed instead of started twice: two would ask the model twice for each
row, of which one is sealed. Of two that are launched at the same instant the younger is ended by its own call.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.clock import SystemClock
from headrace.errors import HandoffMissing, HeadraceError
from headrace.generation.campaign import Campaign
from headrace.generation.claim_objects import Claim
from headrace.generation.freshness import is_made_from, is_report_older, is_rolled_back
from headrace.generation.prompts_left import prompts_left
from headrace.generation.requests import prompts_of_day
from headrace.generation.sealed_tables import IMAGES, SPEECH
from headrace.generation.spending import Spending
from headrace.generation.subject import CampaignSubject
from headrace.generation.under_way import claims_under_way, makes_media, num_committed, unmade_kinds
from headrace.handoff.content_digest import digest_of
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition
from headrace.registry.bases import has_unregistered_bases
from headrace.registry.registered import registered_models
from headrace.rollout.controller import next_action
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.rollout.ticking import Rollout
from headrace.store.small_objects import PassedOver
from headrace.version_sets.media_settings import MemberKind
from headrace_dagster.project.run_source import PARTITION, UNDER_WAY, WAITING, RunState
from headrace_dagster.project.waits import Waits
from headrace_dagster.project.webserver import Webserver

RUN_TAG = "headrace/campaign_run"
"""The call of `headrace run` that started the run: by it a repeated call finds its runs."""
STEP_TAG = "headrace/campaign_step"
"""The asset that `headrace run` started the run for."""
_POLL_SECONDS = 0.5
# A step whose inputs change under it is made again, but not for ever.
_NUM_TRIES_MAX = 3


class CampaignRunFailed(HeadraceError):
    """A run of the campaign's day failed for good; the text has its step and reason."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One job on one kind of partition. `asset`: what it makes first."""

    job: str
    asset: str
    title: str


MODEL = Step(job="roll_out", asset="rollout", title="models")
PROMPTS = Step(job="list_prompts", asset="prompts", title="prompts")
CONTENT = Step(job="generate", asset="generated_content", title="generated")
# Where the campaign's file wants its steps apart.
PAINT = Step(job="paint", asset=IMAGES, title="painted")
SPEAK = Step(job="speak", asset=SPEECH, title="spoken")
REVIEW = Step(job="review", asset="reviewed_content", title="reviewed")
REPORT = Step(job="report", asset="campaign_report", title="report")
# Of which a run has parts of rows to make.
_CONTENT_JOBS = ("generate", "generate_with_media", "paint", "speak", "regenerate_rolled_back")
_OF_KIND: dict[MemberKind, Step] = {"text": CONTENT, "image": PAINT, "speech": SPEAK}
_OF_A_PARTITION = (PROMPTS, CONTENT, REVIEW)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is made at one moment.

    Attributes:
        num_rows: sealed, and committed by running workers.
        waits: what a run waits for, and since when; in whole sentences.
    """

    made: Mapping[str, int]
    total: Mapping[str, int]
    num_rows: int
    num_active: int
    waits: tuple[str, ...] = ()


@dataclass(kw_only=True)
class CampaignRun:
    """The campaign's day in the store of one project; `launch` goes to its webserver."""

    campaign: Campaign
    handoffs: HandoffStore
    home: Path
    day: str
    report: Path
    regenerate: bool = False
    token: str = ""
    # Asset and partition → the runs of this call, or those it follows, the newest last.
    _launched: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    # Runs that this call did not start → their asset and partition.
    _followed: dict[str, tuple[str, str]] = field(default_factory=dict)
    _made: dict[str, set[str]] = field(default_factory=dict)
    _num_again: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Partition → digest of the prompts that its files give now: read once a call.
    _wanted: dict[str, str] = field(default_factory=dict)
    # Partition → the most rows that a look of this call saw.
    _num_rows: dict[str, int] = field(default_factory=dict)
    _waits: Waits = field(default_factory=Waits)

    @property
    def partitions(self) -> list[str]:
        return self.campaign.partition_keys(self.day)

    def state(self) -> RolloutState | None:
        return fold(Journal(self.handoffs.objects, self.campaign.name, SystemClock()).entries())

    def content(self, key: str) -> Handoff | None:
        return self._newest(CONTENT.asset, key)

    def missing(self) -> list[tuple[Step, str]]:
        """The next step of everything that is not made; the report last."""
        found = [(MODEL, self.campaign.name)] if self._needs_model() else []
        found += [(step, key) for key in self.partitions for step in self._next_steps(key)]
        if found or not self._is_reported():
            found.append((REPORT, self.day))
        return found

    def refuse_spent(self, missing: Sequence[tuple[Step, str]]) -> None:
        """Says before anything starts that no run could do its work. What needs no engine is still made.

        Raises:
            BudgetSpent: all that is missing asks for rows, and the day's budget is spent.
        """
        steps = [(step, key) for step, key in missing if step is not REPORT]
        asks = [key for step, key in steps if step is PROMPTS or (step is CONTENT and not self._is_committed(key))]
        if self.campaign.budget is None or not asks or len(asks) < len(steps):
            return
        spending = Spending(campaign=self.campaign, handoffs=self.handoffs, day=self.day)
        spending.stop_before_runs(len(asks))

    def walk(self, webserver: Webserver) -> Iterator[Look]:
        """Launches what is missing, and yields after each look, until the day's report is made.

        Raises:
            CampaignRunFailed: a run failed for good, or the campaign has no version set.
            LaunchRefused: Dagster refuses a run, or does not answer.
        """
        if self._needs_model():
            yield from self._await(webserver, MODEL, self.campaign.name)
        if reason := self._why_no_set():
            told = self._warning_of(webserver, MODEL, self.campaign.name)
            raise CampaignRunFailed(told or f"{self.campaign.name} has no version set: {reason}")
        yield from self._walk_partitions(webserver)
        if self._launched or not self._is_reported():
            yield from self._await(webserver, REPORT, self.day)
        yield self._look(0)

    def _walk_partitions(self, webserver: Webserver) -> Iterator[Look]:
        following = {key: self._next_steps(key) for key in self.partitions}
        while any(following.values()):
            runs = self._runs(webserver)
            num_active = 0
            for key, steps in following.items():
                for step in steps:
                    if (step.asset, key) not in self._launched:
                        self._launch(webserver, step, key)
                    elif self._has_ended(webserver, runs.get((step.asset, key), []), step, key):
                        self._made.setdefault(step.asset, set()).add(key)
                        following[key] = self._next_steps(key)
                        for again in following[key]:
                            # Not what goes on beside it.
                            if again is step or again not in steps:
                                self._once_more(again, key)
                        break
                num_active += bool(following[key])
            yield self._look(num_active, _newest_of(runs), webserver)
            if any(following.values()):
                time.sleep(_POLL_SECONDS)

    def _await(self, webserver: Webserver, step: Step, key: str) -> Iterator[Look]:
        while True:
            if (step.asset, key) not in self._launched:
                self._launch(webserver, step, key)
            runs = self._runs(webserver)
            if self._has_ended(webserver, runs.get((step.asset, key), []), step, key):
                self._made.setdefault(step.asset, set()).add(key)
                yield self._look(0)
                return
            yield self._look(1, _newest_of(runs), webserver)
            time.sleep(_POLL_SECONDS)

    def _launch(self, webserver: Webserver, step: Step, key: str) -> None:
        if other := self._under_way(webserver, step, key):
            self._follow(other, step, key)
            return
        config: dict[str, Any] = {}
        if step is CONTENT and self.regenerate:
            config = {"ops": {CONTENT.asset: {"config": {"regenerate": "current_set"}}}}
        demand = next((self.campaign.tags_apart(kind) for kind, one in _OF_KIND.items() if one is step), {})
        tags = {RUN_TAG: self.token, STEP_TAG: step.asset, **demand}
        job = self._job_of(step, key)
        run_id = webserver.launch(job, key, requested_by="headrace run", run_config=config, tags=tags)
        # Another call may have launched its own since this one looked: the oldest run stays.
        if (other := self._under_way(webserver, step, key)) and other != run_id:
            webserver.terminate(run_id)
            self._follow(other, step, key)
            return
        self._launched.setdefault((step.asset, key), []).append(run_id)

    def _job_of(self, step: Step, key: str) -> str:
        """Parts that are painted or spoken are made in the run that makes the text, or apart if the file says so."""
        if step is not CONTENT or self.campaign.apart is not None:
            return step.job
        objects = self.handoffs.objects
        claim = claims_under_way(objects, self.campaign.name).get(key)
        return "generate_with_media" if makes_media(objects, self.campaign, self.state(), claim) else step.job

    def _follow(self, run_id: str, step: Step, key: str) -> None:
        self._followed[run_id] = step.asset, key
        self._launched.setdefault((step.asset, key), []).append(run_id)

    def _under_way(self, webserver: Webserver, step: Step, key: str) -> str | None:
        """The oldest run that makes these rows, or parts of them. For rows anew none: it may be making the old ones."""
        if step not in _OF_KIND.values() or self.regenerate:
            return None
        # Pictures and recordings do not need each other: beside a run that makes one the other's is launched.
        others = {PAINT: SPEAK, SPEAK: PAINT}.get(step)
        jobs = {*_CONTENT_JOBS} - ({others.job, CONTENT.job} if others else set())
        assets = {CONTENT.asset, IMAGES, SPEECH} - ({others.asset, CONTENT.asset} if others else set())
        found = [
            (run.created, run.run_id)
            for run in webserver.runs({PARTITION: key}, statuses=(*WAITING, *UNDER_WAY))
            if run.job_name in jobs or assets & {*run.assets}
        ]
        return min(found)[1] if found else None

    def _warning_of(self, webserver: Webserver, step: Step, key: str) -> str | None:
        """What the last run of a step warned of at last: a rollout's run that does nothing says why, and succeeds."""
        runs = self._launched.get((step.asset, key))
        return webserver.warning_of(runs[-1]) if runs else None

    def _once_more(self, step: Step | None, key: str) -> None:
        """Lets a step that this call has made already be launched again: its inputs changed, or its set was aborted.

        Raises:
            CampaignRunFailed: that goes on and on.
        """
        if step is None or (made := self._launched.pop((step.asset, key), None)) is None:
            return
        self._num_again[step.asset, key] += 1
        if self._num_again[step.asset, key] >= _NUM_TRIES_MAX:
            raise CampaignRunFailed(
                f"{step.asset}[{key}] was made {_NUM_TRIES_MAX} times (last in run {made[-1]}), and still does not "
                "follow from what it is made of: somebody changes its prompts or its version set meanwhile. Call again "
                "when that is over."
            )

    def _runs(self, webserver: Webserver) -> dict[tuple[str, str], list[RunState]]:
        """Asset and partition → the runs of this call and those it follows, newest first."""
        found: dict[tuple[str, str], list[RunState]] = {}
        for run in webserver.runs({RUN_TAG: self.token}):
            unit = run.tags.get(STEP_TAG, ""), run.partition
            # Of a step that was launched once more, only that counts; a retry names the run that it repeats.
            if run.tags.get("dagster/root_run_id", run.run_id) in self._launched.get(unit, ()):
                found.setdefault(unit, []).append(run)
        for run in webserver.runs(run_ids=tuple(self._followed)) if self._followed else ():
            unit = self._followed[run.run_id]
            if run.retry_id:
                self._followed[run.retry_id] = unit
            elif not run.has_failed:
                found.setdefault(unit, []).append(run)
            else:
                # Another's run is no reason to give up: its step is launched here.
                del self._followed[run.run_id]
                self._launched.pop(unit, None)
        return found

    @staticmethod
    def _has_ended(webserver: Webserver, runs: Sequence[RunState], step: Step, key: str) -> bool:
        if any(run.has_succeeded for run in runs):
            return True
        if runs and runs[0].has_failed:
            raise CampaignRunFailed(
                f"{step.asset}[{key}] failed in run {runs[0].run_id}: {webserver.failure_of(runs[0].run_id)}"
            )
        return False

    def _look(self, num_active: int, runs: Iterable[RunState] = (), webserver: Webserver | None = None) -> Look:
        missing = {key: self._next_step(key) for key in self.partitions}
        order = {step: place for place, step in enumerate(_OF_A_PARTITION)}
        made = {
            step.title: sum(one is None or order[one] > place for one in missing.values())
            for step, place in order.items()
        }
        rows = self._rows(missing)
        return Look(
            made=made,
            total={step.title: len(self.partitions) for step in _OF_A_PARTITION},
            num_rows=sum(rows.values()),
            num_active=num_active,
            waits=self._waits.look(webserver, runs, rows) if webserver else (),
        )

    def _rows(self, missing: Mapping[str, Step | None]) -> Mapping[str, int]:
        """Partition → its rows, sealed or committed by running workers; in one call they are never fewer than before.

        Of a chain that paints or speaks, each step counts for its share of a row. Between the last micro-batch and the
        seal they are neither, and a rollback or changed prompts begin anew.
        """
        under_way = claims_under_way(self.handoffs.objects, self.campaign.name)
        for key, step in missing.items():
            if step not in (PROMPTS, CONTENT) and (content := self._newest(CONTENT.asset, key)):
                found = content.num_rows
            else:
                found = self._num_committed(claim) if (claim := under_way.get(key)) else 0
            self._num_rows[key] = max(found, self._num_rows.get(key, 0))
        return self._num_rows

    def _num_committed(self, claim: Claim) -> int:
        return num_committed(self.handoffs.objects, claim, self._num_wanted(claim.partition))

    def _num_wanted(self, key: str) -> int:
        prompts = self._newest(PROMPTS.asset, key)
        return prompts.num_rows * self.campaign.prompts.variations if prompts else 0

    def _is_committed(self, key: str) -> bool:
        """Whether an attempt has all rows of its partition, and lacks its seal alone."""
        claim = claims_under_way(self.handoffs.objects, self.campaign.name).get(key)
        return claim is not None and self._num_committed(claim) >= self._num_wanted(key)

    def _is_reported(self) -> bool:
        sealed = [self._newest(asset, key) for key in self.partitions for asset in (CONTENT.asset, REVIEW.asset)]
        return self.report.is_file() and not is_report_older(self.report, (one.manifest for one in sealed if one))

    def _needs_model(self) -> bool:
        subject = CampaignSubject.of(self.campaign, self.handoffs)
        if has_unregistered_bases(self.handoffs, subject.name, subject.roles, self.home):
            return True
        rollout = self._rollout()
        return next_action(rollout.state(), subject.plan, rollout.facts(subject, self._models())).kind != "none"

    def _why_no_set(self) -> str | None:
        return self._rollout().why_no_set(CampaignSubject.of(self.campaign, self.handoffs), self._models())

    def _rollout(self) -> Rollout:
        return Rollout(self.handoffs.objects, self.campaign.name, SystemClock())

    def _models(self) -> list[Any]:
        return registered_models(self.handoffs, damaged=PassedOver())

    def _next_steps(self, key: str) -> tuple[Step, ...]:
        """What a partition needs now: one step, or those that may be made beside each other."""
        step = self._next_step(key)
        has_claim = key in self._made.get(CONTENT.asset, set()) if self.regenerate else step is CONTENT
        claims = claims_under_way(self.handoffs.objects, self.campaign.name) if self.campaign.apart is not None else {}
        if not has_claim or (claim := claims.get(key)) is None:
            return (step,) if step else ()
        kinds = unmade_kinds(self.handoffs.objects, claim, self._num_wanted(key))
        # All is made, and its run ended before it had sealed it: any step's run does.
        return tuple(_OF_KIND[kind] for kind in kinds) or (CONTENT,)

    def _next_step(self, key: str) -> Step | None:
        """The first of a partition's steps that does not follow from the one before it."""
        prompts = self._newest(PROMPTS.asset, key)
        if prompts is None or not self._is_of_files(prompts, key):
            return PROMPTS
        content = self._newest(CONTENT.asset, key)
        is_again = self.regenerate and key not in self._made.get(CONTENT.asset, set())
        if content is None or is_again or not is_made_from(content.manifest, prompts.manifest):
            return CONTENT
        if is_rolled_back(content.manifest, self.state()):
            return CONTENT
        reviewed = self._newest(REVIEW.asset, key)
        return None if reviewed and is_made_from(reviewed.manifest, content.manifest) else REVIEW

    def _is_of_files(self, prompts: Handoff, key: str) -> bool:
        """Whether the prompt files still give what was sealed. Once listed in this call, they do."""
        if key in self._made.get(PROMPTS.asset, set()):
            return True
        if not self._wanted:
            tables = prompts_of_day(self.campaign, self.day, self.home)
            keys = map(ContentPartition.parse, self.partitions)
            self._wanted = {
                one.key: digest_of(prompts_left(self.handoffs, one, table))
                for one, table in zip(keys, tables, strict=True)
            }
        return self._wanted[key] == prompts.content_digest

    def _newest(self, asset: str, key: str) -> Handoff | None:
        try:
            return self.handoffs.newest(asset, key)
        except HandoffMissing:  # collected meanwhile
            return None


def _newest_of(runs: Mapping[tuple[str, str], Sequence[RunState]]) -> list[RunState]:
    """Of each step's runs the one that counts: a retry, and not what it repeats."""
    return [found[0] for found in runs.values() if found]
