"""One error family. Types say what the caller can do; culprits are attributes; the text says what to do next.

Permanent errors (`InvalidInput` and below, `HandoffCorrupt`, `IllegalTransition`, `StoreRefused`) repeat on every
retry, so assets turn them into `dg.Failure(allow_retries=False)`. `Transient` errors are raised as they are: the retry
policy speaks.
"""


class HeadraceError(Exception):
    """Root of every error that Headrace raises on purpose."""


class InvalidInput(HeadraceError):
    """A file, a config or an argument is wrong; a retry would fail the same way."""


class InvalidTrainingRun(InvalidInput):
    """A training recipe that cannot run as written; raised before any process starts."""


class InvalidCampaign(InvalidInput):
    """A campaign file that cannot run as written."""


class QuarantineExceeded(InvalidInput):
    """More of a corpus shard is unreadable than the configured share allows."""


class ObjectMissing(HeadraceError):
    """The store has no object under this key."""


class StoreUnavailable(HeadraceError):
    """The store cannot take or give bytes now. Raised as one of the two kinds below: will it pass by itself?"""


class StoreRefused(StoreUnavailable):
    """It will refuse the same again until somebody changes something: no bucket, a wrong key, a read-only disk."""


class HandoffMissing(HeadraceError):
    """No sealed version of this asset and partition exists."""


class HandoffCollected(HandoffMissing):
    """Garbage collection has taken this version: open the newest."""


class HandoffCorrupt(HeadraceError):
    """What the store holds is not what was written there: never read on. `key`: the object's, where it is one."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class ManifestDamaged(HandoffCorrupt):
    """A manifest is not what its writer created."""


class FormatTooNew(HandoffCorrupt):
    """A newer Headrace wrote this: upgrade to read it."""


class PartMissing(HandoffCorrupt):
    """A part that the manifest names is not in the store."""


class PartTorn(HandoffCorrupt):
    """A part does not have the size that its manifest states."""


class PartForeign(HandoffCorrupt):
    """What lies under a part's key is no Arrow file of this handoff."""


class PartFlipped(HandoffCorrupt):
    """Bytes of a part differ from their digest."""


class IllegalTransition(HeadraceError):
    """An event that the current state does not allow."""


class JournalConflict(HeadraceError):
    """Somebody else appended this journal entry first: read the head again, then decide again."""


class Transient(HeadraceError):
    """Worth a retry: a peer, a process or a server failed."""


class StoreOutage(StoreUnavailable, Transient):
    """It does not answer, or answers 5xx, for longer than it was waited for; or a disk is full."""


class PublishConflict(Transient):
    """Another writer sealed this version first, or one of newer inputs: read the newest inputs, then make it again."""


class TrainingFailed(Transient):
    """The training processes ended without a sealed result; a retry resumes from the last checkpoint."""


class EngineUnavailable(Transient):
    """A generation engine cannot be reached or loaded now."""


class RegistryUnavailable(Transient):
    """The model registry does not answer, or what answers is no registry."""


class RegistryMissing(InvalidInput):
    """The model registry does not have this model, version or run any more."""


class RepinRequired(Transient):
    """The version set that a claim pinned was aborted before its partition was sealed; the next attempt re-pins."""


# What records and logs keep of an error's text.
_REASON_CHARACTERS_MAX = 500


def reason_of(error: BaseException) -> str:
    """An error as the reason of what it ended, in a line: ours as they are, any other with its type's name."""
    text = " ".join(str(error).split())
    if not isinstance(error, HeadraceError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS_MAX else text[: _REASON_CHARACTERS_MAX - 1] + "…"
