"""The objective of pictures: a transformer learns to see a captioned picture through noise.

A sample is a mixture `(1 - t) x + t noise`; the model predicts x, and its squared error is divided by t², which weighs
it as the error of the velocity (x-prediction, as diffusers' PRX pixel pipeline samples it). What is random about a
sample (t, noise, whether its caption is dropped) is a function of the seed and of the sample's number in the training.

Shapes as in `headrace.training.picture_examples`.
"""

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from headrace.errors import InvalidTrainingRun
from headrace.handoff.versions import HandoffStore
from headrace.store.objects import ObjectStore
from headrace.training.engine import Gang
from headrace.training.moving_average import MovingAverage
from headrace.training.order import mixed
from headrace.training.picture_examples import PicturePass, PictureShape, open_pictures
from headrace.training.picture_pipeline import build_transformer, export_pipeline
from headrace.training.recipe import Recipe
from headrace.training.run_config import RunConfig


class FlowMatchingObjective:
    """Every picture has the same weight: the loss is the mean squared error of the velocity, a channel of a pixel."""

    feeding = "pixels"

    def __init__(self, config: RunConfig, store: ObjectStore) -> None:
        self._recipe = config.recipe
        self._settings = config.recipe.picture_model
        self._inputs, self._handoffs = config.inputs, HandoffStore(store)
        self._pictures = open_pictures(self._handoffs, config.inputs, "train")
        self._no_caption = open_pictures(self._handoffs, config.inputs[:1], "empty").take([0])
        self._patches = tokens_of_picture(config.recipe, self._pictures.shape)
        self._average: MovingAverage | None = None

    def __len__(self) -> int:
        return len(self._pictures)

    def load_model(self, base: Path) -> Any:
        return build_transformer(self._settings, self._pictures.shape, seed=self._recipe.seed)

    def begin(self, gang: Gang, engine: Any) -> str | None:
        self._average = MovingAverage(engine, self._settings.ema_decay)
        return None

    def weight(self, numbers: np.ndarray) -> int:
        return len(numbers)

    def num_tokens(self, numbers: np.ndarray) -> int:
        return self._patches * len(numbers)

    def summed_loss(self, model: Any, numbers: np.ndarray, draws: np.ndarray, device: Any) -> Any:
        import torch

        passed, drawn = self._pictures.take(numbers), [self._drawn(int(draw)) for draw in draws]
        share_B = torch.stack([share for share, _, _ in drawn])  # noqa: N806 (shape letters)
        noise_BCHW = torch.stack([noise for _, _, noise in drawn])  # noqa: N806
        is_dropped_B = torch.stack([is_dropped for _, is_dropped, _ in drawn])  # noqa: N806
        # Padding is ignored, so the mask says how long the empty caption is.
        states_BTD = torch.where(is_dropped_B[:, None, None], self._no_caption.states_BTD, passed.states_BTD)  # noqa: N806
        mask_BT = torch.where(is_dropped_B[:, None], self._no_caption.mask_BT, passed.mask_BT)  # noqa: N806
        captioned = PicturePass(passed.pixels_BCHW, states_BTD, mask_BT)
        error_B = denoising_error(model, captioned, share_B, noise_BCHW, device)  # noqa: N806
        return (error_B / share_B.to(device).clamp(min=self._settings.noise_floor) ** 2).sum()

    def _drawn(self, number: int) -> tuple[Any, Any, Any]:
        """Share of noise, whether the caption is dropped, and noise [C, H, W] of one sample of the training."""
        import torch

        seed = mixed(mixed(np.array([self._recipe.seed], dtype=np.uint64)) ^ np.uint64(number))[0]
        generator = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
        normal, uniform = torch.randn((), generator=generator), torch.rand((), generator=generator)
        side = self._pictures.shape.side
        noise_CHW = torch.randn(3, side, side, generator=generator)  # noqa: N806
        share = torch.sigmoid(self._settings.noise_mean + self._settings.noise_deviation * normal)
        return share, uniform < self._settings.caption_dropout, noise_CHW

    def after_step(self, engine: Any, *, applied: bool) -> None:
        assert self._average
        if applied:
            self._average.update(engine)

    def state(self) -> dict[str, Any]:
        assert self._average
        return self._average.state()

    def restore(self, state: dict[str, Any]) -> None:
        assert self._average
        self._average.restore(state)

    def heldout(self) -> "FlowMatchingObjective":
        other = copy(self)
        other._pictures = open_pictures(self._handoffs, self._inputs, "heldout")
        if not len(other._pictures):
            raise InvalidTrainingRun(
                f"Recipe {self._recipe.key}: evaluate_every needs held-out pictures, and there are none; raise "
                "heldout_share in the images file, or leave evaluate_every out."
            )
        return other

    def export(self, gang: Gang, engine: Any, base: Path, out: Path) -> None:
        assert self._average
        weights = self._average.gathered(gang, engine)
        if gang.rank == 0:
            export_pipeline(weights, self._settings, self._pictures.shape, base, out)


def denoising_error(model: Any, passed: PicturePass, share_B: Any, noise_BCHW: Any, device: Any) -> Any:  # noqa: N803
    """float32 [B]: mean squared error of what the model sees in `share_B` of noise; pixels from -1 to 1."""
    dtype = next(model.parameters()).dtype
    pixels_BCHW, noise_BCHW = passed.pixels_BCHW.to(device), noise_BCHW.to(device)  # noqa: N806 (shape letters)
    share_B = share_B.to(device)  # noqa: N806
    share_B111 = share_B[:, None, None, None]  # noqa: N806
    mixture_BCHW = (1 - share_B111) * pixels_BCHW + share_B111 * noise_BCHW  # noqa: N806
    seen_BCHW = model(  # noqa: N806
        hidden_states=mixture_BCHW.to(dtype),
        timestep=share_B,
        encoder_hidden_states=passed.states_BTD.to(device, dtype),
        attention_mask=passed.mask_BT.to(device),
        return_dict=False,
    )[0]
    return ((seen_BCHW.float() - pixels_BCHW) ** 2).mean((1, 2, 3))


def tokens_of_picture(recipe: Recipe, shape: PictureShape) -> int:
    return (shape.side // recipe.picture_model.patch_pixels) ** 2
