"""Checks of rollouts, for any project: journals are whole, gates judge, and MLflow's aliases agree with the journals.

Each checks all existing partitions, of which there are few, so it can be run alone at any time.
"""

import dagster as dg

from headrace.clock import SystemClock
from headrace.errors import HeadraceError, RegistryUnavailable, Transient
from headrace.registry.registered import registered_models
from headrace.rollout.aliases import Drift, find_drift, wanted_aliases
from headrace.rollout.journal import Journal
from headrace.rollout.layout import rollout_names
from headrace.rollout.states import fold
from headrace.rollout.ticking import Rollout
from headrace.store.small_objects import PassedOver
from headrace.text.markdown import inline
from headrace.version_sets.sets import VersionSets
from headrace_dagster.assets.asset_site import Site
from headrace_dagster.handoff_io import StoreResource
from headrace_dagster.resources.registry import RegistryResource
from headrace_dagster.resources.rollouts import RolloutsResource


def journals_are_whole(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """No journal entry was edited or removed, every event is possible, and every version set that it names is kept."""
    objects, wrong = store.objects(), {}
    names = rollout_names(objects)
    for name in names:
        journal = Journal(objects, name, SystemClock())
        try:
            journal.verify()
            state = fold(journal.entries())
            for version_set in sorted(state.considered) if state else ():
                VersionSets(objects).get(version_set)
        except Transient:
            raise
        except HeadraceError as error:
            wrong[name] = str(error)
    return findings_result(len(names), wrong)


def has_a_version_set(
    context: dg.AssetCheckExecutionContext, rollouts: RolloutsResource, store: StoreResource
) -> dg.AssetCheckResult:
    """Each campaign and service has a stable version set: nothing of it is made without one. Names those without."""
    handoffs, wrong = store.handoffs(), {}
    models = registered_models(handoffs, damaged=PassedOver())
    subjects = rollouts.subjects(handoffs).by_name
    for name, subject in subjects.items():
        try:
            reason = Rollout(handoffs.objects, name, SystemClock()).why_no_set(subject, models)
        except Transient:
            raise
        except HeadraceError as error:
            reason = str(error)
        if reason:
            wrong[name] = reason
    return findings_result(len(subjects), wrong)


def gate_verdicts(
    context: dg.AssetCheckExecutionContext, rollouts: RolloutsResource, store: StoreResource
) -> dg.AssetCheckResult:
    """Each rollout gate's present verdict on its candidate. A warning if it says roll back: the next tick does that."""
    handoffs = store.handoffs()
    passed_over = PassedOver()
    models = registered_models(handoffs, damaged=passed_over)
    said: dict[str, str] = {}
    wrong: dict[str, str] = dict(zip(passed_over.keys, passed_over.sentences, strict=True))
    for name, subject in rollouts.subjects(handoffs).by_name.items():
        status = Rollout(handoffs.objects, name, SystemClock()).status(subject, models)
        verdict = status.verdict
        if verdict is not None and status.state is not None and status.state.candidate is not None:
            said[name] = f"{verdict.action}: {verdict.reason}"
            if verdict.action == "roll_back":
                wrong[name] = verdict.reason
    return findings_result(len(said), wrong, severity=dg.AssetCheckSeverity.WARN, said=said)


def aliases_follow_the_journals(
    context: dg.AssetCheckExecutionContext,
    rollouts: RolloutsResource,
    registry: RegistryResource,
    store: StoreResource,
) -> dg.AssetCheckResult:
    """MLflow's `champion` and `candidate` agree with the journals. A warning only: generation does not read them."""
    handoffs, models, wrong = store.handoffs(), registry.models(), {}
    subjects = rollouts.subjects(handoffs).by_name
    for name, subject in subjects.items():
        rollout = Rollout(handoffs.objects, name, SystemClock())
        state = rollout.state()
        try:
            prefix = subject.plan.alias_prefix
            wanted = wanted_aliases(state, rollout.version_sets, prefix=prefix) if state else {}
            drifts: list[Drift] = find_drift(wanted, models)
        except RegistryUnavailable as error:
            wrong[name] = str(error)
            break
        if drifts:
            wrong[name] = "; ".join(map(str, drifts))
    return findings_result(len(subjects), wrong, severity=dg.AssetCheckSeverity.WARN)


def findings_result(
    num_checked: int,
    wrong: dict[str, str],
    *,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    said: dict[str, str] | None = None,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=severity,
        description=inline("; ".join(f"{name}: {reason}" for name, reason in wrong.items())) or None,
        metadata={"num_checked": num_checked, "num_wrong": len(wrong), **(said or {})},
    )


def rollout_checks(site: Site) -> dict[str, dg.AssetChecksDefinition]:
    """The checks above as a project's own, by name."""
    bodies = (journals_are_whole, has_a_version_set, gate_verdicts, aliases_follow_the_journals)
    return {body.__name__: site.check(body, "rollout") for body in bodies}
