"""A pipeline of diffusers, loaded from a sealed directory with all that painting needs.

A pipeline is called as it is, with a text, a seed and a generator for each row. Where one cannot take several texts,
what it does wrong is put right at the component that would refuse them, so that a batch of one stays as it was.
"""

import copy
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.engines.local.devices import prepared_device
from headrace.engines.local.loading import mixes_rows
from headrace.engines.local.pipeline_files import require_pipeline, require_size
from headrace.engines.local.prompt_reading import CutText, Reader, cut_text, watched
from headrace.errors import EngineUnavailable, InvalidInput, reason_of
from headrace.version_sets.media_settings import Picture
from headrace.version_sets.sets import EngineSpec, Member

if TYPE_CHECKING:
    import torch

# What a call of a pipeline that paints texts takes, each seed on its own.
_NEEDED = ("prompt", "generator", "height", "width", "output_type")
# Their padded lengths differ only where a pipeline pads a batch to its longest text. Plain, so that no cleaning of
# texts changes them.
_SHORT, _LONG = "a", ", ".join(["a wheel that turns in the water of a mill race"] * 3)

# By the weights' digest: a model that slept is opened again in its process, and encoding two texts is a third of that.
_READINGS: dict[str, tuple[bool, Mapping[str, Reader]]] = {}


class GivenUp(Exception):
    """Nobody waits for the batch any more."""


@dataclass(frozen=True, kw_only=True)
class LocalPipeline:
    """`mixes_rows`: what a row becomes depends on the other texts of its batch. `readers`: of its texts, as far as they
    are known.
    """

    pipeline: Any
    picture: Picture
    device: "torch.device"
    num_threads: int
    mixes_rows: bool
    readers: Sequence[Reader] = ()

    def cut(self, text: str) -> CutText | None:
        """What of a text is not read; None: nothing is known of it."""
        return cut_text(self.readers, text)

    def twin(self) -> "LocalPipeline":
        """For another batch in the middle of one: the same weights, and a state of its own."""
        pipeline = copy.copy(self.pipeline)
        # What it knows of its steps is the scheduler's; all else of a call is an attribute of the pipeline.
        pipeline.scheduler = copy.deepcopy(self.pipeline.scheduler)
        return replace(self, pipeline=pipeline)

    def paint(
        self, texts: Sequence[str], seeds: Sequence[int], *, is_wanted: Callable[[], bool]
    ) -> tuple[list[Any], list[bool]]:
        """A PIL image for each text, None where a pixel came out as no number; and whether the pipeline's own filter
        blackened it.

        Args: is_wanted: called before each step; it may paint with a twin meanwhile.

        Raises: GivenUp: it returned False.
        """
        import torch

        # Another engine of this process may want another number.
        prepared_device(self.num_threads)

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if not is_wanted():
                raise GivenUp
            return tensors

        # On the CPU, so that a row starts from the same noise on any device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        takes = inspect.signature(self.pipeline.__call__).parameters
        asked = {
            "prompt": list(texts),
            "negative_prompt": [self.picture.negative_prompt] * len(texts) if self.picture.negative_prompt else None,
            "generator": generators,
            "height": self.picture.height,
            "width": self.picture.width,
            "num_inference_steps": self.picture.num_inference_steps,
            "guidance_scale": self.picture.guidance_scale,
            # Not pictures yet: a pixel that is no number would become a black one.
            "output_type": "np",
            # What it paints is as large as was asked for, or the row's error.
            "use_resolution_binning": False,
            "callback_on_step_end": after_step,
        }
        if _is_prx(self.pipeline):
            asked |= self._encoded(texts, takes["guidance_scale"].default)
        made = self.pipeline(**{name: value for name, value in asked.items() if name in takes and value is not None})
        are_blackened = getattr(made, "nsfw_content_detected", None) or [False] * len(texts)
        return list(map(_picture, made.images)), list(are_blackened)

    def _encoded(self, texts: Sequence[str], guidance_scale: float) -> dict[str, Any]:
        """The texts for a PRX pipeline, which would encode the negative one for each row: once is as good.

        Of a single text it encodes the same two, so nothing changes.

        Args: guidance_scale: the pipeline's own.
        """
        guidance_scale = guidance_scale if self.picture.guidance_scale is None else self.picture.guidance_scale
        if guidance_scale <= 1:
            return {}
        states, mask, _, _ = self.pipeline.encode_prompt(
            [self.picture.negative_prompt, *texts], self.device, do_classifier_free_guidance=False
        )
        return {
            "prompt": None,
            "negative_prompt": None,
            "prompt_embeds": states[1:],
            "prompt_attention_mask": mask[1:],
            "negative_prompt_embeds": states[:1].expand(len(texts), -1, -1),
            "negative_prompt_attention_mask": mask[:1].expand(len(texts), -1),
        }


def _picture(values: Any) -> Any:
    """As pipelines make it of what they painted, (height, width, channels) from 0 to 1; None: some are no numbers."""
    from diffusers.image_processor import VaeImageProcessor

    if hasattr(values, "save"):
        return values  # this pipeline gives pictures, whatever it is asked for
    if not np.isfinite(values).all():
        return None
    [picture] = VaeImageProcessor.numpy_to_pil(values)
    return picture


