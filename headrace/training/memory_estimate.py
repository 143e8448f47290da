"""Estimates the memory of one rank at its highest moment, by part, from numbers alone: no torch, no weights.

A training has few moments that can be the highest: backward begins (all that forward kept, and the first buffers of
gradients), backward is done (all gradients), and the optimizer steps. Each is a sum of parts, and the largest counts.
Model state follows from what DeepSpeed keeps at a stage and precision, as `headrace.training.engine` configures it;
what forward keeps follows from the model's widths.
`python -m benchmarks.training --only estimate_error` compares with
measured trainings.

Does not know: kernels that a GPU's vendor ships (workspaces), other libraries' caches, and models without widths, of
which only the state is counted (`is_floor`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from headrace.errors import InvalidTrainingRun
from headrace.training.model_widths import ModelWidths
from headrace.training.recipe import Precision
from headrace.training.zero import ModelShape

MIB = 1024 * 1024

Part = Literal["weights", "gradients", "optimizer", "activations", "logits", "communication", "process"]
Moment = Literal["backward begins", "backward is done", "the optimizer steps"]
FORWARD: Moment = "backward begins"
BACKWARD: Moment = "backward is done"
STEP: Moment = "the optimizer steps"

# Elements in a bucket of gradients, as the engine configures it.
BUCKET_ELEMENTS = 20_000_000
# Stage 0 sends all gradients as one, up to so many elements.
_STAGE_0_BUCKET_ELEMENTS = 500_000_000
# Parameters that stage 3 keeps gathered from forward to backward: DeepSpeed's stage3_max_live_parameters.
_LIVE_PARAMETERS = 1_000_000_000
# Parameters that stage 3 gathers before they are needed: DeepSpeed's stage3_prefetch_bucket_size.
_PREFETCHED_PARAMETERS = 50_000_000
# Measured: what libraries allocate at their first use, beyond what they hold once imported.
_PROCESS_MIB = {"cpu": 265, "cuda": 0}
# Measured: glibc keeps what is freed between blocks that are not. Of a GPU's allocator nothing is known here.
_HOLES = {"cpu": 0.1, "cuda": 0.0}
# A process with its libraries imported, and on a GPU the context that CUDA itself holds in its memory.
IMPORTED_MIB = {"cpu": 400, "cuda": 600}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one rank holds at once, of whatever recipe.

    Attributes:
        tokens: of one pass: micro-batch times sequence length.
        loss_tokens: of these, those for which logits are computed.
        row_tokens: of one row: an attention table has as many columns.
        is_accumulated: a step has several passes.
        has_attention_table: attention is computed in the open (`eager`), and keeps its whole table.
        keeps_best: rank 0 holds the trained weights once more, in the machine's memory.
        state_bytes: of the optimizer, beyond its fp32 copy of the weights; 8: Adam's two moments.
        adapted_inputs: widths of what adapters read, summed over a layer; 0: no adapters. Then the trained parameters
            are the adapters' alone, and `base_is_trained` is false. `adapters_drop`: they have dropout.
    """

    world_size: int
    zero_stage: int
    precision: Precision
    device: Literal["cpu", "cuda"]
    tokens: int
    loss_tokens: int
    row_tokens: int
    is_accumulated: bool = False
    state_bytes: int = 8
    is_checkpointed: bool = False
    has_attention_table: bool = False
    offloads_optimizer: bool = False
    offloads_parameters: bool = False
    keeps_best: bool = False
    base_is_trained: bool = True
    adapted_inputs: int = 0
    adapters_drop: bool = False

    @property
    def element_bytes(self) -> int:
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by part at the highest moment; `imported_mib` of `process` are there before anything is trained.

    `is_floor`: activations are not counted, since the model's widths are unknown. `host_bytes`: of what is offloaded.
    """

    parts: Mapping[Part, int]
    moment: Moment
    is_floor: bool = False
    host_bytes: int = 0
    imported_mib: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def mib(self) -> int:
        return -(-self.num_bytes // MIB)

    @property
    def over_import_mib(self) -> int:
        """What comes on top of a process with its libraries imported."""
        return self.mib - self.imported_mib

    def words(self) -> str:
        """Its parts from the largest down: `weights 512, optimizer 1,024 MiB`."""
        listed = sorted(self.parts.items(), key=lambda item: -item[1])
        told = [f"{name} {num_bytes / MIB:,.0f}" for name, num_bytes in listed if num_bytes >= MIB / 2]
        return ", ".join(told) + " MiB"


def estimate_memory(shape: ModelShape, widths: ModelWidths | None, load: Load) -> MemoryEstimate:
    """The highest of a training's moments.

    Raises:
        InvalidTrainingRun: `world_size` is not positive.
    """
    state = model_state(shape, widths, load)
    kept = _activations(widths, load)
    head = _logits(widths, load)
    process = (IMPORTED_MIB[load.device] + _PROCESS_MIB[load.device]) * MIB
    moments: dict[Moment, dict[Part, float]] = {
        FORWARD: {"activations": kept.activations, "logits": head.peak},
        BACKWARD: {"activations": kept.left, "logits": head.left},
        STEP: {},
    }
    for moment, parts in moments.items():
        parts |= {
            "weights": state.weights,
            "optimizer": state.optimizer,
            "gradients": state.gradients[moment],
            "communication": state.communication[moment],
        }
        parts["process"] = process + _HOLES[load.device] * sum(parts.values())
    moment = max(moments, key=lambda one: sum(moments[one].values()))
    return MemoryEstimate(
        parts={part: round(num_bytes) for part, num_bytes in moments[moment].items()},
        moment=moment,
        is_floor=widths is None,
        host_bytes=round(state.host),
        imported_mib=IMPORTED_MIB[load.device],
    )


def floor_bytes(shape: ModelShape, widths: ModelWidths | None, load: Load) -> int:
    """What no training of this kind can do without, whatever its batch: it is refused on less."""
    return model_state(shape, widths, load).floor


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """Bytes that one rank holds of the model and its training, and what is sent, at each moment."""

    weights: float
    optimizer: float
    gradients: Mapping[Moment, float]
    communication: Mapping[Moment, float]
    host: float = 0

    @property
    def floor(self) -> int:
        return round(self.weights + self.optimizer + max(self.gradients.values()))


def model_state(shape: ModelShape, widths: ModelWidths | None, load: Load) -> ModelState:
    """What DeepSpeed keeps of weights, gradients and optimizer at a stage and precision.

    An fp32 copy of the weights belongs to the optimizer: in half precision always, in fp32 from stage 1 on.
    """
    if load.world_size < 1:
        raise InvalidTrainingRun(f"world_size must be positive, got {load.world_size}.")
    width, ranks, stage = load.element_bytes, load.world_size, load.zero_stage
    trained = shape.num_params_trained
    own = trained / (ranks if stage >= 1 else 1)
    has_copy = stage >= 1 or load.precision != "fp32"
    optimizer = own * (load.state_bytes + (4 if has_copy else 0))
    weights = width * shape.num_params / (ranks if stage >= 3 else 1)
    gradients, communication = _sent(shape, widths, load, own)
    host = 0.0
    if load.offloads_optimizer:
        # Gradients go there with it.
        host, optimizer = optimizer + 4 * own, 0.0
        gradients = dict.fromkeys(gradients, 0.0)
    if load.offloads_parameters:
        host, weights = host + weights, 0.0
    if load.keeps_best:
        best = width * trained
        weights, host = (weights + best, host) if load.device == "cpu" else (weights, host + best)
    if stage == 3:
        weights += width * min(shape.num_params, _LIVE_PARAMETERS)
    return ModelState(weights=weights, optimizer=optimizer, gradients=gradients, communication=communication, host=host)


def _sent(
    shape: ModelShape, widths: ModelWidths | None, load: Load, own: float
) -> tuple[dict[Moment, float], dict[Moment, float]]:
    """Gradients and buckets, at each moment. `own`: the elements that this rank steps."""
    width, trained = load.element_bytes, shape.num_params_trained
    gradients: dict[Moment, float]
    if load.zero_stage == 0:
        whole = width * trained
        sent = width * min(trained, _STAGE_0_BUCKET_ELEMENTS)
        # Half precision steps on a copy in fp32.
        copied = 0 if load.precision == "fp32" else 4 * trained
        gradients = {
            FORWARD: whole if load.is_accumulated else 0,
            BACKWARD: whole,
            STEP: whole + copied,
        }
        return gradients, {FORWARD: 0, BACKWARD: sent, STEP: 0}
    bucket = width * min(trained, max(BUCKET_ELEMENTS, widths.largest if widths else 0))
    # Its own share is there from the first gradient on. Stage 1 reduces at a step's end, and until then keeps all.
    kept = width * own + (4 * trained if load.zero_stage == 1 and load.is_accumulated else 0)
    gradients = {FORWARD: kept, BACKWARD: kept, STEP: width * own + 4 * own}
    if load.zero_stage < 3:
        # Measured: a bucket is filled and sent; stage 1 sends copies.
        sent = (2 if load.zero_stage == 1 else 1) * bucket
        return gradients, {FORWARD: sent, BACKWARD: sent, STEP: 0}
    # Measured: what is gathered ahead is there twice more, as it comes and as it is put together. A bucket's buffer is
    # as large for a few trained parameters as for all.
    ahead = width * min(shape.num_params, _PREFETCHED_PARAMETERS)
    sent = width * min(shape.num_params, max(BUCKET_ELEMENTS, widths.largest if widths else 0)) + 2 * ahead
    return gradients, {FORWARD: sent, BACKWARD: sent, STEP: bucket}


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Bytes: all that forward kept, with what the first layer of backward needs beside; and what is left at its end."""

    activations: float = 0
    left: float = 0


