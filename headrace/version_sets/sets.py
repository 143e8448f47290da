"""Version sets: the exact models and settings that one unit of work sees, identified by their content.

A set is immutable; its id is a sha256 over everything that can change an output. Two things are kept and not included:
the weights' location (`weights_uri`), since the same bytes in a moved store are the same set, and the kind of CPU
(`EngineSpec.cpu`), or each kind in a cluster would have sets of its own. Sets are never deleted, so rows of a retired
set stay traceable.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from headrace.errors import HandoffCorrupt, InvalidInput, ObjectMissing
from headrace.keys import digest_text
from headrace.masking import without_credentials
from headrace.store.objects import ObjectStore, canonical_json
from headrace.store.small_objects import Kind, create_object, read_object
from headrace.version_sets.media_settings import Hearing, MemberKind, Picture, Speech, kind_of

ROOT = "version_sets"
_BEGINNING = re.compile(r"[0-9a-f]{4,64}")
# At most so many sets are listed when a prefix fits several.
_NUM_NAMED_MAX = 4


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are drawn. Temperature 0 is greedy."""

    # Another default would give every file that leaves the key out another version set.
    # Ranges also as annotations, so that a file's report has each of them.
    temperature: Annotated[float, Ge(0)] = 0.7
    """0 is greedy; higher is more varied."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Only the likeliest tokens with this share of the probability are drawn; 1: all."""
    max_new_tokens: Annotated[int, Ge(1)] = 256
    """The longest answer, in tokens; a longer one is cut off."""

    def __post_init__(self) -> None:
        # YAML's `temperature: 0` and `0.0` mean the same, and must give the same id.
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "top_p", float(self.top_p))
        if not 0 <= self.temperature < float("inf"):
            raise InvalidInput(f"Decoding needs temperature >= 0, got temperature={self.temperature!r}.")
        if not 0 < self.top_p <= 1:
            raise InvalidInput(f"Decoding needs 0 < top_p <= 1, got top_p={self.top_p!r}.")
        if self.max_new_tokens < 1:
            raise InvalidInput(f"Decoding needs max_new_tokens >= 1, got max_new_tokens={self.max_new_tokens!r}.")


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Turns prompts into text. `build` names the library versions; `num_threads` changes sums of floats.

    Attributes:
        template_date: the date that a chat template gets when it asks for today's.
        special_tokens: texts that no prompt or message may contain, since the server would take them for a turn.
        batch_rows: how many rows are decoded together, always: fewer are padded, since the shape of a batch moves the
            last bits of every sum.
        request: what a server's dialect of OpenAI's protocol has beside our own keys, as canonical JSON.
        allow_url_hosts: other hosts from which a server's pictures may be fetched.
        merge_adapter: whether an adapter is added to its base's weights when it is loaded.
        options: those of another package's engine, as canonical JSON.
        cpu: the kind of CPU of the machine that made the set, for engines that compute here. An engine on another kind
            is another build. Not part of the id: a daemon that moves to another machine would start a rollout.
    """

    name: str
    dtype: str = "bfloat16"
    num_threads: int = 1
    build: str = ""
    base_url: str | None = None
    model: str | None = None
    template_date: str | None = None
    special_tokens: tuple[str, ...] = ()
    batch_rows: int = 8
    request: str = ""
    allow_url_hosts: tuple[str, ...] = ()
    options: str = ""
    cpu: str = ""
    merge_adapter: bool = False

    def __post_init__(self) -> None:
        # JSON has lists.
        object.__setattr__(self, "special_tokens", tuple(self.special_tokens))
        object.__setattr__(self, "allow_url_hosts", tuple(self.allow_url_hosts))

    @property
    def whole_build(self) -> str:
        """Library versions and the kind of CPU, such as `torch 2.13.0, CPU AMD AVX512`."""
        return ", ".join([*filter(None, [self.build]), *([f"CPU {self.cpu}"] if self.cpu else [])])


@dataclass(frozen=True, kw_only=True)
class Member:
    """One role's model, its prompt template, and how it makes its output: decoding, picture, speech or hearing."""

    role: str
    model_name: str
    model_version: str
    weights_digest: str
    weights_uri: str
    system_prompt: str
    user_template: str
    decoding: Decoding | None = None
    # None: the set's engine. Roles of one set may run on different engines, such as two servers.
    engine: EngineSpec | None = None
    picture: Picture | None = None
    speech: Speech | None = None
    hearing: Hearing | None = None

    def __post_init__(self) -> None:
        if (self.decoding, self.picture, self.speech, self.hearing).count(None) != 3:
            raise InvalidInput(
                f"A member has one of decoding, picture, speech and hearing, got {self.role!r} with "
                f"decoding={self.decoding!r}, picture={self.picture!r}, speech={self.speech!r}, "
                f"hearing={self.hearing!r}."
            )

    @property
    def kind(self) -> MemberKind:
        return kind_of(self.picture, self.speech, self.hearing)

    @property
    def writing(self) -> Decoding:
        """How a member that writes draws tokens. Raises: InvalidInput: it paints, speaks or hears."""
        if self.decoding is None:
            raise InvalidInput(f"{self.role!r} makes {self.kind}, and is asked for text.")
        return self.decoding

    @property
    def is_registered(self) -> bool:
        """False: a server's own model, whose weights are neither in the store nor in the registry."""
        return bool(self.weights_uri)