def load_pipeline(directory: Path, member: Member, spec: EngineSpec) -> LocalPipeline:
    """Loads a pipeline's components; seconds to minutes.

    Raises:
        InvalidInput: the directory has no pipeline that paints a text at the member's size and with its schedule.
        EngineUnavailable: there is not enough memory.
    """
    assert member.picture, "a member that paints"
    require_pipeline(directory, f"Weights {member.weights_digest[:12]} of {member.role!r}")
    # A sealed directory is complete: diffusers must not ask a hub, or wait for one.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    device = prepared_device(spec.num_threads)
    try:
        # What the files lack, such as a pooler that nobody asks, is drawn: the same each time.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            # Weights in pickles could run code.
            pipeline: Any = DiffusionPipeline.from_pretrained(
                str(directory), dtype=getattr(torch, spec.dtype), use_safetensors=True, local_files_only=True
            )
        pipeline.to(device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        named = f"{member.model_name}:{member.model_version}"
        raise EngineUnavailable(f"No memory to load {named}: {error}", model=named) from error
    except Exception as error:  # the libraries of its components raise what they like
        raise InvalidInput(
            f"Weights {member.weights_digest[:12]} of {member.role!r} cannot be loaded as a pipeline of diffusers: "
            f"{reason_of(error)}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    _check(pipeline, member.role, member.picture)
    if member.picture.scheduler:
        pipeline.scheduler = _scheduler(pipeline.scheduler, member.role, member.picture.scheduler)
    _let_it_take_several(pipeline)
    is_alike, readers = _reading(pipeline, member.weights_digest, device)
    return LocalPipeline(
        pipeline=pipeline,
        picture=member.picture,
        device=device,
        num_threads=spec.num_threads,
        mixes_rows=not is_alike or _mixes_rows(pipeline),
        readers=readers,
    )


def _check(pipeline: Any, role: str, asked: Picture) -> None:
    """Raises: InvalidInput: it takes no text, no negative prompt, or no picture of that size."""
    name, takes = type(pipeline).__name__, inspect.signature(pipeline.__call__).parameters
    if missing := [one for one in _NEEDED if one not in takes]:
        raise InvalidInput(f"{role!r} must be a pipeline that paints a text, got {name}, which takes no {missing[0]}.")
    if asked.negative_prompt and "negative_prompt" not in takes:
        raise InvalidInput(f"{name} of {role!r} takes no negative_prompt, got {asked.negative_prompt!r}: leave it out.")
    multiple = int(getattr(pipeline, "vae_scale_factor", 1))
    patch = getattr(getattr(getattr(pipeline, "transformer", None), "config", None), "patch_size", 1)
    multiple *= patch if isinstance(patch, int) else 1
    require_size(name, role, asked, multiple)


def _scheduler(own: Any, role: str, name: str) -> Any:
    """Raises: InvalidInput: there is none of this name that does what the model's own does."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        raise InvalidInput(f"scheduler of {role!r} must be a scheduler of diffusers, got {name!r}.")
    flows = "FlowMatch"
    fitting = {type(own).__name__, *(one.__name__ for one in own.compatibles)}
    if name not in fitting and not (name.startswith(flows) and type(own).__name__.startswith(flows)):
        raise InvalidInput(
            f"scheduler of {role!r} must be one of {', '.join(sorted(fitting))}, for its model was trained for "
            f"{type(own).__name__}, got {name!r}."
        )
    kind: Any = found
    return kind.from_config(own.config)


def _let_it_take_several(pipeline: Any) -> None:
    """With guidance, both PRX pipelines give two times for any number of rows, and the transformer refuses them.

    All are one time: tests/upstream/test_prx_guidance.py tells when this can go.
    """
    if not _is_prx(pipeline):
        return

    def as_many_times(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows, times = given["hidden_states"].shape[0], given["timestep"]
        if times.shape[0] not in (1, rows):
            given = given | {"timestep": times[:1].repeat(rows)}
        return args, given

    pipeline.transformer.register_forward_pre_hook(as_many_times, with_kwargs=True)


def _is_prx(pipeline: Any) -> bool:
    return type(pipeline).__name__ in ("PRXPixelPipeline", "PRXPipeline")


def _mixes_rows(pipeline: Any) -> bool:
    """Whether noise is shared by a batch's rows, or their tokens share experts."""
    from transformers import PreTrainedModel

    if pipeline.scheduler.config.get("stochastic_sampling"):
        # It draws without the rows' generators.
        return True
    encoders = [one for one in pipeline.components.values() if isinstance(one, PreTrainedModel)]
    return any(mixes_rows(one.config) for one in encoders)


def _reading(pipeline: Any, weights_digest: str, device: Any) -> tuple[bool, list[Reader]]:
    """Whether it encodes texts of any length alike, and its readers; of sealed weights found out once in a process."""
    known = _READINGS.get(weights_digest)
    if known is None:
        with watched(pipeline, _LONG) as found:
            is_alike = _encodes_alike(pipeline, device)
        names = {id(component): name for name, component in pipeline.components.items()}
        # Without the tokenizer: a model that sleeps keeps nothing of its own in memory.
        known = is_alike, {names[id(reader.tokenizer)]: replace(reader, tokenizer=None) for reader in found}
        if weights_digest:  # other files may change
            _READINGS[weights_digest] = known
    is_alike, readers = known
    return is_alike, [replace(reader, tokenizer=pipeline.components[name]) for name, reader in readers.items()]


def _encodes_alike(pipeline: Any, device: Any) -> bool:
    """Whether a text is padded to one length, and not to the longest of its batch. What cannot be found out is not."""
    import torch

    try:
        offered = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        takes = inspect.signature(pipeline.encode_prompt).parameters
        given = {name: value for name, value in offered.items() if name in takes}
        with torch.inference_mode():
            short, long = (_shapes(pipeline.encode_prompt(prompt=[text], **given)) for text in (_SHORT, _LONG))
    except Exception:  # noqa: BLE001 (each pipeline has its own way)
        return False
    return short == long


def _shapes(encoded: Any) -> list[tuple[int, ...]]:
    found = encoded if isinstance(encoded, tuple | list) else (encoded,)
    return [tuple(one.shape) for one in found if hasattr(one, "shape")]
