"""What /proc/mounts says of a mount: its file system, and for NFS which options it needs and why."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# With a longer delay, a reader on another machine takes a new version for absent.
_SECONDS_UNSEEN_MAX = 5
_GONE_WITH_THE_MACHINE = {"tmpfs", "ramfs", "overlay"}
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check of a store: the finding in one sentence, and what to do about it."""

    check: str
    level: Literal["ok", "warn", "fail"]
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Mount:
    source: str
    directory: str
    type: str
    options: dict[str, str]

    @property
    def is_nfs(self) -> bool:
        return self.type in {"nfs", "nfs4"}


def mount_of(directory: Path, mounts: str | None = None) -> Mount:
    """The mount that holds `directory`, which need not exist yet; `mounts`: in the form of /proc/mounts."""
    path = directory.resolve()
    found = Mount(source="", directory="/", type="unknown", options={})
    for line in (mounts if mounts is not None else Path("/proc/mounts").read_text()).splitlines():
        source, target, kind, options, *_ = (_unescape(part) for part in line.split(" "))
        # Of two mounts at one place the later one covers the other.
        if path.is_relative_to(target) and len(target) >= len(found.directory):
            pairs = [option.partition("=") for option in options.split(",")]
            named = {name: value for name, _, value in pairs}
            found = Mount(source=source, directory=target, type=kind, options=named)
    return found


def mount_findings(mount: Mount) -> list[Finding]:
    if mount.is_nfs:
        return _nfs_findings(mount)
    place = f"{mount.directory} is {mount.type}"
    if mount.type in _LOCAL:
        return [Finding(check="file system", level="ok", sentence=f"{place}: local, with all that the store needs.")]
    if mount.type in _GONE_WITH_THE_MACHINE:
        sentence = f"{place}: what is sealed there goes with the machine or container. Use a disk for what must stay."
        return [Finding(check="file system", level="warn", sentence=sentence)]
    sentence = f"{place}: not one that Headrace is tested on. The other checks say whether it holds; prefer ext4, xfs."
    return [Finding(check="file system", level="warn", sentence=sentence)]


def _nfs_findings(mount: Mount) -> list[Finding]:
    options = mount.options
    version = options.get("vers", options.get("nfsvers", "unknown"))
    place = f"{mount.directory} is NFS {version} of {mount.source}"
    findings = [
        Finding(
            check="NFS version",
            level="ok" if version.startswith("4") else "warn",
            sentence=f"{place}; the server must export it with sync, which cannot be seen from here."
            if version.startswith("4")
            else f"{place}: before version 4 a repeated request may be told an outcome that was another's. "
            "Mount it with vers=4.2, from an export with sync.",
        )
    ]
    soft = next((name for name in ("soft", "softerr") if name in options), None)
    findings.append(
        Finding(
            check="NFS hard",
            level="fail",
            sentence=f"{place}, mounted {soft}: a slow server makes writes fail "
            "half way, and their outcome unknown. Mount it hard.",
        )
        if soft
        else Finding(check="NFS hard", level="ok", sentence=f"{place}, mounted hard: a slow server is waited for.")
    )
    findings.append(_freshness(mount, place))
    unlocked = "nolock" in options or options.get("local_lock", "none") != "none"
    findings.append(
        Finding(
            check="NFS locks",
            level="warn" if unlocked else "ok",
            sentence=f"{place}, with locks of this machine alone (nolock or local_lock). The store takes none, but "
            "HEADRACE_HOME and HEADRACE_CACHE must lie on a local disk."
            if unlocked
            else f"{place}: locks reach the server. The store takes none.",
        )
    )
    return findings


def _freshness(mount: Mount, place: str) -> Finding:
    options = mount.options
    absent_is_asked_again = options.get("lookupcache") in {"none", "pos", "positive"}
    listing_seconds = int(options.get("acdirmax", options.get("actimeo", "60")))
    if "noac" in options or (absent_is_asked_again and listing_seconds <= _SECONDS_UNSEEN_MAX):
        sentence = f"{place}: a new key is seen by other machines within {_SECONDS_UNSEEN_MAX} s."
        return Finding(check="NFS freshness", level="ok", sentence=sentence)
    sentence = (
        f"{place}: other machines may not see a new key for up to {listing_seconds} s, and so take older versions. "
        f"Nothing is lost by it; for less mount with lookupcache=positive,actimeo={_SECONDS_UNSEEN_MAX}."
    )
    return Finding(check="NFS freshness", level="warn", sentence=sentence)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