@dataclass(frozen=True, kw_only=True)
class VersionSet:
    """Roles mapped to exact models, with the engine and the code that run them.

    `chain`: if several roles make a row, their order; another order makes other rows.
    """

    members: tuple[Member, ...]
    engine: EngineSpec
    code_version: str
    chain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        roles = [member.role for member in self.members]
        if not roles or len(set(roles)) != len(roles):
            raise InvalidInput(f"A version set needs at least one member and one member a role, got roles={roles!r}.")
        # JSON has lists.
        object.__setattr__(self, "chain", tuple(self.chain))
        # The order of members means nothing, so it must not change the id.
        object.__setattr__(self, "members", tuple(sorted(self.members, key=lambda member: member.role)))

    @cached_property
    def id(self) -> str:
        """sha256 (64 hex characters) of the canonical JSON, without the weights' location and the CPU."""
        body = _body(self)
        for member in body["members"]:
            del member["weights_uri"]
        for engine in _engines(body):
            engine.pop("cpu", None)
        return hashlib.sha256(canonical_json(body)).hexdigest()

    @property
    def label(self) -> str:
        """The models by role, for people: `writer=glossary:3, judge=referee:1`."""
        return models_by_role(self.members)

    @property
    def weights_digest(self) -> str:
        """One for all weights. A single member's is used as is, so a model has one digest in every set."""
        if len(self.members) == 1:
            return self.members[0].weights_digest
        return digest_text("weights", *(member.weights_digest for member in self.members))

    def member(self, role: str) -> Member:
        """Raises: InvalidInput: no member has this role."""
        for member in self.members:
            if member.role == role:
                return member
        roles = ", ".join(member.role for member in self.members)
        raise InvalidInput(f"Version set {self.id[:12]} has no member {role!r}; it has {roles}.")

    def to_json(self) -> dict[str, Any]:
        return {"format_version": 1, "id": self.id, **_body(self)}

    def for_people(self) -> dict[str, Any]:
        """`to_json` without passwords; the id is not computed from it."""
        body = self.to_json()
        for engine in (body["engine"], *(member.get("engine") for member in body["members"])):
            if engine and engine["base_url"]:
                engine["base_url"] = without_credentials(engine["base_url"])
        return body

    def engine_of(self, role: str) -> EngineSpec:
        """Raises: InvalidInput: no member has this role."""
        return self.member(role).engine or self.engine


def models_by_role(members: Sequence[Member]) -> str:
    return ", ".join(f"{one.role}={one.model_name}:{one.model_version}" for one in members)


