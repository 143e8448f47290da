import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from tests.killing import run_and_kill

pytestmark = pytest.mark.process

KILLED_WRITER = Path(__file__).parent.parent / "store/killed_writer.py"


def test_a_publisher_killed_at_any_line_leaves_a_whole_version_or_none(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, str(KILLED_WRITER), "publish", str(tmp_path), "60"], check=True, capture_output=True, text=True
    ).stdout.split()
    table = pa.table({"number": list(range(2000)), "text": [f"row {n}" for n in range(2000)]})
    num_sealed = 0
    for directory in killed:
        handoffs = HandoffStore(LocalStore(Path(directory)))
        sealed = handoffs.newest("docs", "shard-00")
        if sealed:
            num_sealed += 1
            sealed.verify()
            assert sealed.table().cast(table.schema).equals(table)
        again = handoffs.publish("docs", "shard-00", table, code_version="1", run_id="r2")
        assert again.reused == bool(sealed)
        assert handoffs.versions("docs", "shard-00") == [1]
        assert again.table().cast(table.schema).equals(table)
    assert 0 < num_sealed < len(killed) == 60


PUBLISHER = """
import sys
from pathlib import Path
import pyarrow as pa
from headrace.errors import PublishConflict
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
handoffs, name = HandoffStore(LocalStore(Path(sys.argv[1]))), sys.argv[2]
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    table = pa.table({"n": [n] * 50, "name": [name] * 50})
    while True:
        try:
            handoffs.publish("docs", "all", table, code_version="1", run_id=name, attributes={"n": str(n)})
            break
        except PublishConflict:  # the other one was faster: the next number
            pass
"""


@pytest.mark.parametrize(("names", "num_versions"), [("ab", 40), ("cc", 20)], ids=["different rows", "the same rows"])
def test_two_publishers_of_one_partition_lose_nothing_and_repeat_nothing(
    tmp_path: Path, names: str, num_versions: int
) -> None:
    publishers = [
        subprocess.Popen([sys.executable, "-c", PUBLISHER, str(tmp_path), name, "20"], stdin=subprocess.PIPE)
        for name in names
    ]
    for publisher in publishers:
        assert publisher.stdin
        publisher.stdin.write(b"go\n")
        publisher.stdin.flush()
    assert [publisher.wait() for publisher in publishers] == [0, 0]

    handoffs = HandoffStore(LocalStore(tmp_path))
    numbers = handoffs.versions("docs", "all")
    rows = [handoffs.open("docs", "all", number).table().slice(0, 1).to_pylist()[0] for number in numbers]
    if names == "ab":
        assert numbers == list(range(1, num_versions + 1))
        assert sorted((row["name"], row["n"]) for row in rows) == [(name, n) for name in names for n in range(20)]
    else:
        # Whoever is behind finds each of its steps sealed, or seals it again after the other went ahead.
        assert {row["n"] for row in rows} == set(range(num_versions))
        assert all(one != other for one, other in pairwise(rows))


def test_a_stream_killed_from_outside_leaves_no_version(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import pyarrow as pa
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
batch = pa.record_batch({"x": pa.array(range(1_000_000))})
def batches():
    while True:
        yield batch
        print("batch", flush=True)
HandoffStore(LocalStore(Path(sys.argv[1]))).publish("docs", "all", batches(), schema=batch.schema, code_version="1",
                                                    run_id="r")
"""
    run_and_kill(script, tmp_path, word="batch", times=20)
    handoffs = HandoffStore(LocalStore(tmp_path))
    assert handoffs.newest("docs", "all") is None
    assert handoffs.partitions("docs") == []
    assert (tmp_path / ".tmp").exists()  # it was killed in the middle of a part
