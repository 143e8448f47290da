"""Power loss: traces real work, and opens with the library the states in which a file system may be left.

Each kind of object has a piece of work, which states what it acknowledges, and a check, which knows the statements
before the power failed: nothing torn is believed, no acknowledged object is lost, and the work continues.
`simulation.power_loss.crash_states` derives the states, from traces of `simulation.system_calls.recording`.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.clock import Clock
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace.store.protection import Answer, Named
from headrace.store.sealed_directory import directory_key, find_directory, open_directory, seal_directory
from simulation.faults.cases import (
    ASSET,
    PARTITION,
    Later,
    Tally,
    check_everything,
    check_versions,
    collect_all,
    publish,
)
from simulation.power_loss.chains import journal_check, journal_work
from simulation.power_loss.content import batches_check, batches_work, claims_check, claims_work, content_template
from simulation.power_loss.crash_states import CrashState, Trace, crash_states
from simulation.system_calls.recording import record

_TWO_DAYS = 2 * 24 * 3600.0
Say = Callable[[bytes], Any]
Tell = Callable[..., None]
# Below the traced directory, since the store makes these directories itself and must not lose them.
STORE = "home/store"
_FILES: dict[str, dict[str, bytes]] = {
    "base": {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 90, "tokenizer/vocab.txt": b"a\nb\n"},
    "tuned": {"config.json": b"{}", "model.safetensors": bytes(range(255, -1, -1)) * 90},
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of object.

    Attributes:
        work: acts on a store, and tells what is done: `tell(what, **facts)`.
        check: opens what is left. Gets the store's directory, and what was told before the power failed.
        template: the store's content on disk before the work begins.
    """

    work: Callable[[LocalStore, Tell], None]
    check: Callable[[LocalStore, list[dict[str, Any]], Tally], None]
    template: Callable[[LocalStore], None] = lambda store: None


def handoff_work(store: LocalStore, tell: Tell) -> None:
    for number in (1, 2, 2, 3):
        tell("sealed", version=publish(store, number).version, content=number)
    tell("collecting")
    collect_all(store, Later(0.0))
    tell("collected")
    tell("sealed", version=publish(store, 4).version, content=4)


def handoff_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    known = {one["version"]: one["content"] for one in told if one["what"] == "sealed"}
    # Versions that a collection has begun to delete are gone, or whole.
    check_versions(HandoffStore(store, verification="eager", leased=False), tally, {})
    if any(one["what"] == "collecting" for one in told):
        given_out = max(known)
        known = {version: content for version, content in known.items() if version >= 3}
        # The next collection finishes an interrupted one.
        collect_all(store, Later(7200.0), keep_versions=2)
        if (last := HandoffStore(store, leased=False).last_number(ASSET, PARTITION)) < given_out:
            tally.wrong("lost", f"v{given_out} was given out, the next one after it would be v{last + 1}")
        known = {max(known): known[max(known)]}
    check_everything(store, tally, known, 90)


def weights_work(store: LocalStore, tell: Tell) -> None:
    for name in ("base", "tuned", "base"):
        tell("sealed", digest=seal_directory(store, _source(store, name)).digest, name=name)
    # Sealing the same files again replaces a damaged file.
    sealed = find_directory(store, seal_directory(store, _source(store, "tuned")).digest)
    assert sealed
    rotten = store.local_path(f"{sealed.key}/model.safetensors")
    tell("rotten", digest=sealed.digest)
    rotten.unlink()
    seal_directory(store, _source(store, "tuned"))
    tell("repaired", digest=sealed.digest)
    # Two days later no lease holds anything, and only these are named.
    tell("collecting", name="base")
    _collect_but(store, sealed.digest, Later(_TWO_DAYS))
    tell("sealed", digest=seal_directory(store, _source(store, "base")).digest, name="base")


def _collect_but(store: LocalStore, digest: str, clock: Clock) -> None:
    named = Answer(named=[Named(key=directory_key(digest), reason="the work names them")])
    plan = plan_collection(store, clock, grace_seconds=-1.0, protectors={"work": lambda asked: named})
    collect(store, clock, plan)


