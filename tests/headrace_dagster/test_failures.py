"""What is tried again, and what ends its step at once with its own words and traceback."""

import errno
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy.exc import OperationalError

from headrace.errors import (
    EngineUnavailable,
    HandoffCorrupt,
    InvalidInput,
    StoreOutage,
    StoreRefused,
    TrainingFailed,
)
from headrace.handoff.versions import HandoffStore
from headrace.store.local import LocalStore
from headrace_dagster.failures import permanent_failure, translated_errors
from headrace_dagster.handoff_io import ArrowHandoffIOManager

QUICKLY = dg.RetryPolicy(max_retries=2, delay=0)

RAISED_AS_THEY_ARE = {
    "a store that is away": StoreOutage("away"),
    "an engine that is away": EngineUnavailable("away"),
    "a disk that is full": OSError(errno.ENOSPC, "No space left on device"),
    "a disk that cannot read": OSError(errno.EIO, "Input/output error"),
    "a mount that is gone": OSError(errno.ESTALE, "Stale file handle"),
    "a peer that hung up": ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    "a wait that ended": TimeoutError("timed out"),
    "memory that others hold": MemoryError("4 GiB"),
    "Arrow's memory": pa.ArrowMemoryError("malloc of size 4 failed"),
    "a killed process of a pool": BrokenProcessPool("A process was terminated abruptly"),
    "Dagster's database, locked": OperationalError("INSERT", {}, Exception("database is locked")),
    "what Dagster was asked for": dg.RetryRequested(max_retries=1),
    "a failure that was worded already": permanent_failure("Worded."),
    "a failure that may be retried": dg.Failure("Worded."),
    "a misuse of Dagster": dg.DagsterInvariantViolationError("no partition key"),
    "an interrupt": KeyboardInterrupt(),
}


@pytest.mark.parametrize("phrase", RAISED_AS_THEY_ARE)
def test_what_may_pass_and_what_is_dagsters_is_raised_as_it_is(phrase: str) -> None:
    error = RAISED_AS_THEY_ARE[phrase]
    with pytest.raises(type(error)) as raised, translated_errors():
        raise error
    assert raised.value is error


NO_RETRY = " No retry, which would end the same way: the traceback of the cause says where it comes from."
ENDED_AT_ONCE = {
    "an input that is wrong": (InvalidInput("Wrong: change it."), "Wrong: change it."),
    "a store that refuses": (StoreRefused("No bucket."), "No bucket."),
    "what is damaged": (HandoffCorrupt("Damaged."), "Damaged."),
    "a name that is missing": (KeyError("steps"), f"KeyError: 'steps'.{NO_RETRY}"),
    "an assertion without words": (AssertionError(), f"AssertionError.{NO_RETRY}"),
    "a file that is not there": (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"),
        f"FileNotFoundError: [Errno 2] No such file or directory: '/a'.{NO_RETRY}",
    ),
    "a disk that is read-only": (OSError(errno.EROFS, "Read-only"), f"OSError: [Errno 30] Read-only.{NO_RETRY}"),
    "a library's complaint": (pa.ArrowInvalid("no such cast."), f"ArrowInvalid: no such cast.{NO_RETRY}"),
}


@pytest.mark.parametrize("phrase", ENDED_AT_ONCE)
def test_what_would_come_again_ends_the_step_with_its_class_and_words(phrase: str) -> None:
    error, sentence = ENDED_AT_ONCE[phrase]
    with pytest.raises(dg.Failure) as raised, translated_errors():
        raise error
    assert raised.value.description == sentence
    assert raised.value.allow_retries is False
    # What a user can mend comes without a traceback of ours.
    assert raised.value.__cause__ is (None if isinstance(error, InvalidInput) else error)
    assert raised.value.__suppress_context__


