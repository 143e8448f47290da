"""Measures picture models, in the evaluating process: one after another, on the same captions and noise."""

import time
from typing import Any

import numpy as np

from headrace.handoff.versions import HandoffStore
from headrace.store.opening import open_store
from headrace.store.sealed_directory import open_directory
from headrace.training.heldout import SAMPLE_ARROW, Evaluation, EvaluationConfig, publish_evaluation
from headrace.training.picture_examples import PictureSplit, open_pictures
from headrace.training.picture_measures import (
    SHARES,
    TAUGHT_ERROR,
    errors_by_share,
    measured_captions,
    open_pipeline,
    painted,
    retrieval,
)

_SAMPLES = 4


def evaluate_pictures(config: EvaluationConfig) -> list[Evaluation]:
    import torch

    if config.device == "cpu":
        torch.set_num_threads(1)
    store = open_store(config.store_url)
    handoffs = HandoffStore(store)
    taught = open_pictures(handoffs, config.inputs, "train")
    heldout = open_pictures(handoffs, config.inputs, "heldout")
    evaluations = []
    for digest in config.weights:
        started = time.monotonic()
        pipeline = open_pipeline(open_directory(store, digest), config.device)
        evaluation = _evaluated(config, digest, pipeline, taught, heldout, started)
        evaluations.append(publish_evaluation(store, evaluation))
        figures = evaluation.figures
        print(
            f"held-out {TAUGHT_ERROR} of {digest[:12]}: {evaluation.heldout_loss:.4f} over "
            f"{evaluation.heldout_tokens:,} denoisings; own picture in the top 5 for {figures['top5_own']:.0%}, "
            f"another's for {figures['top5_wrong']:.0%} ({evaluation.seconds:.0f} s)"
        )
    return evaluations


def _evaluated(
    config: EvaluationConfig,
    digest: str,
    pipeline: Any,
    taught: PictureSplit,
    heldout: PictureSplit,
    started: float,
) -> Evaluation:
    numbers = measured_captions(taught)
    transformer = pipeline.transformer
    of_taught = errors_by_share(transformer, taught, numbers, config.device)
    own, wrong, ranks = retrieval(
        taught, numbers, lambda captions: (painted(pipeline, caption, taught.shape.side) for caption in captions)
    )
    figures = {f"taught_error_at_{share}": error for share, error in of_taught.items()}
    figures |= {"top5_own": own, "top5_wrong": wrong, "captions_asked": float(len(numbers))}
    if len(heldout):
        of_heldout = errors_by_share(transformer, heldout, measured_captions(heldout), config.device)
        figures |= {f"heldout_error_at_{share}": error for share, error in of_heldout.items()}
    samples = [
        f"{taught.captions[number]}{SAMPLE_ARROW}rank {rank}"
        for number, rank in list(zip(numbers, ranks, strict=True))[:_SAMPLES]
    ]
    return Evaluation(
        weights_digest=digest,
        heldout_digest=config.heldout_digest,
        heldout_loss=float(np.mean(list(of_taught.values()))),
        heldout_tokens=len(numbers) * len(SHARES),
        samples=tuple(samples),
        seconds=time.monotonic() - started,
        feeding="pixels",
        measure=TAUGHT_ERROR,
        figures=figures,
    )
