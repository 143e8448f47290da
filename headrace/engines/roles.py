"""One model's part in a campaign or a service, as in their files: model, prompt template, decoding, engine.

Roles stand above the version set, whose members they become, and above the engines, which define their section of a
file.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

from headrace.engines.registry import EngineKind, engine_kind, engine_names
from headrace.errors import InvalidInput
from headrace.keys import check_name, digest_text
from headrace.text_templates import placeholders
from headrace.user_files.shapes import After, chosen, core_schema_of, fault
from headrace.version_sets.media_settings import Hearing, MemberKind, Picture, Speech, kind_of
from headrace.version_sets.sets import Decoding, EngineSpec, Member


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """The turns for the model's chat template; `{text}` is the prompt."""

    user: str = "{text}"
    """The user turn, with `{text}` where the prompt goes."""
    system: str | None = None
    """null leaves the system turn to the model's own chat template, which may add one."""

    def __post_init__(self) -> None:
        if "text" not in placeholders("user", self.user, texts=("text",)):
            raise InvalidInput(f"user must hold {{text}}, where the prompt goes, got {self.user!r}.")
        self.check_literal("text")

    def check_literal(self, *names: str) -> None:
        """The system turn is sent as it is written. A column in braces there was meant to be filled in.

        Raises: InvalidInput: it holds one of the names in braces.
        """
        if held := next((name for name in names if f"{{{name}}}" in (self.system or "")), None):
            raise InvalidInput(
                f"system is sent as it is written, and nothing fills in {{{held}}}, got {self.system!r}: move it to "
                "the prompt."
            )


_DEFAULT_ENGINE = "transformers"
# OpenAI's own limit, and most servers'.
_TEMPERATURE_MAX = 2.0
_NEW_TOKENS_MAX = 1_000_000
_NUMBER = re.compile(r"[1-9][0-9]*")
# What else cures a role whose engine makes something else.
_OR = {
    "text": "give the role picture, speech or hearing",
    "image": "take picture out",
    "speech": "take speech out",
    "transcript": "take hearing out",
}
_log = logging.getLogger(__name__)


class EngineSettings:
    """The engine that answers prompts: an installed one and its options; all of it enters the version set."""

    __slots__ = ("kind", "options")

    def __init__(self, name: str = _DEFAULT_ENGINE, **options: Any) -> None:
        """Raises: InvalidInput: the engine is not installed, or does not accept the options."""
        self.kind: EngineKind = engine_kind(name)
        self.options: Any = self.kind.options(**options)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        # With a name, so that JSON Schema describes it once.
        return core_schema.no_info_plain_validator_function(cls._read, ref=f"{cls.__qualname__}:{id(cls)}")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """One of the installed engines, each with its options."""
        branches = []
        for name in engine_names():
            try:
                kind = engine_kind(name)
            except InvalidInput as error:
                # One broken package must not take the schema from all others.
                _log.warning("Left out of the schema: %s", error)
                continue
            options = handler.resolve_ref_schema(handler(core_schema_of(kind.options)))
            properties = {
                "name": {"const": name, "description": "An installed engine."},
                **options.get("properties", {}),
            }
            # Without a name, it is the default engine.
            required = ["name"] if name != _DEFAULT_ENGINE else []
            required += options.get("required", [])
            branches.append({**options, "title": name, "properties": properties, "required": required})
        return {"anyOf": branches, "description": cls.__doc__}

    @classmethod
    def _read(cls, content: object) -> "EngineSettings":
        """The section of a file; the engine's options define what may stand beside `name`."""
        if isinstance(content, str):
            raise fault((), wish=f"be a mapping of keys to values, such as {{name: {content}}}")
        mapping = dict(content) if isinstance(content, Mapping) else {}
        if secret := next((key for key in ("api_key", "key", "token") if key in mapping), None):
            raise fault(
                (secret,), tail=" must not stand in a file: set HEADRACE_ENGINE_KEY in the environment.", of_key=True
            )
        name = mapping.pop("name", _DEFAULT_ENGINE)
        if not isinstance(name, str):
            raise fault(("name",), wish="be a string")
        try:
            kind = engine_kind(name)
        except InvalidInput as error:
            raise fault(("name",), tail=f": {error}") from error
        options = chosen(kind.options, mapping if isinstance(content, Mapping) else content, others=("name",))
        return cls(name, **{one.name: getattr(options, one.name) for one in fields(options)})

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def spec(self) -> EngineSpec:
        return self.kind.spec(self.options)

    def on(self, name: str) -> "EngineSettings":
        """Another engine, with those of these options that it accepts.

        Raises: InvalidInput: the engine is not installed, or needs an option that is missing here.
        """
        # Options that only make sense for one engine are not carried over.
        kept = {one.name: getattr(self.options, one.name) for one in fields(self.options)}
        return self.taking(name, **{key: value for key, value in kept.items() if key not in _OF_ONE_ENGINE})

    @classmethod
    def taking(cls, name: str, **offered: Any) -> "EngineSettings":
        """An engine with those of the offered options that it accepts.

        Raises: InvalidInput: the engine is not installed, or needs an option that is not offered.
        """
        taken = {one.name for one in fields(engine_kind(name).options)}
        return cls(name, **{key: value for key, value in offered.items() if key in taken})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineSettings) and (self.name, self.options) == (other.name, other.options)

    def __hash__(self) -> int:
        return hash((self.name, self.options))

    def __repr__(self) -> str:
        return f"EngineSettings({self.name!r}, {self.options!r})"


