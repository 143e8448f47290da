"""What kind of failure an error, a log or an exit code is. Pure: ranks ask it of an error, the run worker of the rest.

An error of ours may say it (`kind` among its culprits); others are judged by their class and by those that they came
from, then by their text: torch raises one class for many things. A log is judged by its last line that names an error,
an exit code by its signal.
"""

import errno
import re
import signal
import traceback
from collections.abc import Iterable, Iterator
from typing import Literal, cast

from headrace.errors import HeadraceError

FailureKind = Literal[
    "out of memory",
    "exception",
    "hang",
    "torn file",
    "not a number",
    "port taken",
    "disk full",
    "missing module",
    "bad row",
    "terminated",
    "slow rank",
    "wrong world size",
    "killed",
    "crashed",
    "lost peer",
    "lost host",
]
OUT_OF_MEMORY: FailureKind = "out of memory"
EXCEPTION: FailureKind = "exception"
HANG: FailureKind = "hang"
TORN_FILE: FailureKind = "torn file"
NOT_A_NUMBER: FailureKind = "not a number"
PORT_TAKEN: FailureKind = "port taken"
DISK_FULL: FailureKind = "disk full"
MISSING_MODULE: FailureKind = "missing module"
BAD_ROW: FailureKind = "bad row"
TERMINATED: FailureKind = "terminated"
SLOW_RANK: FailureKind = "slow rank"
WRONG_WORLD_SIZE: FailureKind = "wrong world size"
KILLED: FailureKind = "killed"
CRASHED: FailureKind = "crashed"
LOST_PEER: FailureKind = "lost peer"
LOST_HOST: FailureKind = "lost host"

# What to do, as the end of a sentence.
ADVICE: dict[FailureKind, str] = {
    OUT_OF_MEMORY: "Lower micro_batch, raise zero_stage, or give the run more memory; headrace check estimates it",
    EXCEPTION: "A retry resumes from the last checkpoint; if it fails the same way, its log says where",
    HANG: "A retry resumes from the last checkpoint; its stack says what it was doing",
    TORN_FILE: "Delete that file's version or put it back, then run it again: a retry passes a torn checkpoint over",
    NOT_A_NUMBER: "Lower learning_rate, lengthen warmup_steps, or lower clip_norm",
    PORT_TAKEN: "Another process holds that port: a retry takes a free one, or end that process",
    DISK_FULL: "Free some space, then run it again: it resumes from the last checkpoint",
    MISSING_MODULE: "Install it where the ranks run, in the environment of the run worker",
    BAD_ROW: "Correct or drop that row in the corpus, and materialize the examples again",
    TERMINATED: "Somebody or something outside ended it (a user, the machine's shutdown); a retry resumes",
    SLOW_RANK: "It is slow, or it hangs: see where it is and what else runs on its cores or its GPU, or raise seconds "
    "of guards.stalled_rank; a retry resumes",
    WRONG_WORLD_SIZE: "Start the gang by the run alone, with the number of ranks that its plan has",
    KILLED: "Something outside killed it, most often the kernel for lack of memory; a retry resumes",
    CRASHED: "A library's native code crashed; a retry resumes, and its log has the last lines",
    LOST_PEER: "The ranks lost each other, by the network or a process that ended; a retry resumes",
    LOST_HOST: "See whether that host and its agent are alive; a retry resumes on the hosts that are",
}