def weights_check(store: LocalStore, told: list[dict[str, Any]], tally: Tally) -> None:
    rotten = {one["digest"] for one in told if one["what"] == "rotten"}
    rotten -= {one["digest"] for one in told if one["what"] == "repaired"}
    sealed = {one["digest"]: one["name"] for one in told if one["what"] == "sealed"}
    # Begun and not sealed again since: gone, or whole.
    going = {one["name"] for one in told[-1:] if one["what"] == "collecting"}
    for digest, name in sealed.items():
        if find_directory(store, digest) is None:
            if name in going:
                continue
            tally.wrong("lost", f"weights {name} are not there")
        elif digest not in rotten and name not in going:
            _check_weights(store, digest, name, tally)
    # The next collection finishes an interrupted one, and takes nothing that is named or held.
    tuned = next((digest for digest, name in sealed.items() if name == "tuned"), "")
    _collect_but(store, tuned, Later(7200.0))
    for name in _FILES:
        # Unfinished work is there whole or not at all, and sealing continues in any case.
        if digest := seal_directory(store, _source(store, name)).digest:
            _check_weights(store, digest, name, tally)


def _check_weights(store: LocalStore, digest: str, name: str, tally: Tally) -> None:
    directory = open_directory(store, digest)
    for file, body in _FILES[name].items():
        if (directory / file).read_bytes() != body:
            tally.wrong("silent", f"{file} of weights {name} holds other bytes")


def _source(store: LocalStore, name: str) -> Path:
    """The directory of the files to seal, outside the traced one."""
    return store.directory.parents[2] / f"source-{name}"


def _write_sources(root: Path) -> None:
    for name, files in _FILES.items():
        for file, body in files.items():
            path = root / f"source-{name}" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)


KINDS: Mapping[str, Kind] = {
    "handoff": Kind(work=handoff_work, check=handoff_check),
    "journal": Kind(work=journal_work, check=journal_check),
    "claims": Kind(work=claims_work, check=claims_check, template=content_template),
    "batches": Kind(work=batches_work, check=batches_check, template=content_template),
    "weights": Kind(work=weights_work, check=weights_check),
}


def lose_power(
    root: Path,
    name: str,
    num_states: int,
    seed: int,
    advance: Callable[[], None],
    *,
    open_store: Callable[[Path], LocalStore] = LocalStore,
) -> Tally:
    """Traces one kind's work, and checks up to `num_states` different states of the disk.

    Args:
        open_store: the store for the work, into which a test may plant a defect. Checks use the real one.

    Raises:
        TracingRefused
        NotRecorded
    """
    root.mkdir(exist_ok=True)
    _write_sources(root)
    trace = traced_work(root / "disk", KINDS[name], open_store)
    tally = Tally(f"power lost: {name}")
    for state in crash_states(trace, num_states, seed):
        tally.faults += 1
        _check(root / f"left-{tally.faults}", KINDS[name], state, tally)
        advance()
    tally.notes.append(f"operations in the trace: {len(trace.operations)}")
    return tally


def traced_work(directory: Path, kind: Kind, open_store: Callable[[Path], LocalStore]) -> Trace:
    directory.mkdir()
    kind.template(LocalStore(directory / STORE))

    def work(say: Say) -> None:
        def tell(what: str, **facts: Any) -> None:
            say(json.dumps({"what": what, **facts}).encode())

        kind.work(open_store(directory / STORE), tell)

    recorded = record(work, directory)
    assert recorded.traced.exit_status == 0, "the work fails without any fault"
    return recorded.trace


def _check(directory: Path, kind: Kind, state: CrashState, tally: Tally) -> None:
    state.build(directory)
    before = len(tally.notes)
    try:
        kind.check(LocalStore(directory / STORE), [json.loads(text) for text in state.said], tally)
    except Exception as error:  # noqa: BLE001 (whatever it is, work does not go on)
        tally.wrong("torn", repr(error))
    # What a lease's thread writes meanwhile may stay.
    shutil.rmtree(directory, ignore_errors=True)
    tally.notes[before:] = [
        f"{note} (power lost after operation {state.point}, {state.model} model)" for note in tally.notes[before:]
    ]