_OF_ONE_ENGINE = frozenset({"merge_adapter", "template_date", "special_tokens", "request", "allow_url_hosts"})


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """The facts about a registered version that a role needs."""

    model_name: str
    version: str
    weights_digest: str
    weights_uri: str


M = TypeVar("M", bound=RegisteredModel)


def _check_decoding(decoding: Decoding) -> None:
    if decoding.temperature > _TEMPERATURE_MAX:
        raise InvalidInput(
            f"temperature must be between 0 and {_TEMPERATURE_MAX:g}, got {decoding.temperature:g}: above it "
            "tokens are drawn nearly alike, and servers refuse it."
        )
    if decoding.max_new_tokens > _NEW_TOKENS_MAX:
        raise InvalidInput(
            f"max_new_tokens must be between 1 and {_NEW_TOKENS_MAX:,}, got {decoding.max_new_tokens:,}: no "
            "model writes so many in one answer."
        )


# What a file may ask for; version sets that were stored before may have more.
WantedDecoding = Annotated[Decoding, After(_check_decoding)]


@dataclass(frozen=True, kw_only=True)
class Role:
    """One model's part in a campaign or a service."""

    model: str
    """A registered model; `version` is "newest" or a version's number."""
    version: str = "newest"
    """`newest`, a number of the registered model, or, if `registered` is false, whatever a server's owner calls the
    model now, or the version of the package that has its weights."""
    prompt_template: PromptTemplate = field(default_factory=PromptTemplate)
    decoding: WantedDecoding = field(default_factory=Decoding)
    engine: EngineSettings = field(default_factory=EngineSettings)
    weights: str | None = None
    """A model directory (absolute, or relative to HEADRACE_HOME) or a hub name: registered by itself as a base version
    of `model`, without training or evaluation. null: `model` is registered already."""
    registered: bool = True
    """False: a model that no registry knows: a server's, or one whose weights are in an engine's package. Its version
    is then its identity."""
    picture: Picture | None = None
    """For a role that paints: how. It has no decoding and no prompt_template."""
    speech: Speech | None = None
    """For a role that speaks: how. It has no decoding and no prompt_template."""
    hearing: Hearing | None = None
    """For a role that hears: how. It has no decoding and no prompt_template; only a service's chain begins with one."""
    template: str | None = None
    """For a role that paints or speaks: what it is asked, with places such as {text} for what was written before it,
    {prompt}, {term} and the columns that the prompts carry; null: {text}."""

    @property
    def kind(self) -> MemberKind:
        return kind_of(self.picture, self.speech, self.hearing)

    def __post_init__(self) -> None:
        self._check_kind()
        try:
            check_name("model", self.model)
        except InvalidInput as error:
            hint = " A directory or a hub name goes into weights, and gets a model's name here."
            raise InvalidInput(f"{error}{hint if '/' in self.model else ''}") from error
        if self.weights is not None and (not self.registered or not self.weights.strip()):
            raise InvalidInput(
                f"weights must name a model directory or a hub name, and registers it, got {self.weights!r} with "
                f"registered={self.registered}. Leave one of them out."
            )
        if not self.registered and self.version == "newest":
            raise InvalidInput(
                "registered: false needs a version, whatever the server's owner or the package calls it, and an engine "
                "that takes no weights from the store (openai_http, comfyui_http, hibari, faster_whisper, echo), got "
                f"version={self.version!r} on {self.engine.name}."
            )
        if not self.registered and self.engine.kind.needs_weights:
            raise InvalidInput(
                f"registered must not be false on the engine {self.engine.name!r}, which opens weights from the store: "
                "name a model directory or a hub name in weights, which registers it, or an engine that has its model "
                "elsewhere (openai_http, comfyui_http, hibari, faster_whisper, echo)."
            )
        if self.registered and self.version != "newest" and not _NUMBER.fullmatch(self.version):
            raise InvalidInput(
                f'version must be newest or the number of a registered model, such as "2", got {self.version!r}. '
                "A server's own model has registered: false."
            )

    def _check_kind(self) -> None:
        given = [name for name in ("picture", "speech", "hearing") if getattr(self, name)]
        if len(given) > 1:
            raise InvalidInput(f"A role paints, speaks or hears, got {' and '.join(given)}: make a role of each.")
        if self.kind not in self.engine.kind.makes:
            makes = " and ".join(self.engine.kind.makes)
            raise InvalidInput(
                f"engine {self.engine.name!r} makes {makes}, and the role must make {self.kind}: name another "
                f"engine, or {_OR[self.kind]}."
            )
        self._check_engine()
        if self.kind in ("text", "transcript") and self.template is not None:
            raise InvalidInput(
                f"template is for roles that paint or speak, got {self.template!r}: a role that writes has "
                "prompt_template, and one that hears is asked nothing."
            )
        if self.kind == "text":
            return
        (how,) = given
        if self.prompt_template != PromptTemplate() or self.decoding != Decoding():
            said = "" if self.hearing else ", and say in template what it is asked"
            raise InvalidInput(
                f"decoding and prompt_template are for roles that write, and this one has {how}: take them out{said}."
            )
        if self.template is not None and not placeholders("template", self.template):
            raise InvalidInput(
                f"template must name what it is about in braces, such as {{text}}, got {self.template!r}: every row "
                "would get the same."
            )

    def _check_engine(self) -> None:
        try:
            self.engine.kind.check_role(self.engine.options, self.picture or self.speech or self.hearing)
        except InvalidInput as error:
            raise InvalidInput(f"engine: {error}") from error

    def member(self, name: str, model: RegisteredModel | None, *, engine: EngineSpec | None) -> Member:
        """The version set's member that this role becomes.

        Args:
            model: for a registered role.
            engine: None: the set's engine.
        """
        return Member(
            role=name,
            model_name=model.model_name if model else self.model,
            model_version=model.version if model else self.version,
            weights_digest=model.weights_digest if model else digest_text("unregistered", self.model, self.version),
            weights_uri=model.weights_uri if model else "",
            system_prompt=self.prompt_template.system or "",
            user_template=self.prompt_template.user if self.kind == "text" else self.template or "{text}",
            decoding=self.decoding if self.kind == "text" else None,
            engine=engine,
            picture=self.picture,
            speech=self.speech,
            hearing=self.hearing,
        )