def _activations(widths: ModelWidths | None, load: Load) -> _Kept:
    if widths is None:
        return _Kept()
    layer = layer_bytes(widths, load)
    layers = widths.layers_trained
    num_kept = layers * (load.element_bytes * widths.hidden if load.is_checkpointed else layer)
    working = _working_bytes(widths, load) + (layer if load.is_checkpointed else 0)
    last_norm = _norm_bytes(widths, load) * widths.hidden
    mask = load.row_tokens * load.element_bytes
    return _Kept(
        activations=load.tokens * (num_kept + working + last_norm + mask),
        left=load.tokens * ((layer if layers else 0) + working + mask),
    )


def layer_bytes(widths: ModelWidths, load: Load) -> float:
    """Bytes a token that one layer keeps for backward."""
    width, trained = load.element_bytes, load.base_is_trained
    norms = 2 * _norm_bytes(widths, load) * widths.hidden
    if widths.has_gated_residuals:
        norms += 2 * load.element_bytes * widths.hidden
    if widths.has_head_norms:
        norms += _norm_bytes(widths, load) * (widths.query + widths.key_value)
    # Query, key, value and output; keys and values are repeated for every query head, since packed rows have a mask.
    attention = width * 4 * widths.query + 4 * widths.heads
    if widths.drops_attention or load.has_attention_table:
        # Computed in the open, in fp32: of half precision with copies of what it reads.
        entry = 2 * width + 1 if width == 4 else 12
        attention += (0 if width == 4 else 6 * widths.query) + entry * widths.heads * load.row_tokens
    # The activation's input and output, the gate's factor, and what the last layer reads.
    kept = 2 + (1 if widths.is_gated else 0) + (3 if widths.is_composed else 0)
    # What the last layer reads is kept if it is learnt, or if its adapter reads it as it is.
    is_read = trained or (load.adapted_inputs and not load.adapters_drop)
    kept += 1 if is_read and widths.is_gated else 0
    kept -= 0 if trained or widths.is_gated else 1
    return norms + attention + width * kept * widths.inner + _adapter_bytes(load)


