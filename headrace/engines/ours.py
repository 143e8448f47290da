"""Headrace's own engines, offered as another package would offer its own. Imports none of their libraries."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from headrace.chat.template import checked_date
from headrace.engines.base import Engine, LoadedModel
from headrace.engines.openai.address import check_address
from headrace.engines.registry import EngineKind, Opening
from headrace.errors import InvalidInput
from headrace.masking import without_credentials
from headrace.user_files.ranges import check_ranges
from headrace.version_sets.sets import EngineSpec

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of all our engines together, so that a file runs on `echo` after changing only the name."""

    dtype: Dtype = "bfloat16"
    """For transformers: how the weights are held; bfloat16 for GPUs."""
    num_threads: Annotated[int, Ge(1)] = 1
    """For transformers: the number of CPU threads."""
    batch_rows: Annotated[int, Ge(1), Le(4096)] = EngineSpec.batch_rows
    """For transformers: how many rows of bulk generation are decoded together. Fewer are padded to as many, so that a
    row's bytes depend on nothing but the row; another number gives other bytes. `micro_batch_rows` of a campaign should
    be a multiple of it."""
    base_url: str | None = None
    """For openai_http: the server's URL up to and including /v1."""
    model: str | None = None
    """For openai_http: the server's name for the model."""
    template_date: str | None = None
    """For transformers: the date that a chat template gets when it asks for today's."""
    special_tokens: tuple[str, ...] = ()
    """For openai_http: the model's special tokens. The server would take them for turns in any text, so a prompt or a
    message that contains one is refused."""

    def __post_init__(self) -> None:
        check_ranges(self)
        checked_date("template_date", self.template_date)
        if "" in self.special_tokens:
            raise InvalidInput("special_tokens must list texts such as <|im_start|>, got an empty one.")
        if self.base_url:
            check_address(self.base_url)


@dataclass(frozen=True, kw_only=True)
class TransformersOptions(Options):
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.special_tokens:
            raise InvalidInput(
                f"special_tokens is for the engine openai_http, got {list(self.special_tokens)!r} for 'transformers', "
                "which knows the model's own. Leave it out."
            )


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
        super().__post_init__()


def _open_echo(opening: Opening) -> LoadedModel:
    if opening.member.kind == "text":
        from headrace.engines.echo import EchoEngine

        return EchoEngine(opening.member)
    from headrace.engines.echo_media import EchoMediaEngine

    return EchoMediaEngine(opening.member)


def _open_server(opening: Opening) -> Engine:
    from headrace.engines.openai.client import OpenAIEngine

    options: ServerOptions = opening.options
    assert options.base_url
    assert options.model
    return OpenAIEngine(
        model=options.model,
        base_urls=opening.deployment.servers(options.base_url),
        deployment=opening.deployment,
        special_tokens=options.special_tokens,
    )


def _open_local(opening: Opening) -> Engine:
    # Imported here: it costs seconds of CPU, which the other engines do not need.
    from headrace.engines.local.engine import LocalEngine

    return LocalEngine(opening.weights(), opening.member, opening.spec)


def _open_voice(opening: Opening) -> LoadedModel:
    from headrace.engines.local.hibari_voice import HibariEngine

    return HibariEngine(opening.member)


ECHO = EngineKind(name="echo", open=_open_echo, options=Options, makes=("text", "image", "speech"), deterministic=True)
OPENAI_HTTP = EngineKind(name="openai_http", open=_open_server, options=ServerOptions)
TRANSFORMERS = EngineKind(
    name="transformers",
    open=_open_local,
    options=TransformersOptions,
    packages=("transformers", "torch"),
    deterministic=True,
    needs_weights=True,
)
HIBARI = EngineKind(
    name="hibari",
    open=_open_voice,
    makes=("speech",),
    # Its spectra are numpy's and scipy's: either one's FFT moves the last bits, and so does a resampled rate.
    packages=("hibari-tts", "onnxruntime", "scipy", "numpy"),
    deterministic=True,
)