def test_a_failure_shows_what_is_wrong_and_where_as_metadata(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    handoff = handoffs.publish("words", "a", pa.table({"x": [1]}), code_version="1", run_id="r")
    path = handoff.paths[0]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(dg.Failure) as raised, translated_errors():
        handoffs.open("words", "a").table()
    shown = {name: value.value for name, value in raised.value.metadata.items()}
    part = handoff.manifest.parts[0]
    assert shown == {"handoff": "words[a] v1", "part": part.name, "key": part.key}


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise self


def test_a_failure_holds_whatever_an_error_brings() -> None:
    """A culprit that Dagster refuses, or text that its web server cannot encode, would hide the sentence."""
    odd: Any = {"path": Path("/a\udce9"), "layer": np.int64(3), "huge": 10**5000, "parts": {"b"}, "half": "a\ud800"}
    with pytest.raises(dg.Failure) as raised, translated_errors():
        raise InvalidInput("File caf\udce9.jsonl is wrong.", share=0.5, **odd)
    assert raised.value.description == "File caf?.jsonl is wrong."
    shown = {name: value.value for name, value in raised.value.metadata.items()}
    assert shown == {
        "share": 0.5,
        "path": "/a?",
        "layer": "3",
        "huge": "something of type int",
        "parts": "{'b'}",
        "half": "a?",
    }
    with pytest.raises(dg.Failure, match="Unspeakable: an error that has no text") as raised, translated_errors():
        raise Unspeakable
    assert raised.value.allow_retries is False


def test_a_gangs_failure_is_worded_with_its_rank_and_kind_and_retried_as_its_step_says() -> None:
    told = "Training t, attempt 1: rank 1 was killed without a word, exit code -9 (killed)."
    with pytest.raises(dg.Failure) as raised, translated_errors():
        raise TrainingFailed(told, rank=1, kind="killed")
    assert raised.value.description == told
    assert raised.value.allow_retries
    assert {name: value.value for name, value in raised.value.metadata.items()} == {"rank": 1, "kind": "killed"}


def misspell() -> pa.Table:
    return {"rows": pa.table({"x": [1]})}["row"]


@dg.asset(retry_policy=QUICKLY)
@translated_errors()
def with_a_bug() -> pa.Table:
    return misspell()


@dg.asset(retry_policy=QUICKLY)
def sound() -> pa.Table:
    return pa.table({"x": [1]})


def materialized(asset: dg.AssetsDefinition, store: Path) -> dg.ExecuteInProcessResult:
    io_manager = ArrowHandoffIOManager(url=str(store))
    return dg.materialize([asset], resources={"io_manager": io_manager}, raise_on_error=False)


def test_a_bug_fails_its_run_at_once_and_its_traceback_is_shown(tmp_path: Path) -> None:
    result = materialized(with_a_bug, tmp_path)

    assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == []
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error
    assert "KeyError: 'row'. No retry" in error.message
    assert error.cause
    assert error.cause.message == "KeyError: 'row'\n"
    assert any("in misspell" in line for line in error.cause.stack)


def test_a_bug_of_the_io_manager_fails_its_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("in a preview")

    monkeypatch.setattr("headrace_dagster.handoff_io.handoff_metadata", broken)
    result = materialized(sound, tmp_path)

    assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == []
    (failure,) = result.get_step_failure_events()
    assert "ZeroDivisionError: in a preview. No retry" in str(failure.step_failure_data.error)


STREAMS: dict[str, Callable[[Iterator[pa.RecordBatch]], Any]] = {
    "an iterator": lambda batches: batches,
    "a reader": lambda batches: pa.RecordBatchReader.from_batches(pa.schema([("x", pa.int64())]), batches),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_what_an_assets_own_stream_raises_is_left_to_its_own_policy(tmp_path: Path, kind: str) -> None:
    """Another project's stream may read a server of its own: whether to ask it again is that project's word."""

    @dg.asset(retry_policy=QUICKLY)
    def pages() -> Any:
        def batches() -> Iterator[pa.RecordBatch]:
            yield from pa.table({"x": [1]}).to_batches()
            raise LookupError("the page after this one")

        return dg.MaterializeResult(value=STREAMS[kind](batches()))

    result = materialized(pages, tmp_path)

    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 2
    (failure,) = result.get_step_failure_events()
    assert "LookupError: the page after this one" in str(failure.step_failure_data.error)
