"""The faults of `wrong_loads`, in a process that forks: what is killed are children, and one gang made the files."""

import json
import os
import random
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from benchmarks.training.forks import Kill, Trainings, answer
from benchmarks.training.resume_side import recipe_of, site_of
from headrace.clock import SystemClock
from headrace.store.local import LocalStore
from headrace.training import checkpoints, universal
from headrace.training.attempts import open_attempt, training_key
from headrace.training.checkpoints import Checkpoint, CheckpointFile, newest_whole, write_file
from headrace.training.guard import Worker
from simulation.forked_gangs import fork

_KILLED, _FULL = 9, 7
# Of the attempts of this process and of its children alike.
_WORKER = Worker.this_process()
Damage = Callable[[Path, random.Random], None]


def truncated(path: Path, draw: random.Random) -> None:
    body = path.read_bytes()
    path.write_bytes(body[: draw.randrange(len(body))])


def flipped(path: Path, draw: random.Random) -> None:
    body = bytearray(path.read_bytes())
    body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    path.write_bytes(body)


def missing(path: Path, draw: random.Random) -> None:
    path.unlink()


DAMAGES: dict[str, Damage] = {"truncation": truncated, "flipped byte": flipped, "missing file": missing}


class Site:
    """Two whole checkpoints of two ranks, and copies of their store to break."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        site = site_of(directory / "site")
        training = Trainings(site).begin("two-checkpoints")
        if training.run(recipe_of(2), 2, Kill(11, 0, 0.0)) is not None:
            raise RuntimeError("the gang ended before it was killed")
        self._store = training.store
        [self._training_id] = self._store.children("training")
        self.newest, self.before = checkpoints.checkpoints_of(self._store, self._training_id, damaged=_raise)
        self._written = {one.prefix: _digests(self._store, one) for one in (self.newest, self.before)}

    def copy(self) -> LocalStore:
        copy = self.directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        return LocalStore(shutil.copytree(self._store.directory, copy))

    def found(self, store: LocalStore, ranks: int = 2) -> tuple[Checkpoint | None, bool, str]:
        """What a restart chooses, whether a byte of it was never written, and why newer ones were passed over."""
        told: list[str] = []
        found = newest_whole(
            store, self._training_id, world_size=ranks, passed_over=lambda step, reason: told.append(reason)
        )
        is_wrong = bool(
            found and found.prefix in self._written and _digests(store, found) != self._written[found.prefix]
        )
        return found, is_wrong, "; ".join(told)


def main() -> int:
    task = json.loads(sys.argv[1])
    directory, draw = Path(task["directory"]), random.Random(15)
    site = Site(directory)
    faults = {name: _damaged(site, damage, task["repeats"], draw) for name, damage in DAMAGES.items()}
    faults["killed while saving"] = _ended(site, "save", _KILLED, draw, task["repeats"])
    faults["killed while converting"] = _ended(site, "convert", _KILLED, draw, task["repeats"])
    faults["full disk while saving"] = _ended(site, "save", _FULL, draw, task["repeats"])
    faults["full disk while converting"] = _ended(site, "convert", _FULL, draw, task["repeats"])
    from benchmarks.training.stock_checkpoints import stock_faults

    return answer({"faults": faults, "stock": stock_faults(directory / "stock", DAMAGES, task["repeats"], draw)})


def _damaged(site: Site, damage: Damage, repeats: int, draw: random.Random) -> dict[str, int]:
    tally = {"cases": 0, "wrong": 0, "resumed": 0, "named": 0}
    for file in site.newest.files:
        for _ in range(repeats):
            store = site.copy()
            path = site.newest.directory(store) / file.name
            path.chmod(0o600)
            damage(path, draw)
            found, is_wrong, told = site.found(store)
            tally["cases"] += 1
            tally["wrong"] += is_wrong
            tally["resumed"] += found == site.before
            tally["named"] += bool(
                re.search(rf"rank \d+'s file {re.escape(file.name)} (is missing|has .* says )", told)
            )
    return tally


def _ended(site: Site, what: str, how: int, draw: random.Random, repeats: int) -> dict[str, int]:
    """Each file boundary is met once; a full disk at `repeats` random places."""
    tally = {"cases": 0, "wrong": 0, "resumed": 0}
    num_files = len(site.newest.files) if what == "save" else _files_of_a_conversion(site)
    places = range(num_files + 1) if how == _KILLED else range(repeats)
    for place in places:
        store = site.copy()
        limit = draw.randrange(1, max(file.num_bytes for file in site.newest.files)) if how == _FULL else 0

        def body(store: LocalStore = store, place: int = place, limit: int = limit) -> int:
            if how == _KILLED:
                _end_before_file(place)
            else:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                _save(store, site.newest) if what == "save" else _convert(store, site.newest)
            except Exception as error:  # noqa: BLE001 (the child's verdict is its status)
                return _FULL if "file size limit" in str(error) else 1
            return 0

        pid = fork(body, {}, site.directory / "child.log")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, how), f"{what} ended with {status}, see {site.directory / 'child.log'}"
        found, is_wrong, _ = site.found(store, 2 if what == "save" else 1)
        tally["cases"] += 1
        tally["wrong"] += is_wrong or bool(found and checkpoints.damaged_files(store, found))
        tally["resumed"] += bool(
            found and found.step == (site.newest.step + 1 if _is_saved(what, status) else site.newest.step)
        )
    return tally


def _is_saved(what: str, status: int) -> bool:
    return what == "save" and status == 0


def _save(store: LocalStore, source: Checkpoint) -> None:
    """Writes the same files again, as the next step's checkpoint, as ranks write them."""
    prefix = training_key(source.training_id, checkpoints.PARTS, "written-again")
    files: list[CheckpointFile] = []
    for file in source.files:
        with checkpoints.write_file(store, prefix, file.name, files.append) as written:
            written.write((source.directory(store) / file.name).read_bytes())
    written = replace(source, step=source.step + 1, prefix=prefix, files=tuple(files))
    checkpoints.publish(store, written)
    checkpoints.drop_older(store, written, kept=2)


def _convert(store: LocalStore, source: Checkpoint) -> None:
    universal.convert(store, source, attempt=_next_attempt(store, source))


def _next_attempt(store: LocalStore, source: Checkpoint) -> int:
    return open_attempt(store, source.training_id, worker=_WORKER, run_id="benchmark", clock=SystemClock())


def _files_of_a_conversion(site: Site) -> int:
    store = site.copy()
    return len(universal.convert(store, site.newest, attempt=_next_attempt(store, site.newest)).files)


def _end_before_file(place: int) -> None:
    """This process ends, as by `kill -9`, where it would begin its file number `place`."""
    begun = 0

    def counted(*arguments: Any) -> Any:
        nonlocal begun
        if begun == place:
            os._exit(_KILLED)
        begun += 1
        return write_file(*arguments)

    checkpoints.write_file = universal.write_file = counted


def _digests(store: LocalStore, checkpoint: Checkpoint) -> dict[str, str]:
    directory = checkpoint.directory(store)
    return {
        str(path.relative_to(directory)): xxhash.xxh3_128_hexdigest(path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def _raise(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    raise SystemExit(main())
