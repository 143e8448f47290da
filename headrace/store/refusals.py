"""Why a disk or an S3 server refuses, each as half a sentence that ends with what to do."""

import errno
import re

from headrace.errors import StoreOutage, StoreRefused, StoreUnavailable

_OS_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space, then run it again",
    errno.EDQUOT: "the disk quota is used up. Free some space, then run it again",
    errno.EFBIG: "the file would be larger than the file size limit. Raise it (ulimit -f), then run it again",
    errno.EACCES: "permission is denied. Give this user read and write access",
    errno.EPERM: "the operation is not permitted. Check the owner, and that the file system has hard links",
    errno.EROFS: "the file system is read-only. Mount it writable, or set {variable} to another directory",
    errno.EMFILE: "this process has too many open files. Raise the limit (ulimit -n)",
    errno.EIO: "the disk reports an input/output error. Check its health before you write more",
    errno.ESTALE: "the network mount is gone. Mount it again",
    errno.ENOTDIR: "a part of the path is a file. Move it away, or set {variable} to another directory",
    errno.EEXIST: "a part of the path is a file. Move it away, or set {variable} to another directory",
}

# Somebody must change something about these. The others may pass: space is freed, files are closed, a mount returns.
_LASTING_ERRNOS = {
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}

# OSErrors that no store has worded, which another process, the network or a server may have resolved meanwhile.
_PASSING_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ETXTBSY,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EREMOTEIO,
}

# Searched in this order in the client's message, which holds the server's reply; the first match is the reason.
_LASTING = (
    ("NoSuchBucket", "there is no such bucket at {endpoint}. Make it, or correct HEADRACE_STORE"),
    ("InvalidAccessKeyId", "{endpoint} does not know this access key. Correct AWS_ACCESS_KEY_ID"),
    ("SignatureDoesNotMatch", "the secret key does not fit the access key. Correct AWS_SECRET_ACCESS_KEY"),
    ("ExpiredToken", "the credentials have expired. Get new ones"),
    ("RequestTimeTooSkewed", "this machine's clock differs from the server's. Synchronize it (chrony, ntpd)"),
    ("169.254.", "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (
        "403 Forbidden",
        "{endpoint} does not allow this to these credentials. Give them GetObject, PutObject, DeleteObject and "
        "ListBucket on the bucket",
    ),
    ("builder error", "{endpoint} cannot be asked. For an http:// address set AWS_ALLOW_HTTP=true"),
)
_PASSING = (
    (
        "error sending request",
        "{endpoint} does not answer. Check AWS_ENDPOINT_URL, and that the server runs; then run it again",
    ),
    ("operation timed out", "{endpoint} takes too long. Try again when it is less busy"),
)


def os_reason(error: OSError, *, variable: str = "HEADRACE_STORE") -> str:
    """`variable`: the environment variable that names the directory."""
    reason = _OS_REASONS.get(error.errno or 0, f"{error.strerror or error}")
    return reason.format(variable=variable)


def os_refusal(error: OSError, sentence: str) -> StoreUnavailable:
    """The error to raise: a lasting one, or one worth a retry."""
    return (StoreRefused if error.errno in _LASTING_ERRNOS else StoreOutage)(sentence)


def os_may_pass(error: OSError) -> bool:
    """Whether a retry may succeed; a file that is missing, or not ours, stays so."""
    return isinstance(error, ConnectionError | TimeoutError | InterruptedError) or error.errno in _PASSING_ERRNOS


def s3_reason(message: str, *, endpoint: str) -> str:
    """`message`: obstore's message, with the server's reply in it."""
    for sign, reason in (*_LASTING, *_PASSING):
        if sign in message:
            return reason.format(endpoint=endpoint)
    if status := re.search(r"status code: ([45]\d\d [A-Za-z ]+)", message):
        return f"{endpoint} answers {status[1].strip()}. Try again later, or look into the server's log"
    return message.split("\n", 1)[0].rstrip(". ")


def is_lasting(message: str) -> bool:
    """Whether the server will refuse the same request again; asked before repeating one that obstore gave up."""
    if "ConditionalRequestConflict" in message:
        return False
    return any(sign in message for sign, _ in _LASTING) or bool(re.search(r"status code: 4\d\d", message))
