"""Eight small models of several kinds: what a host's table expects each to hold that comes again, and what it holds.

A first host loads them one after the other and asks each once; all stay. What it measured is what a later one expects:
the most while a model comes, and the most that it holds from then on. A second one, which knows nothing of the first,
does the same again. What it sees of a model until that has answered is the first's to foretell; what a model holds
from then on is read from its process, files that others map too counted whole. The first part, by a guess from the
weights' size, only has to do.
"""

import asyncio
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_table, progress, rounded
from benchmarks.residency.hosts import engine_host, opened, with_weights
from benchmarks.residency.members import member_of
from headrace.engines.asking import answer_of, close, medium_of
from headrace.engines.base import Engine, Message, Turn
from headrace.engines.host.copies import Figures
from headrace.engines.host.remembered import Remembered
from headrace.engines.media import MediaTurn
from headrace.engines.ours import DIFFUSERS, HIBARI, TRANSFORMERS
from headrace.engines.registry import EngineKind
from headrace.engines.roles import EngineSettings, Role
from headrace.store.local import LocalStore
from headrace.this_machine import descendants, held_by
from headrace.version_sets.media_settings import Picture, Speech
from headrace.version_sets.sets import Decoding, Member
from simulation.tiny_model import build_tiny_model
from simulation.tiny_pipelines import build_latent_pipeline, build_pixel_pipeline

_MEMORY_MIB = 12_000
_TEXT = "A wheel turned by falling water."
_DECODING = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=4)
_PICTURE = Picture(width=16, height=16, num_inference_steps=2)


@dataclass(frozen=True, kw_only=True)
class _Model:
    member: Member
    kind: EngineKind
    options: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Held:
    """MiB. `part`: of the account, when it had come. `now`: once it had answered."""

    part: int
    now: int
    measured: Figures


def errors(directory: Path) -> dict[str, float]:
    """By model: how far what it holds is from what was predicted, as a share of what it holds."""
    store = LocalStore(directory / "store")
    models = _models(store, directory)
    first, second = (_loaded(name, models, store, directory) for name in ("first", "second"))
    rows, found = list[list[str]](), dict[str, float]()
    for name, one in second.items():
        known = first[name].measured
        at_most, was_at_most = _at_most(known), _at_most(one.measured)
        errors = [_error(at_most, was_at_most), _error(known.held_mib, one.now)]
        found[name] = max(errors)
        figures = [first[name].part, at_most, was_at_most, known.held_mib, one.now]
        cells = [*map(str, figures), *(f"{error:.1%}" for error in errors)]
        rows.append([name, *(cells[at] for at in (0, 1, 2, 5, 3, 4, 6))])
    print_table(
        "What a model holds, MiB",
        ["model", "first part", "until it has answered", "measured", "error", "from then on", "measured", "error"],
        rows,
    )
    return found


def _at_most(measured: Figures) -> int:
    """What a model is promised that comes, until it has answered."""
    return max(measured.coming_mib, measured.held_mib)


def _error(predicted_mib: int, mib: int) -> float:
    return rounded(abs(predicted_mib - mib) / mib)


def _models(store: LocalStore, directory: Path) -> dict[str, _Model]:
    def weighed(name: str, kind: EngineKind, weights: Path, **made_by: Any) -> _Model:
        options = {"dtype": "float32", "batch_rows": 1}
        return _Model(member=with_weights(member_of(name, **made_by), store, weights), kind=kind, options=options)

    found: dict[str, _Model] = {}
    for vocab in (512, 50_000, 150_000, 300_000):
        name = f"writer, {vocab:,} ids"
        weights = build_tiny_model(directory / name, vocab=vocab, tied=False)
        found[name] = weighed(name, TRANSFORMERS, weights, decoding=_DECODING)
    painters = {
        "painter in pixels": build_pixel_pipeline(directory / "pixels"),
        "large painter": build_pixel_pipeline(
            directory / "large", hidden_size=512, depth=8, encoder_size=512, encoder_layers=8
        ),
        "painter with a VAE": build_latent_pipeline(directory / "vae"),
    }
    for name, weights in painters.items():
        found[name] = weighed(name, DIFFUSERS, weights, picture=_PICTURE)
    role = Role(
        model="heart",
        version=version("hibari-tts"),
        registered=False,
        engine=EngineSettings("hibari"),
        speech=Speech(),
    )
    found["voice"] = _Model(member=role.member("speaker", None, engine=None), kind=HIBARI, options={})
    return found


def _loaded(host_name: str, models: dict[str, _Model], store: LocalStore, directory: Path) -> dict[str, _Held]:
    at, keys, parts, now = directory / host_name, dict[str, str](), dict[str, int](), dict[str, int]()
    at.mkdir()
    with engine_host(at, store, memory_mib=_MEMORY_MIB) as host:
        for name, one in models.items():
            progress.print(f"{host_name} host: {name}")
            engine = opened(one.kind, one.member, store, host.deployment(), **one.options)
            keys[name], parts[name] = engine.resident, host.models[engine.resident].reserved_mib
            asyncio.run(_asked(engine, one.member))
            pid = host.models[engine.resident].pid
            assert pid, "it is there"
            now[name] = held_by([pid, *descendants(pid)]).mib
    # A host writes it at its end.
    known = Remembered(at / "host.sock").read()
    return {name: _Held(part=parts[name], now=now[name], measured=known[key]) for name, key in keys.items()}


async def _asked(engine: Any, member: Member) -> None:
    if isinstance(engine, Engine):
        messages = (Message(role="user", content=_TEXT),)
        await answer_of(engine, Turn(unit="first", messages=messages, temperature=0.0, top_p=1.0, max_tokens=4, seed=1))
    else:
        await medium_of(engine, member, MediaTurn(unit="first", text=_TEXT, seed=1))
    await close(engine)
