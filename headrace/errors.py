"""One error family. Types say what the caller can do; culprits are attributes; the text says what to do next.

Permanent errors (`InvalidInput` and below, `HandoffCorrupt`, `IllegalTransition`, `StoreRefused`) repeat on every
retry, so assets turn them into `dg.Failure(allow_retries=False)`. `Transient` errors are raised unchanged, and the
retry policy decides.
"""

from typing import cast


class HeadraceError(Exception):
    """Root of every error that Headrace raises on purpose.

    `culprits`: named facts about what is wrong and where, such as `{"handoff": …, "part": …}`.
    Facts that are None are left out. Dagster shows them as metadata of the failure.
    """

    def __init__(self, message: str = "", **culprits: str | int | float | None) -> None:
        super().__init__(message)
        self.culprits = {name: value for name, value in culprits.items() if value is not None}


class InvalidInput(HeadraceError):
    """A file, a config or an argument is wrong; a retry would fail the same way."""


class InvalidTrainingRun(InvalidInput):
    """A training recipe that cannot run as written; raised before any process starts."""


class InvalidCampaign(InvalidInput):
    """A campaign file that cannot run as written."""


class BudgetSpent(InvalidInput):
    """A campaign's day has spent its budget: what is made stays, and a larger budget goes on there."""


class QuarantineExceeded(InvalidInput):
    """More of a corpus shard is unreadable than the configured share allows."""


class ObjectMissing(HeadraceError):
    """The store has no object under this key."""


class StoreUnavailable(HeadraceError):
    """The store cannot take or give bytes now. Raised as StoreRefused or StoreOutage: does waiting help?"""


class StoreRefused(StoreUnavailable):
    """The store will refuse again until somebody changes something: no bucket, a wrong key, a read-only disk."""


class HandoffMissing(HeadraceError):
    """No sealed version of this asset and partition exists."""


class HandoffCollected(HandoffMissing):
    """Garbage collection has deleted this version: open the newest."""


class HandoffCorrupt(HeadraceError):
    """The stored object differs from what was written: never read on. `key`: the object's key, if known."""

    @property
    def key(self) -> str | None:
        return cast("str | None", self.culprits.get("key"))


class ManifestDamaged(HandoffCorrupt):
    """A manifest differs from what its writer created."""


class FormatTooNew(HandoffCorrupt):
    """A newer Headrace wrote this: upgrade to read it."""


class PartMissing(HandoffCorrupt):
    """A part that the manifest names is not in the store."""


class PartTorn(HandoffCorrupt):
    """A part does not have the size that its manifest states."""


class PartForeign(HandoffCorrupt):
    """The object under a part's key is not an Arrow file of this handoff."""


class PartFlipped(HandoffCorrupt):
    """Bytes of a part differ from their digest."""


class IllegalTransition(HeadraceError):
    """An event that the current state does not allow."""


class JournalConflict(HeadraceError):
    """Somebody else appended this journal entry first: read the head again, then decide again."""


class Transient(HeadraceError):
    """Worth a retry: a peer, a process or a server failed."""


class StoreOutage(StoreUnavailable, Transient):
    """The store has not answered, or has answered 5xx, for too long; or a disk is full."""


class PublishConflict(Transient):
    """Another writer sealed this version first, or used newer inputs: read the newest inputs, then make it again."""


class TrainingFailed(Transient):
    """The training processes ended without a sealed result; a retry resumes from the last checkpoint."""


class EngineUnavailable(Transient):
    """A generation engine cannot be reached or loaded now."""


class RegistryUnavailable(Transient):
    """The model registry does not answer, or the answer is not a registry's."""


class RegistryMissing(InvalidInput):
    """The model registry does not have this model, version or run any more."""


class RepinRequired(Transient):
    """The version set that a claim pinned was aborted before its partition was sealed; the next attempt re-pins."""


# Records and logs keep so much of an error's text.
_REASON_CHARACTERS_MAX = 500


def text_of(error: BaseException) -> str:
    """An error's text, which UTF-8 can encode, whatever class it is of."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (another package's class; what is told must not depend on how it is made)
        return "an error that has no text"
    # Half a surrogate, as a file's name or a library may bring it, cannot be kept in a record.
    return text.encode(errors="replace").decode()


def reason_of(error: BaseException) -> str:
    """An error as a one-line reason that UTF-8 can encode: our errors unchanged, any other with its type's name."""
    text = " ".join(text_of(error).split())
    if not isinstance(error, HeadraceError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS_MAX else text[: _REASON_CHARACTERS_MAX - 1] + "…"