def _adapter_bytes(load: Load) -> float:
    """Bytes a token that a layer's adapters keep, which have the model's precision: with dropout what it left of what
    they read, and what it drew."""
    drawn = load.element_bytes if load.device == "cpu" else 1
    return load.adapted_inputs * (load.element_bytes + drawn) if load.adapters_drop else 0


def _norm_bytes(widths: ModelWidths, load: Load) -> float:
    """Bytes a number that one norm keeps: of RMSNorm its input in fp32, the scaled input and the output."""
    width = load.element_bytes
    # A frozen norm's output is kept only by adapters that read it as it is.
    learnt = 2 if load.base_is_trained else 1 if load.adapted_inputs and not load.adapters_drop else 0
    if widths.has_rms_norm:
        return 4 + learnt * width
    return width + min(learnt, 1) * width


def _working_bytes(widths: ModelWidths, load: Load) -> float:
    """Bytes a token that backward of one layer holds beside what forward kept."""
    return load.element_bytes * (2 * widths.hidden + (3 if widths.is_gated else 2) * widths.inner)


@dataclass(frozen=True, kw_only=True)
class _Logits:
    peak: float = 0
    left: float = 0


def _logits(widths: ModelWidths | None, load: Load) -> _Logits:
    """Logits, and with them the gradient of the layer that makes them.

    Cross entropy in fp32 holds its logarithms, their gradient and that of the logits together.
    """
    if widths is None:
        return _Logits()
    each = 12 if load.precision == "fp32" else 14
    # A tied embedding gets its gradient twice: from the logits, and at the very end from the tokens.
    of_weights = load.element_bytes * widths.vocabulary * widths.hidden
    is_learnt = load.base_is_trained and widths.learns_embedding
    return _Logits(
        peak=each * load.loss_tokens * widths.vocabulary,
        left=of_weights if widths.is_tied and is_learnt else 0,
    )
