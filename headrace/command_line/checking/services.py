"""What a service that can be read will do: the steps of a rollout, the engines."""

from pathlib import Path

from headrace.command_line.checking.engines import engine_findings
from headrace.command_line.checking.named_files import weights_findings
from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.output import age_text
from headrace.rollout.status import percent
from headrace.serving.service import Service


def examine_service(service: Service, home: Path, *, offline: bool) -> list[FileFinding]:
    steps = []
    for step in service.plan.steps:
        more = [f"for {age_text(step.soak_seconds)} at least"] if step.soak_seconds else []
        more += [f"at most {step.cap:,} units"] if step.cap else []
        more += ["then approved"] if step.approval else []
        steps.append(percent(step.weight) + (f" ({', '.join(more)})" if more else ""))
    listed = ", then ".join(steps)
    return [
        finding("rollout", "ok", f"the candidate gets {listed} of the units, then all."),
        *weights_findings(service.roles, home, in_roles=True),
        *engine_findings(service.roles, service.replicas, in_roles=True, offline=offline),
    ]
