"""Our engines beside bare loops over the same models, in turns: CPU seconds of this process, medians.

Pictures in pixels: beside a loop written by hand, which encodes the empty text once. Pictures of latents: beside the
pipeline's own call. Texts: beside `generate` of transformers on batches sorted by length. Recordings: beside the
package's own call, if the engine `hibari` is installed. A bare loop takes as many rows a batch as it does best with;
ours has the same number. All have the same texts, one thread, float32, and end with files or texts in memory.

Ours examines what it made, as in a run, and has batches of one shape: what that costs is in its figures.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import Bars, at_least, in_turns, measured, median, print_table, rounded
from benchmarks.modalities.bare_loops import Loop, latents, pixels, speech, texts_by_length
from benchmarks.modalities.chain import texts_of, voice
from benchmarks.modalities.parts import Given
from benchmarks.parts import Outcome
from headrace.engines.asking import answers_of, close, media_of
from headrace.engines.base import Message, Turn
from headrace.engines.deployment import Deployment
from headrace.engines.event_loop import LoopThread
from headrace.engines.media import MediaTurn
from headrace.engines.registry import open_engine, open_media_engine
from headrace.engines.roles import EngineSettings
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import Decoding, Member
from simulation.tiny_pipelines import build_latent_pipeline, build_pixel_pipeline

NUM_ROWS = 64
_BATCH_ROWS = (8, 16, 32)
# A real writer takes a second for a text.
_NUM_TEXTS = 32
_TEXT_BATCH_ROWS = (8, 16)
_STEPS, _GUIDANCE = 8, 2.0
_NUM_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class Pair:
    """`ours`, `bare`: rows a batch → what was made, whose length is what CPU seconds are divided by."""

    name: str
    bar: float
    ours: Callable[[int], Any]
    bare: Loop
    batch_rows: Sequence[int] = _BATCH_ROWS


def run(given: Given, directory: Path) -> Outcome:
    import torch

    torch.set_num_threads(1)
    body: dict[str, Any] = {}
    bars = Bars()
    for pair in _pairs(given, directory):
        cases = [(side, rows) for side in ("ours", "bare") for rows in pair.batch_rows]
        costs: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
        for number, (side, rows) in in_turns(pair.name, given.runs, cases, num_warm_ups=1):
            with measured() as cost:
                made = (pair.ours if side == "ours" else pair.bare)(rows)
            costs[side, rows] += [1000 * cost.cpu_seconds / len(made)] if number >= 0 else []
        medians = {case: median(found) for case, found in costs.items()}
        best = {side: min(medians[side, rows] for rows in pair.batch_rows) for side in ("ours", "bare")}
        share = rounded(best["bare"] / best["ours"])
        print_table(
            f"{pair.name}: CPU ms each",
            ["rows a batch", "ours", "bare", "ours over bare"],
            [
                [
                    str(rows),
                    f"{medians['ours', rows]:.2f}",
                    f"{medians['bare', rows]:.2f}",
                    f"{medians['bare', rows] / medians['ours', rows]:.2f}",
                ]
                for rows in pair.batch_rows
            ],
        )
        body[pair.name] = {f"{side}, {rows} a batch": rounded(one) for (side, rows), one in medians.items()}
        bars[f"{pair.name}_over_bare"] = at_least(share, pair.bar)
    return Outcome(body=body, bars=bars)


def _pairs(given: Given, directory: Path) -> Iterator[Pair]:
    texts = texts_of(NUM_ROWS)
    painter = given.painter or build_pixel_pipeline(
        directory / "pixels", hidden_size=192, depth=6, patch_size=8, encoder_size=384, encoder_layers=6
    )
    side = given.size if given.painter else 32
    how = {"steps": _STEPS, "guidance": _GUIDANCE, "side": side}
    with _engines(_painted_by(painter, side), "diffusers") as ours:
        yield Pair(name="pictures", bar=0.95, ours=partial(ours, texts), bare=pixels(painter, texts, **how))
    latent = build_latent_pipeline(directory / "latent")
    with _engines(_painted_by(latent, side), "diffusers") as ours:
        yield Pair(name="pictures_of_latents", bar=0.95, ours=partial(ours, texts), bare=latents(latent, texts, **how))
    writer = given.models(directory / "models").writer
    asked = given.prompts.read_text().splitlines()[:_NUM_TEXTS] if given.prompts else texts[:_NUM_TEXTS]
    with _engines(_written_by(writer), "transformers") as ours:
        yield Pair(
            name="texts",
            bar=0.92,
            ours=partial(ours, asked),
            bare=texts_by_length(writer, asked, num_tokens=_NUM_TOKENS),
            batch_rows=_TEXT_BATCH_ROWS,
        )
    if voice().engine.name == "hibari":
        sentences = [f"The {text.rstrip(' 0123456789')} turns." for text in texts[:16]]
        member = voice().member("speaker", None, engine=None)
        with _engines(member, "hibari") as ours:
            yield Pair(
                name="recordings", bar=0.95, ours=partial(ours, sentences), bare=speech(sentences), batch_rows=[1]
            )


def _painted_by(directory: Path, side: int) -> Member:
    picture = Picture(width=side, height=side, num_inference_steps=_STEPS, guidance_scale=_GUIDANCE)
    return _member(directory, picture=picture)


def _written_by(directory: Path) -> Member:
    return _member(directory, decoding=Decoding(temperature=0.7, top_p=0.9, max_new_tokens=_NUM_TOKENS))


def _member(directory: Path, **made_with: Any) -> Member:
    return Member(
        role="maker",
        model_name="model",
        model_version="1",
        weights_digest=str(directory),
        weights_uri=directory.as_uri(),
        system_prompt="",
        user_template="{text}",
        **made_with,
    )


@contextmanager
def _engines(member: Member, name: str) -> Iterator[Callable[[Sequence[str], int], list[Any]]]:
    """Asks the engine, opened once for each number of rows a batch."""
    loop, opened = LoopThread(), {}
    deployment = Deployment(unsealed={member.weights_digest: Path(member.weights_digest)})

    def ask(texts: Sequence[str], batch_rows: int) -> list[Any]:
        if batch_rows not in opened:
            spec = EngineSettings.taking(name, dtype="float32", batch_rows=batch_rows).spec
            opening = open_engine if member.kind == "text" else open_media_engine
            opened[batch_rows] = opening(member, spec, None, deployment)  # pyright: ignore[reportArgumentType]
        engine = opened[batch_rows]
        if member.kind == "text":
            turns = [
                Turn(
                    unit=str(seed),
                    messages=(Message(role="user", content=text),),
                    temperature=member.writing.temperature,
                    top_p=member.writing.top_p,
                    max_tokens=_NUM_TOKENS,
                    seed=seed,
                )
                for seed, text in enumerate(texts)
            ]
            answers: list[Any] = loop.run(answers_of(engine, turns))
            return [None] * sum(one.num_output_tokens for one in answers)
        wishes = [MediaTurn(unit=str(seed), text=text, seed=seed) for seed, text in enumerate(texts)]
        found: list[Any] = loop.run(media_of(engine, member, wishes))
        return [one[0].content for one in found]

    try:
        yield ask
    finally:
        for engine in opened.values():
            loop.run(close(engine))
        loop.close()
