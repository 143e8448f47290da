"""Kills and flipped bits, in the store, at a neighbour and in the cache: whether a wrong byte is ever handed out.

Every trial is a process that opens weights on a node, over real HTTP from a real store. Half are killed (SIGKILL) at a
random moment of it; before the others a random bit flips somewhere. What a process hands out is compared with the
originals; a refusal is right if a damaged store is all that there is.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import Child, at_least, at_most, files_below, print_table, progress, rounded
from benchmarks.parts import Outcome
from benchmarks.weights.client import anonymous_bytes, store_of
from benchmarks.weights.models import llama, write_model
from benchmarks.weights.slow_store import Given

_PLACES = ("kill", "cache", "kill", "neighbour", "kill", "store")
_MEMORY_MIB_MAX = 256


def run(given: Given, root: Path) -> Outcome:
    """Trials, what each met, and how many handed out a wrong byte."""
    shapes = llama(hidden=512, intermediate=1024, key_width=128, num_layers=6, vocab=2000)
    base = write_model(root / "base", shapes, num_shards=2)
    sibling = write_model(
        root / "sibling", shapes, num_shards=2, seed=8, base=base, is_changed=lambda name: ".5." in name
    )
    # A process of its own: this one must never use S3's client, or its forked children could not.
    task = {"namespace": None, "address": "127.0.0.1", "directory": str(root / "server"), "delay_seconds": 0}
    server = Child("benchmarks.weights.server", task)
    try:
        told = json.loads(server.wait_for("ready")[-1])
        os.environ |= told["direct"]
        return _Trials(told["url"], root, [base, sibling], random.Random(7)).run(given.trials)
    finally:
        server.end()


class _Trials:
    def __init__(self, url: str, root: Path, models: list[Path], chance: random.Random) -> None:
        self.url = url
        self.root = root
        self.sha256 = [_sha256_of_files(model) for model in models]
        self.chance = chance
        self.outcomes: Counter[str] = Counter()
        self.most_anonymous = 0
        self.seconds = 0.5
        # Forked children each use S3 themselves; this process never does.
        self._fork = multiprocessing.get_context("fork")
        self.digests: list[str] = self._in_child(_seal, models)

    def run(self, num_trials: int) -> Outcome:
        started = time.monotonic()
        self._trial("warm-up", 0)
        self.seconds = time.monotonic() - started
        for number in range(num_trials):
            if number % 50 == 0:
                progress.print(f"wrong_tensors: {number} of {num_trials}")
            self._trial(_PLACES[number % len(_PLACES)], number)
        rows = [[name, str(count)] for name, count in sorted(self.outcomes.items())]
        print_table(f"{num_trials} kills and flipped bits", ["", "trials"], rows)
        wrong = sum(count for name, count in self.outcomes.items() if "WRONG" in name)
        return Outcome(
            body={"outcomes": dict(self.outcomes)},
            bars={
                "wrong_tensors": at_most(wrong, 0),
                "wrong_tensors_trials": at_least(num_trials, 500),
                "wrong_tensors_memory_mib": at_most(rounded(self.most_anonymous / 2**20), _MEMORY_MIB_MAX),
            },
        )

    def _trial(self, place: str, number: int) -> None:
        which, node = self.chance.randrange(2), self.root / "node"
        if self.chance.random() < 0.4:
            shutil.rmtree(node, ignore_errors=True)
        if place == "kill":
            self._kill(which, node)
            self._check("killed before", which, node)
        elif place == "cache":
            self._in_child(_open, which, node)
            self._flip_in(node)
            self._check("flipped in the cache", which, node)
        elif place == "neighbour":
            self._with_bad_neighbour(which, node)
        elif place == "store":
            undo = self._in_child(_flip_in_store, self.chance.random())
            shutil.rmtree(node, ignore_errors=True)
            self._check("flipped in the store", which, node)
            self._in_child(_put_back, undo)
        else:
            self._check(place, which, node)
        self._in_child(_forget_offers)

    def _kill(self, which: int, node: Path) -> None:
        child = self._fork.Process(target=_open, args=(self, which, node))
        child.start()
        time.sleep(self.chance.random() * self.seconds)
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        child.join()

    def _with_bad_neighbour(self, which: int, node: Path) -> None:
        other = self.root / "other"
        shutil.rmtree(node, ignore_errors=True)
        ready, end = self._fork.Event(), self._fork.Event()
        child = self._fork.Process(target=_offer, args=(self, which, other, ready, end))
        child.start()
        assert ready.wait(60), "the neighbour did not start"
        for _ in range(5):
            self._flip_in(other)
        self._check("flipped at the neighbour", which, node, offers=True)
        end.set()
        child.join()
        shutil.rmtree(other, ignore_errors=True)

    def _flip_in(self, node: Path) -> None:
        files = [path for path in files_below(node) if path.suffix == ".safetensors" and path.stat().st_size]
        path = self.chance.choice(files)
        position, state = self.chance.randrange(path.stat().st_size), path.stat()
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ (1 << self.chance.randrange(8))]))
        if self.chance.random() < 0.5:
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    def _check(self, what: str, which: int, node: Path, *, offers: bool = False) -> None:
        found = self._in_child(_open, which, node, offers)
        self.most_anonymous = max(self.most_anonymous, found.get("anonymous", 0))
        if "refused" in found:
            outcome = "refused" if what == "flipped in the store" else f"refused, WRONGLY: {found['refused']}"
        else:
            outcome = "right" if found["sha256"] == self.sha256[which] else "WRONG BYTES"
        self.outcomes[f"{what}: {outcome}"] += 1

    def _in_child(self, function: Callable[..., Any], *arguments: Any) -> Any:
        ours, theirs = self._fork.Pipe()
        child = self._fork.Process(target=_answer, args=(theirs, function, self, arguments))
        child.start()
        theirs.close()
        answer = ours.recv()
        child.join()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def store(self, node: Path, *, offers: bool = False) -> Any:
        task = {"url": self.url, "cache": str(node), "address": "127.0.0.1", "offers": offers}
        return store_of(task)


def _answer(pipe: Any, function: Callable[..., Any], trials: _Trials, arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send(function(trials, *arguments))
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _seal(trials: _Trials, models: list[Path]) -> list[str]:
    """Indexed, with the whole files gone as after a collection."""
    from headrace.store.indexing import index_directory
    from headrace.store.sealed_directory import collected_key, find_directory, seal_directory

    store, digests = trials.store(trials.root / "sealing"), []
    for model in models:
        digests.append(seal_directory(store, model).digest)
        index_directory(store, digests[-1])
    for digest in digests:
        whole = find_directory(store, digest)
        assert whole
        store.create(collected_key(whole.manifest_key), b"{}")
        store.delete_prefix(whole.key)
    return digests


def _open(trials: _Trials, which: int, node: Path, offers: bool = False) -> dict[str, Any]:
    from headrace.errors import HandoffCorrupt
    from headrace.store.sealed_directory import open_directory

    before = anonymous_bytes()
    try:
        directory = open_directory(trials.store(node, offers=offers), trials.digests[which])
    except HandoffCorrupt as error:
        return {"refused": str(error)}
    return {"sha256": _sha256_of_files(directory), "anonymous": anonymous_bytes() - before}


def _offer(trials: _Trials, which: int, node: Path, ready: Any, end: Any) -> None:
    _open(trials, which, node, offers=True)
    ready.set()
    end.wait(120)


def _flip_in_store(trials: _Trials, where: float) -> tuple[str, bytes]:
    """Returns what was there."""
    store = trials.store(trials.root / "sealing")
    keys = store.list("weights/segments")
    key = keys[int(where * len(keys))]
    body = store.read(key)
    position = int(where * 7919 % 1 * len(body))
    store.delete(key)
    store.create(key, body[:position] + bytes([body[position] ^ 4]) + body[position + 1 :])
    return key, body


def _put_back(trials: _Trials, undo: tuple[str, bytes]) -> None:
    store = trials.store(trials.root / "sealing")
    store.delete(undo[0])
    store.create(*undo)


def _forget_offers(trials: _Trials) -> None:
    store = trials.store(trials.root / "sealing")
    store.delete_prefix("neighbours/weights")


def _sha256_of_files(directory: Path) -> Mapping[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files_below(directory)
    }
