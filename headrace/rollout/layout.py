"""The keys of a rollout's objects: `rollout/<name>/<what>/…`; a trial's or a proposal's, below its entry's number."""

from typing import Literal

from headrace.store.objects import ObjectStore

ROOT = "rollout"

What = Literal["aliases", "calls", "caps", "evidence", "journal", "prepared", "recordings", "sessions", "turns"]


def rollout_prefix(name: str, what: What, entry: int | None = None) -> str:
    return f"{ROOT}/{name}/{what}" + ("" if entry is None else f"/{entry:08d}")


def rollout_names(store: ObjectStore) -> list[str]:
    """Every rollout that has a journal, sorted."""
    return [name for name in store.children(ROOT) if store.children(rollout_prefix(name, "journal"))]