# By class, under whatever module: those of libraries that are not imported here.
_CLASSES: dict[str, FailureKind] = {
    "MemoryError": OUT_OF_MEMORY,
    "OutOfMemoryError": OUT_OF_MEMORY,
    "ArrowMemoryError": OUT_OF_MEMORY,
    "ModuleNotFoundError": MISSING_MODULE,
    "ImportError": MISSING_MODULE,
    "HandoffCorrupt": TORN_FILE,
    "SafetensorError": TORN_FILE,
    "BadZipFile": TORN_FILE,
    "UnpicklingError": TORN_FILE,
    "EOFError": TORN_FILE,
    "KeyboardInterrupt": TERMINATED,
}
# By text, where the class says too little; the first that is found counts.
_TEXTS: tuple[tuple[str, FailureKind], ...] = (
    ("eaddrinuse", PORT_TAKEN),
    ("address already in use", PORT_TAKEN),
    ("no space left on device", DISK_FULL),
    ("the disk is full", DISK_FULL),
    ("disk quota", DISK_FULL),
    ("out of memory", OUT_OF_MEMORY),
    ("can't allocate memory", OUT_OF_MEMORY),
    ("cannot allocate memory", OUT_OF_MEMORY),
    ("not enough memory", OUT_OF_MEMORY),
    ("std::bad_alloc", OUT_OF_MEMORY),
    ("no module named", MISSING_MODULE),
    ("diverged at step", NOT_A_NUMBER),
    ("pytorchstreamreader failed", TORN_FILE),
    ("incomplete metadata", TORN_FILE),
    ("not an arrow file", TORN_FILE),
    ("file is truncated", TORN_FILE),
)
# What a rank sees when another one is gone: not the cause.
_FROM_A_PEER = (
    *("connection closed by peer", "connection reset", "connection refused", "broken pipe", "gloo", "nccl", "socket"),
    *("timed out waiting", "store.get", "tcpstore", "heartbeat"),
)
_ERRNOS: dict[int, FailureKind] = {
    errno.ENOSPC: DISK_FULL,
    errno.EDQUOT: DISK_FULL,
    errno.ENOMEM: OUT_OF_MEMORY,
    errno.EADDRINUSE: PORT_TAKEN,
}
_SIGNALS: dict[int, FailureKind] = {
    signal.SIGKILL: KILLED,
    signal.SIGTERM: TERMINATED,
    signal.SIGINT: TERMINATED,
    signal.SIGHUP: TERMINATED,
    # A mapped file that was cut off under its reader, or memory that a full tmpfs cannot give.
    signal.SIGBUS: TORN_FILE,
}
_ERROR_LINE = re.compile(
    r"^(?:\[rank\d+\]: *)?(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): ?(?P<text>.*)"
)
_OF_A_CHAIN = 10


def kind_of_error(error: BaseException) -> FailureKind:
    """By the error itself, and by what it came from."""
    chain = list(_chain(error))
    for one in chain:
        # An error of ours says it itself.
        if isinstance(one, HeadraceError) and (told := one.culprits.get("kind")) in ADVICE:
            return cast(FailureKind, told)
        if isinstance(one, OSError) and one.errno in _ERRNOS:
            return _ERRNOS[one.errno]
        for base in type(one).__mro__:
            if base.__name__ in _CLASSES:
                return _CLASSES[base.__name__]
    for one in chain:
        if kind := kind_of_text(str(one)):
            return kind
    return EXCEPTION


def kind_of_text(text: str) -> FailureKind | None:
    """None: it says nothing that is known."""
    lowered = text.lower()
    return next((kind for sign, kind in _TEXTS if sign in lowered), None)


def is_from_a_peer(text: str) -> bool:
    """Whether an error's text is what a rank sees when another one is gone."""
    lowered = text.lower()
    return any(sign in lowered for sign in _FROM_A_PEER)


def kind_of_exit(code: int) -> FailureKind:
    """By a process's exit code: negative, a signal's number."""
    if code >= 0:
        return EXCEPTION
    return _SIGNALS.get(-code) or CRASHED


def last_error(lines: Iterable[str]) -> tuple[str, FailureKind] | None:
    """The last line of a log that names an error, and its kind; None: there is none."""
    for line in reversed(list(lines)):
        if found := _ERROR_LINE.match(line.strip()):
            name = found["name"].rpartition(".")[2]
            kind = _CLASSES.get(name) or kind_of_text(found["text"]) or EXCEPTION
            return line.strip(), kind
    return None


def traceback_lines(error: BaseException, count: int) -> tuple[str, ...]:
    """The innermost frames and the error, as Python prints them."""
    lines = [line for part in traceback.format_exception(error) for line in part.rstrip().splitlines()]
    return tuple(lines[-count:])


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    for _ in range(_OF_A_CHAIN):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