def check_chain(
    roles: Mapping[str, Role], chain: Sequence[str], *, judge: str | None = None, may_hear: bool = False
) -> None:
    """Args: may_hear: the first role may hear.

    Raises: InvalidInput: the chain is empty or repeats a role, or names one that is not described or never asked."""
    for role in roles:
        check_name("roles: a role's name", role)
    there = f"of this file ({', '.join(roles) or 'none'})"
    if not chain or any(role not in roles for role in chain):
        raise InvalidInput(f"chain must name roles {there}, got {list(chain)!r}.")
    if judge is not None and judge not in roles:
        raise InvalidInput(f"judge must name a role {there}, got {judge!r}.")
    if len(set(chain)) != len(chain):
        raise InvalidInput(f"chain must ask each role once, got {list(chain)!r}.")
    kinds = [roles[role].kind for role in chain]
    if hears := [role for role, kind in zip(chain, kinds, strict=True) if kind == "transcript"]:
        if not may_hear:
            raise InvalidInput(
                f"chain must begin with texts, got {hears[0]!r}, which hears: only a service's clients speak to it."
            )
        if kinds[0] != "transcript" or len(hears) > 1 or kinds[-1] != "speech" or "text" not in kinds:
            raise InvalidInput(
                "chain of a service that hears must be one role that hears, then roles that write, then one that "
                f"speaks, got {list(chain)!r}."
            )
        kinds, chain = kinds[1:], chain[1:]
    if late := [role for place, role in enumerate(chain) if kinds[place] == "text" and set(kinds[:place]) - {"text"}]:
        raise InvalidInput(
            f"chain must have the roles that write before those that paint or speak, got {list(chain)!r}: {late[0]!r} "
            "cannot read a picture or a recording. Move it to the front."
        )
    if idle := [role for role in roles if role not in (*hears, *chain) and role != judge]:
        raise InvalidInput(f"roles has {', '.join(idle)}, which chain never asks: add it to chain, or take it out.")


def newest_versions(
    roles: Mapping[str, Role], models: Iterable[M], *, whose: str, bases: Mapping[str, str] | None = None
) -> dict[str, M]:
    """Registered role → the version that its file asks for.

    Args:
        whose: the file's subject, for a refusal.
        bases: role → digest of the weights that its file names: it gets these, whatever else has its model's name.

    Raises:
        InvalidInput: a role's model or version is not registered.
    """
    known, found = list(models), {}
    for name, role in roles.items():
        if not role.registered:
            continue
        digest = (bases or {}).get(name, "") if role.weights else None
        versions = [
            model for model in known if model.model_name == role.model and digest in (None, model.weights_digest)
        ]
        wanted = [model for model in versions if role.version in ("newest", model.version)]
        if not wanted:
            there = ", ".join(sorted({model.version for model in versions})) or "none"
            if not versions and not role.weights and role.kind != "text":
                raise InvalidInput(
                    f"{whose}: role {name!r} has no weights: no version of {role.model} is registered, and the file "
                    "names none. Name a directory or a hub name in weights, materialize registered_version of a recipe "
                    "that trains it, or, if a server or a package has the model, say registered: false and a version."
                )
            raise InvalidInput(
                f"{whose}: role {name!r} wants version {role.version} of {role.model}; registered: {there}. "
                f"Materialize {'rollout' if role.weights else 'registered_version'}, or name another version."
            )
        found[name] = max(wanted, key=lambda model: int(model.version))
    return found
