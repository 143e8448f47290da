"""What commands print with `--json`: `headrace schema KIND` describes it. Fields are added, never renamed."""

from collections.abc import Mapping
from importlib import import_module

_WHERE: Mapping[str, str] = {
    "check": "checking.report:CheckReport",
    "preview": "bodies.previews:PreviewBody",
    "run": "bodies.campaigns:RunBody",
    "run-dry-run": "bodies.campaigns:DryRunBody",
    "trace": "bodies.campaigns:TraceBody",
    "status": "bodies.project_status:StatusBody",
    "queue": "bodies.run_queue:QueueBody",
    "why": "bodies.run_queue:QueuedRunBody",
    "handoff-ls": "bodies.handoffs:ListBody",
    "handoff-show": "bodies.handoffs:ShownBody",
    "handoff-verify": "bodies.handoffs:VerifiedBody",
    "handoff-diff": "bodies.handoffs:ComparedBody",
    "dropped": "bodies.dropped:DroppedBody",
    "labels-import": "bodies.labels:LabelsImportBody",
    "model-ls": "bodies.models:ModelsBody",
    "model-loaded": "bodies.models:LoadedModelsBody",
    "model-index": "bodies.models:IndexBody",
    "model-show": "bodies.models:ShownModelBody",
    "versions-ls": "bodies.versions:KeptSetsBody",
    "versions-show": "bodies.versions:ShownSetBody",
    "versions-diff": "bodies.versions:SetsComparedBody",
    "rollout-status": "bodies.rollouts:RolloutsBody",
    "rollout-journal": "bodies.rollouts:JournalBody",
    "rollout-rows": "bodies.rollouts:BadRowsBody",
    "rollout-verify": "bodies.rollouts:VerifiedJournalsBody",
    "rollout-change": "bodies.rollouts:ChangeBody",
    "inbox-status": "bodies.inboxes:InboxesBody",
    "inbox-results": "bodies.inboxes:ResultBody",
    "inbox-refused": "bodies.inboxes:RefusedBody",
    "inbox-undelivered": "bodies.inboxes:UndeliveredBody",
    "erase": "bodies.erasures:EraseBody",
    "gc": "bodies.store:CollectionBody",
    "doctor": "bodies.store:ExaminedBody",
}
KINDS = tuple(_WHERE)
_CHANGES = frozenset(f"rollout {word}" for word in ("start", "advance", "pause", "resume", "approve", "abort"))


def kind_of(command: str) -> str:
    """`handoff ls` → `handoff-ls`: the kind of what a command prints, whether it is known or not."""
    if command in _CHANGES:
        return "rollout-change"
    return "gc" if command == "handoff gc" else command.replace(" ", "-")


def body_of(kind: str) -> type:
    """The dataclass that the command's output is written from. One kind's import does not wait for all others'."""
    module, _, name = _WHERE[kind].partition(":")
    return getattr(import_module(f"headrace.command_line.{module}"), name)
