"""`headrace doctor`: checks the store and this machine for everything that Headrace relies on."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.command_line.opening import Surroundings, open_handoffs, surroundings_of
from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from headrace.store.mounts import Finding

_GPU_WAIT_SECONDS = 20.0
# The longest check name, and two blanks.
_CHECK_CHARS = 28


EveryObject = Annotated[
    bool, typer.Option("--all", help="Read every small object of the store, and not as many as 20 seconds allow.")
]


@examples(
    "headrace doctor",
    "headrace doctor --store s3://headrace/store --json",
    "headrace doctor --all                                 every claim, journal entry, record …, however many",
)
def doctor(
    context: typer.Context, store: Store = None, every_object: EveryObject = False, as_json: AsJson = False
) -> None:
    """Examine the store, its objects, packages, disks, Dagster's home, GPUs and the clock; exit 1 if anything fails."""
    from headrace.command_line.bodies.store import ExaminedBody
    from headrace.command_line.output import print_json, print_lines, print_marked

    findings = []
    for finding in examine(context, store, every_object=every_object):
        findings.append(finding)
        if not as_json:
            print_marked(finding.level, f"{finding.check:{_CHECK_CHARS}} {finding.sentence}")
    num_failed = sum(finding.level == "fail" for finding in findings)
    if as_json:
        print_json(ExaminedBody(well=not num_failed, findings=tuple(findings)))
    else:
        num_warned = sum(finding.level == "warn" for finding in findings)
        print_lines(["", f"{len(findings)} checks: {num_failed} failed, {num_warned} to look at."])
    if num_failed:
        raise typer.Exit(1)


def examine(context: typer.Context, store: str | None, *, every_object: bool) -> "Iterator[Finding]":
    """Yields one finding at a time, since some wait for a network."""
    around = surroundings_of(context, store)
    yield from packages()
    yield from _store(context, store, every_object=every_object)
    yield dagster_home(around)
    yield gpus()
    yield bf16()


def packages() -> "Iterator[Finding]":
    """Compares installed packages with the versions that this Headrace declares."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in requires("headrace") or []]
    fitting, num_wrong = 0, 0
    for requirement in needed:
        is_optional = requirement.marker is not None and "extra" in str(requirement.marker)
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            if not is_optional:
                num_wrong += 1
                sentence = f"not installed; Headrace needs {requirement.specifier}. Run make setup."
                yield _finding(requirement.name, "fail", sentence)
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            fitting += 1
        else:
            num_wrong += 1
            yield _finding(
                requirement.name,
                "warn" if is_optional else "fail",
                f"{installed} is installed, Headrace was made for {requirement.specifier}. Run make setup.",
            )
    if not num_wrong:
        sentence = f"headrace {version('headrace')}; {fitting} installed packages fit what it was made for."
        yield _finding("packages", "ok", sentence)


def _store(context: typer.Context, store: str | None, *, every_object: bool) -> "Iterator[Finding]":
    from headrace.store.examination import examine_store
    from headrace.store.standings import standings_finding

    try:
        # First, since the examination would create a missing directory.
        objects = open_handoffs(context, store).objects
        around = surroundings_of(context, store)
        yield from examine_store(around.store_url, cache=around.cache_directory)
        yield standings_finding(objects, every=every_object)
    except HeadraceError as error:
        yield _finding("store", "fail", str(error))


def dagster_home(around: Surroundings) -> "Finding":
    """Dagster refuses a relative home, and without any it forgets its runs when the process ends."""
    name = "DAGSTER_HOME"
    if not around.dagster_home:
        sentence = "is not set: `headrace gc` cannot ask what Dagster names, and `dagster dev` forgets its runs."
        return _finding(name, "warn", sentence)
    home = Path(around.dagster_home)
    if not home.is_absolute():
        return _finding(name, "fail", f"must be an absolute path, got {around.dagster_home!r}.")
    if not home.is_dir():
        return _finding(name, "fail", f"{home} does not exist. Make it, or correct the variable.")
    if not (home / "dagster.yaml").is_file():
        return _finding(
            name,
            "warn",
            f"{home} has no dagster.yaml: Dagster uses its defaults, and its runs do not get Headrace's launcher.",
        )
    return _finding(name, "ok", f"{home}, with a dagster.yaml.")


def gpus() -> "Finding":
    """The GPUs that the driver shows to this user; only torch knows whether it fits the driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return _finding("GPUs", "ok", "no nvidia-smi: this machine computes on its CPUs.")
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_WAIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        sentence = f"nvidia-smi is there and fails ({error}). Check the driver (dmesg), then run it by hand."
        return _finding("GPUs", "fail", sentence)
    lines = [line.strip() for line in found.stdout.splitlines() if line.strip()]
    return _finding(
        "GPUs",
        "ok" if lines else "warn",
        f"{len(lines)}: {'; '.join(sorted(set(lines)))}." if lines else "the driver is there and shows none.",
    )


def bf16() -> "Finding":
    """Checks the recipes' default precision, which some CPUs can only emulate."""
    from headrace.training.devices import SLOW_BF16, detect_devices

    devices = detect_devices({})
    if devices.computes_bf16:
        return _finding("bf16", "ok", f"the {'GPUs' if devices.num_gpus else 'CPU'} can compute in it.")
    sentence = f"{SLOW_BF16}. Set precision: fp32 in recipes, and dtype: float32 in campaigns and services."
    return _finding("bf16", "warn", sentence)


def _finding(check: str, level: Literal["ok", "warn", "fail"], sentence: str) -> "Finding":
    from headrace.store.mounts import Finding

    return Finding(check=check, level=level, sentence=sentence)
