"""The manifest of a sealed version: one small JSON object, made by `create` after all of its parts."""

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import xxhash

from headrace.errors import FormatTooNew, HandoffCorrupt, ManifestDamaged
from headrace.store.objects import Segment, canonical_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 2
_FACTS = (
    *("nonce", "content_digest", "num_rows", "num_bytes", "code_version", "run_id", "input_versions", "attributes"),
    "created_at",
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One Arrow IPC file with one record batch, cut into segments from its first byte to its last, one for each buffer.

    `sizes` and `digests` are the segments', in order; `columns` gives the top-level column of each, or -1 for a segment
    that every reader needs. These digests prove integrity, not identity.
    """

    key: str
    num_rows: int
    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    digests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @cached_property
    def num_bytes(self) -> int:
        return sum(self.sizes)

    @cached_property
    def xxh3_128(self) -> str:
        """Digest over all segments' digests: identifies the part's bytes as a whole."""
        return xxhash.xxh3_128_hexdigest("".join(self.digests).encode())

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Built only when bytes are checked or fetched; mapping a local file needs none."""
        offsets = accumulate(self.sizes, initial=0)
        return tuple(
            Segment(offset=offset, num_bytes=num_bytes, xxh3_128=digest)
            for offset, num_bytes, digest in zip(offsets, self.sizes, self.digests, strict=False)
        )

    def segments_of(self, columns: Iterable[int]) -> list[Segment]:
        """The segments that a reader of these columns touches."""
        wanted = {-1, *columns}
        return [segment for segment, column in zip(self.segments, self.columns, strict=True) if column in wanted]

    def to_body(self) -> dict[str, Any]:
        """Offsets follow from the sizes. Parallel lists for the segments keep manifests of wide tables small."""
        segments = [list(segment) for segment in zip(self.columns, self.sizes, self.digests, strict=True)]
        return {"key": self.key, "num_rows": self.num_rows, "segments": segments}

    @classmethod
    def from_body(cls, body: dict[str, Any]) -> "Part":
        columns, sizes, digests = zip(*body["segments"], strict=True)
        return cls(key=body["key"], num_rows=body["num_rows"], columns=columns, sizes=sizes, digests=digests)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`content_digest` covers schema and values alone; the other fields say where they lie and where they came from.

    `arrow_schema` is the files' schema, as Arrow serializes it, in base64.
    """

    asset: str
    partition: str
    version: int
    num_rows: int
    num_bytes: int
    parts: tuple[Part, ...]
    arrow_schema: str
    schema_fingerprint: str
    content_digest: str
    code_version: str
    run_id: str
    input_versions: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    created_at: str
    write_seconds: float
    nonce: str
    format_version: int = FORMAT_VERSION

    @property
    def label(self) -> str:
        return f"{self.asset}[{self.partition}] v{self.version}"

    def facts(self) -> dict[str, Any]:
        """The facts that are kept when a version is collected."""
        return {name: getattr(self, name) for name in _FACTS}

    @property
    def serialized_schema(self) -> bytes:
        return base64.b64decode(self.arrow_schema)

    @property
    def schema(self) -> "pa.Schema":
        import pyarrow as pa

        return pa.ipc.read_schema(pa.py_buffer(self.serialized_schema))

    def to_body(self) -> dict[str, Any]:
        """JSON fields, with a digest over all of them, which shows damage to the manifest."""
        fields = asdict(self) | {"parts": [part.to_body() for part in self.parts]}
        return {**fields, "manifest_sha256": hashlib.sha256(canonical_json(fields)).hexdigest()}

    @classmethod
    def from_bytes(cls, text: bytes, *, uri: str) -> "Manifest":
        """Raises:
        ManifestDamaged: the bytes differ from what `to_body` made.
        FormatTooNew: a newer Headrace wrote them.
        HandoffCorrupt: an older Headrace wrote them, before the format was fixed.
        """
        try:
            fields = json.loads(text)
            stated = fields.pop("manifest_sha256")
            found = hashlib.sha256(canonical_json(fields)).hexdigest()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ManifestDamaged(f"Manifest {uri} is damaged ({error}). {_REMEDY}", manifest=uri) from error
        if found != stated:
            raise ManifestDamaged(
                f"Manifest {uri} has digest {found[:12]}…, it states {stated[:12]}…. {_REMEDY}", manifest=uri
            )
        version = fields["format_version"]
        if version > FORMAT_VERSION:
            raise FormatTooNew(
                f"Manifest {uri} has format {version}, this Headrace reads {FORMAT_VERSION}. "
                "Upgrade Headrace to the version that wrote it, or a later one.",
                manifest=uri,
                format=version,
            )
        if version < FORMAT_VERSION:
            raise HandoffCorrupt(
                f"Manifest {uri} has format {version}, this Headrace reads {FORMAT_VERSION}. {_REMEDY}",
                manifest=uri,
                format=version,
            )
        parts = tuple(map(Part.from_body, fields.pop("parts")))
        return cls(**fields, parts=parts)


def encoded_schema(schema: "pa.Schema") -> str:
    return base64.b64encode(schema.serialize()).decode()


_REMEDY = "Materialize the partition again: that seals a new version."