VERSION_SET = Kind(
    "Version set",
    VersionSet,
    "Nothing is made on it until it is there again: restore it from a backup, or keep the same set once more after "
    "deleting this object.",
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting in which two sets differ; `None`: that set does not have it."""

    path: str
    before: object
    after: object


def diff(before: VersionSet, after: VersionSet) -> tuple[Difference, ...]:
    """What changes from one set to the other, one item a setting: `writer.decoding.temperature`."""
    left, right = _flat(before), _flat(after)
    return tuple(
        Difference(path=path, before=_shown(path, left.get(path)), after=_shown(path, right.get(path)))
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    )


class VersionSets:
    """The store's version sets: `version_sets/<id>.json`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        # Sets that were read: a set never changes, so later damage to its object does not affect this process.
        self._known: dict[str, VersionSet] = {}

    def ids(self) -> list[str]:
        """The id of every set that was ever kept."""
        return [name.removesuffix(".json") for name in self._store.children(ROOT) if name.endswith(".json")]

    def put(self, version_set: VersionSet) -> str:
        """Keeps a set; keeping it again changes nothing. Returns its id.

        Raises:
            HandoffCorrupt: it was kept before, and is damaged.
        """
        create_object(self._store, set_key(version_set.id), VERSION_SET, version_set.to_json())
        return version_set.id

    def get(self, version_set_id: str) -> VersionSet:
        """Raises:
        ObjectMissing: no such set was kept.
        HandoffCorrupt: the stored set does not have this id.
        """
        if version_set_id in self._known:
            return self._known[version_set_id]
        try:
            version_set = read_object(self._store, set_key(version_set_id), VERSION_SET)
        except ObjectMissing as error:
            raise ObjectMissing(
                f"Version set {version_set_id} is not in the store; a rollout keeps a set before its journal names it."
            ) from error
        if version_set.id != version_set_id:
            raise HandoffCorrupt(
                f"The object of version set {version_set_id} holds set {version_set.id}. {VERSION_SET.remedy}",
                key=set_key(version_set_id),
            )
        self._known[version_set_id] = version_set
        return version_set

    def find(self, word: str, *, besides: str = "") -> str:
        """The id of the one kept set whose id is `word`, or begins with it.

        Args:
            besides: for the refusal: what else the caller accepts as a set's name.

        Raises:
            InvalidInput: it is neither an id nor a prefix of one, or several sets begin with it.
            ObjectMissing: no kept set begins with it.
        """
        if not _BEGINNING.fullmatch(word):
            raise InvalidInput(f"A version set is an id or its first 4 or more characters{besides}, got {word!r}.")
        found = [kept for kept in self.ids() if kept.startswith(word)]
        if not found:
            raise ObjectMissing(
                f"No version set in {self._store.uri(ROOT)} begins with {word!r}. `headrace versions ls` shows them."
            )
        if len(found) > 1:
            named = [self._named(one) for one in found[:_NUM_NAMED_MAX]]
            more = ["…"] if len(found) > _NUM_NAMED_MAX else []
            raise InvalidInput(f"{len(found)} version sets begin with {word!r}: {', '.join(named + more)}.")
        return found[0]

    def label(self, version_set_id: str) -> str:
        """A set's name for people, unique even among sets of the same models: `writer=glossary:3 · 3fa1c2`.

        Raises: ObjectMissing, HandoffCorrupt: as `get`.
        """
        return f"{self.get(version_set_id).label} · {version_set_id[:6]}"

    def _named(self, version_set_id: str) -> str:
        try:
            label = self.get(version_set_id).label
        except HandoffCorrupt:
            label = "cannot be read"
        return f"{version_set_id[:16]} ({label})"

    def diff(self, before: str, after: str) -> tuple[Difference, ...]:
        return diff(self.get(before), self.get(after))


def _body(version_set: VersionSet) -> dict[str, Any]:
    """Fields that later releases added are included only if they are used, so older sets keep their ids."""
    body = asdict(version_set)
    if not body["chain"]:
        del body["chain"]
    for member in body["members"]:
        for name in ("engine", "decoding", "picture", "speech", "hearing"):
            if member[name] is None:
                del member[name]
    for engine in _engines(body):
        for name in (
            "template_date",
            "special_tokens",
            "request",
            "allow_url_hosts",
            "options",
            "cpu",
            "merge_adapter",
        ):
            if not engine[name]:
                del engine[name]
        if engine["batch_rows"] == EngineSpec.batch_rows:
            del engine["batch_rows"]
    return body


def _engines(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [body["engine"], *(member["engine"] for member in body["members"] if "engine" in member)]


def set_key(version_set_id: str) -> str:
    return f"{ROOT}/{version_set_id}.json"


def _flat(version_set: VersionSet) -> dict[str, object]:
    body = _body(version_set)
    roles = {member.pop("role"): member for member in body.pop("members")}
    return dict(_leaves((), {**roles, **body}))


def _shown(path: str, value: object) -> object:
    """A server's address may hold a password, which must not be shown when sets are compared."""
    return without_credentials(value) if path.endswith("base_url") and isinstance(value, str) else value


def _leaves(path: tuple[str, ...], value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves((*path, name), inner)
    else:
        yield ".".join(path), value
