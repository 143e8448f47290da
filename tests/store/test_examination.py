from pathlib import Path

import pytest

from headrace.store import examination
from headrace.store.examination import examine_cache, examine_store
from headrace.store.local import LocalStore
from headrace.store.mounts import mount_findings, mount_of

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
10.0.0.1:/good /mnt/good nfs4 rw,vers=4.2,hard,lookupcache=pos,actimeo=3,local_lock=none 0 0
10.0.0.1:/bad /mnt/bad\\040one nfs rw,vers=3,soft,nolock,local_lock=all 0 0
"""


def levels(directory: str) -> dict[str, str]:
    return {one.check: one.level for one in mount_findings(mount_of(Path(directory), MOUNTS))}


def test_a_mount_is_judged_by_what_it_can_promise() -> None:
    assert levels("/srv/store") == {"file system": "ok"}
    assert levels("/dev/shm/store") == {"file system": "warn"}
    assert set(levels("/mnt/good/store").values()) == {"ok"}
    assert levels("/mnt/bad one/store") == {
        "NFS version": "warn",
        "NFS hard": "fail",
        "NFS freshness": "warn",
        "NFS locks": "warn",
    }
    sentences = " ".join(one.sentence for one in mount_findings(mount_of(Path("/mnt/bad one/x"), MOUNTS)))
    for remedy in ("Mount it hard", "vers=4.2", "lookupcache=positive,actimeo=5", "HEADRACE_CACHE"):
        assert remedy in sentences


@pytest.mark.process
def test_a_good_store_passes_and_is_left_as_it_was(any_store, server, monkeypatch, tmp_path: Path) -> None:
    for name, value in {**server.environment, "HEADRACE_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    findings = examine_store(any_store.url, cache=tmp_path / "cache")
    assert [one for one in findings if one.level == "fail"] == []
    assert {"create if absent", "one winner of two processes", "clock"} <= {one.check for one in findings}
    assert all(one.sentence.endswith(".") for one in findings)
    assert any_store.list("examination") == []


def test_a_store_that_overwrites_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overwrites(LocalStore):
        def create(self, key: str, body: bytes, *, durable: bool = True) -> bool:
            self.delete(key)
            return super().create(key, body, durable=durable)

    monkeypatch.setattr(examination, "open_store", lambda url, **_: Overwrites(Path(url)))
    monkeypatch.setattr(examination, "_race", lambda store, prefix: "")
    found = {one.check: one for one in examine_store(str(tmp_path / "store"))}
    assert found["create if absent"].level == "fail"
    assert "ignores If-None-Match" in found["create if absent"].sentence


def test_a_store_that_cannot_be_reached_is_one_finding(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    first, *others = examine_store(str(tmp_path / "store"))
    assert (first.check, first.level) == ("reachable", "fail")
    assert "a part of the path is a file" in first.sentence
    assert "create if absent" not in {one.check for one in others}


def test_a_cache_on_nfs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = mount_of(Path("/mnt/good"), MOUNTS)
    monkeypatch.setattr(examination, "mount_of", lambda directory: mount)
    (finding,) = examine_cache(Path("/mnt/good/cache"))
    assert finding.level == "fail"
    assert finding.sentence.endswith("Set HEADRACE_CACHE to a local disk.")
