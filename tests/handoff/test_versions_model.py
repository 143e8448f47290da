"""Any order of publishing, failing, damaging and reading, against a list of versions in memory."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.clock import FixedClock
from headrace.errors import HandoffCorrupt, HandoffMissing
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore

CONTENTS = [pa.table({"x": list(range(start, start + 10))}) for start in range(3)]
MADE_BY: dict[str, Any] = {"code_version": "1", "run_id": "r"}


class VersionsAreAList(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="headrace-handoff-"))
        self.handoffs = HandoffStore(LocalStore(self.directory), FixedClock())
        self.sealed: list[tuple[int, str]] = []
        self.damaged: set[int] = set()

    @rule(content=st.sampled_from([0, 1, 2]), claim=st.sampled_from("ab"), chunk=st.sampled_from([3, 10]))
    def publish(self, content: int, claim: str, chunk: int) -> None:
        table = CONTENTS[content]
        handoff = self.handoffs.publish(
            "docs",
            "all",
            iter(table.to_batches(max_chunksize=chunk)),
            schema=table.schema,
            attributes={"claim": claim},
            **MADE_BY,
        )
        expected = bool(self.sealed) and self.sealed[-1] == (content, claim) and len(self.sealed) not in self.damaged
        assert handoff.reused == expected
        if not handoff.reused:
            self.sealed.append((content, claim))
        assert handoff.version == len(self.sealed)

    @rule(content=st.sampled_from([0, 1, 2]))
    def fail_to_publish(self, content: int) -> None:
        def batches() -> Iterator[pa.RecordBatch]:
            yield from CONTENTS[content].to_batches()
            raise ConnectionError

        with suppress(ConnectionError):
            self.handoffs.publish("docs", "all", batches(), schema=CONTENTS[content].schema, **MADE_BY)

    @precondition(lambda self: self.sealed)
    @rule(at=st.integers(8, 200))
    def damage_the_newest(self, at: int) -> None:
        path = self.handoffs.open("docs", "all").paths[0]
        if len(self.sealed) in self.damaged:
            return
        path.chmod(0o644)
        body = bytearray(path.read_bytes())
        body[at] ^= 1
        path.write_bytes(body)
        self.damaged.add(len(self.sealed))

    @rule(claim=st.sampled_from("ab"))
    def find(self, claim: str) -> None:
        found = self.handoffs.find("docs", "all", claim=claim)
        with_claim = [number for number, (_, own) in enumerate(self.sealed, 1) if own == claim]
        assert (found.version if found else None) == (with_claim[-1] if with_claim else None)

    @invariant()
    def every_version_is_what_was_sealed_or_is_known_to_be_damaged(self) -> None:
        assert self.handoffs.versions("docs", "all") == list(range(1, len(self.sealed) + 1))
        for number, (content, _) in enumerate(self.sealed, 1):
            handoff = self.handoffs.open("docs", "all", number)
            if number in self.damaged:
                with pytest.raises(HandoffCorrupt):
                    handoff.table()
            else:
                assert handoff.table().equals(CONTENTS[content])
        with pytest.raises(HandoffMissing):
            self.handoffs.open("docs", "all", len(self.sealed) + 1)

    @invariant()
    def nothing_else_is_left(self) -> None:
        parts = self.handoffs.objects.children("handoff/docs/all/parts")
        assert len(parts) == len(self.sealed)

    def teardown(self) -> None:
        shutil.rmtree(self.directory)


TestVersionsAreAList = VersionsAreAList.TestCase
