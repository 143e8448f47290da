"""sha256 of files while they are put together: follows from front to back what is there already.

So that the last comparison, of whole files with what the weights' digest says, costs no pass of its own at the end.
"""

import hashlib
import mmap
import threading
from collections.abc import Collection
from pathlib import Path

from headrace.store.tensors.index import Leaf, TensorIndex


class FileDigests:
    """As a context: a thread that reads what `placed` tells. `results`: hex digests by file name, of files that are
    through."""

    def __init__(self, index: TensorIndex, directory: Path) -> None:
        self.results: dict[str, str] = {}
        self._index = index
        self._directory = directory
        self._there: set[tuple[int, int]] = set()
        self._news = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._follow, name="headrace-sha256", daemon=True)

    def __enter__(self) -> "FileDigests":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._news:
            self._is_over = True
            self._news.notify()
        self._thread.join()

    def placed(self, leaves: Collection[Leaf]) -> None:
        with self._news:
            self._there |= {(leaf.file, leaf.offset) for leaf in leaves}
            self._news.notify()

    def wait(self) -> None:
        """Until every file is through: call it when every leaf is there."""
        self._thread.join()

    def _follow(self) -> None:
        leaves: dict[int, list[Leaf]] = {}
        for run in self._index.runs:
            leaves.setdefault(run.file, []).extend(run.pieces())
        for number, file in enumerate(self._index.files):
            digest = hashlib.sha256()
            if own := leaves.get(number):
                with (self._directory / file.name).open("rb") as opened:
                    body = memoryview(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ))
                for leaf in own:
                    if not self._is_there(leaf):
                        return
                    digest.update(body[leaf.offset : leaf.offset + leaf.num_bytes])
            self.results[file.name] = digest.hexdigest()

    def _is_there(self, leaf: Leaf) -> bool:
        """Waits for it. False: it will not come."""
        key = (leaf.file, leaf.offset)
        with self._news:
            self._news.wait_for(lambda: key in self._there or self._is_over)
            return key in self._there
