"""How packed rows reach a model: as they are, with explicit boundaries, or one example a row.

Positions that restart at 0 mark where the examples of a row begin. Without a mask and a cache, transformers' attention
layers derive their mask from them. Convolutions and states that run along a row, and learnt positions that are counted,
ignore them. So before the first step each model is measured on its own weights: an example in a row must get the same
logits as alone.

| feeding | the model's input | for |
|---|---|---|
| packed | rows and restarting positions | attention models |
| boundaries | the same and `seq_idx` and `cu_seq_lens`, all rows of a pass as one | states whose kernels take them |
| one example a row | each example alone, padded on the right | everything else; two to five times slower |

Shapes: B rows, T tokens of a row, K positions that carry loss, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from headrace.errors import InvalidTrainingRun
from headrace.training.examples import NO_LOSS, PackedExamples, Pass

Feeding = Literal["packed", "boundaries", "one example a row"]
PACKED: Feeding = "packed"
BOUNDARIES: Feeding = "boundaries"
ALONE: Feeding = "one example a row"

# Length of the two trial examples: a state shows in its first tokens, a convolution in its very first.
_TRIED_TOKENS = 48
# The mean difference of logits, in units of their spread, above which it is not rounding. Between two computations of
# the same shape, whose sums agree: dense models differ by nothing, sparse ones by a hundredth of the precision; the
# smallest leak seen in a random model, jamba's in bf16, is 3e-4.
_SAME_SHAPE = {"float32": 1e-6, "bfloat16": 1e-4, "float16": 2e-5}
# Between two shapes: this multiple of a difference that cannot be a leak, but at least these multiples of the
# precision.
_TIMES_NOISE = 4
_OTHER_SHAPE = {"float32": 2e-6, "bfloat16": 1.6e-2, "float16": 2e-3}


def summed_loss(model: Any, passed: Pass, device: Any, feeding: Feeding = PACKED) -> tuple[Any, int]:
    """Cross entropy in nats, summed over the positions that carry loss, and their number.

    Computes logits for those positions only: with a vocabulary of 49,152 the others would need more memory than the
    whole model.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if feeding == ALONE:
        passed = one_example_a_row(passed)
    # The logits at t predict the token at t + 1.
    targets_BT = passed.labels_BT[:, 1:]  # noqa: N806 (shape letters)
    if feeding == BOUNDARIES:
        # As one row: nothing predicted a row's first token, so it must not become the previous row's target.
        last_B1 = np.full((len(targets_BT), 1), NO_LOSS, dtype=targets_BT.dtype)  # noqa: N806
        targets_BT = np.concatenate([targets_BT, last_B1], axis=1).reshape(1, -1)[:, :-1]  # noqa: N806
    kept_K = np.flatnonzero((targets_BT != NO_LOSS).any(axis=0))  # noqa: N806
    logits_BKV = logits_at(model, passed, device, feeding, kept_K)  # noqa: N806
    targets_BK = torch.from_numpy(targets_BT[:, kept_K]).to(device)  # noqa: N806
    loss = cross_entropy(logits_BKV.float().flatten(0, 1), targets_BK.flatten(), ignore_index=NO_LOSS, reduction="sum")
    return loss, int((targets_BT != NO_LOSS).sum())


def one_example_a_row(passed: Pass) -> Pass:
    """The examples that carry loss, one in each row; padding follows them and carries none."""
    starts_BT = passed.position_ids_BT == 0  # noqa: N806
    numbers_BT = starts_BT.cumsum(axis=1)  # noqa: N806
    taken = []
    for row, numbers in enumerate(numbers_BT):
        with_loss = np.unique(numbers[1:][passed.labels_BT[row, 1:] != NO_LOSS])
        taken += [(row, np.flatnonzero(numbers == number)) for number in with_loss]
    # A rank without examples still takes part in the others' sums.
    taken = taken or [(0, np.arange(2))]
    length = max(len(places) for _, places in taken)
    input_ids = np.zeros((len(taken), length), dtype=passed.input_ids_BT.dtype)
    labels = np.full_like(input_ids, NO_LOSS)
    for number, (row, places) in enumerate(taken):
        input_ids[number, : len(places)] = passed.input_ids_BT[row, places]
        # Nothing predicts an example's first token.
        labels[number, 1 : len(places)] = passed.labels_BT[row, places[1:]]
    positions = np.broadcast_to(np.arange(length, dtype=input_ids.dtype), input_ids.shape).copy()
    return Pass(input_ids, labels, positions)


def choose_feeding(
    model: Any, examples: PackedExamples, device: Any, *, any_rank: Callable[[bool], bool] = lambda found: found
) -> Feeding:
    """The fastest feeding with which no example of `examples` sees another.

    Runs the model a few times on two short examples; no random number is drawn and no weight changes. Under ZeRO stage
    3 all ranks must call it at the same time.

    Args:
        any_rank: whether something is true on any rank, so that all ranks decide alike.

    Raises:
        InvalidTrainingRun: a token's logits depend on what follows it: this is not a causal model.
    """
    pair = examples.two_of_a_row(_TRIED_TOKENS)
    if pair is None:
        return PACKED
    was_training = model.training
    model.eval()
    try:
        return _chosen(_Trial(model, *pair, device), any_rank)
    finally:
        model.train(was_training)


def _chosen(trial: "_Trial", any_rank: Callable[[bool], bool]) -> Feeding:
    if any_rank(trial.sees_what_follows()):
        raise InvalidTrainingRun(
            "What follows a token changes what the base model makes of it: it is no causal language model, and would "
            "learn to copy. Take a decoder (an encoder such as BERT needs is_decoder in its config.json)."
        )
    for feeding in (PACKED, BOUNDARIES):
        if not any_rank(trial.leaks(feeding)):
            return feeding
    return ALONE


class _Trial:
    """Two examples of one row, and differences between computations of the second one's logits."""

    def __init__(self, model: Any, first: np.ndarray, second: np.ndarray, device: Any) -> None:
        self._model = model
        self._first, self._second = first, second
        # Another text of the same length.
        self._other = np.resize(second[::-1], len(first))
        self._device = device
        precision = str(next(model.parameters()).dtype).removeprefix("torch.")
        self._same_shape, self._other_shape = (
            most.get(precision, most["float32"]) for most in (_SAME_SHAPE, _OTHER_SHAPE)
        )
        # The logits for a caller that knows nothing of packing.
        self._alone = self._of_second([second], 0)
        # Nothing precedes it in the row: any difference from the logits alone is rounding.
        self._put_first = self._of_second([second, first], 0, PACKED)

    def sees_what_follows(self) -> bool:
        beside_other = self._of_second([self._second, self._other], 0, PACKED)
        return self._difference(self._put_first, beside_other) > self._same_shape

    def leaks(self, feeding: Feeding) -> bool:
        """Whether the second example sees the first, or its own place; True if this feeding is impossible."""
        try:
            packed, beside_other = (self._of_second([f, self._second], 1, feeding) for f in (self._first, self._other))
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            # transformers raises ValueError if only a missing kernel could keep the examples apart.
            return True
        noise = self._difference(self._put_first, self._alone)
        most = max(_TIMES_NOISE * noise, self._other_shape)
        # In this form a NaN counts as a leak.
        return not (
            self._difference(packed, beside_other) <= self._same_shape and self._difference(packed, self._alone) <= most
        )

    def _of_second(self, examples: list[np.ndarray], place: int, feeding: Feeding | None = None) -> Any:
        import torch

        begin = sum(len(example) for example in examples[:place])
        ids_1T = np.concatenate(examples)[None]  # noqa: N806 (shape letters)
        positions_1T = np.concatenate([np.arange(len(example)) for example in examples])[None]  # noqa: N806
        with torch.no_grad():
            if feeding is None:
                logits_1TV = self._model(input_ids=torch.from_numpy(ids_1T).to(self._device)).logits  # noqa: N806
            else:
                passed = Pass(ids_1T, ids_1T, positions_1T)
                logits_1TV = logits_at(  # noqa: N806
                    self._model, passed, self._device, feeding, np.arange(ids_1T.shape[1])
                )
        return logits_1TV[0, begin : begin + len(self._second)].float()

    def _difference(self, one: Any, other: Any) -> float:
        """Mean over tokens and vocabulary, in units of the logits' own spread."""
        return float((one - other).abs().mean() / self._alone.std().clamp(min=1e-30))


def logits_at(model: Any, passed: Pass, device: Any, feeding: Feeding, kept_K: np.ndarray) -> Any:  # noqa: N803
    import torch

    ids_BT, positions_BT = passed.input_ids_BT, passed.position_ids_BT  # noqa: N806
    boundaries: dict[str, Any] = {}
    if feeding == BOUNDARIES:
        ids_BT, positions_BT = ids_BT.reshape(1, -1), positions_BT.reshape(1, -1)  # noqa: N806
        boundaries = _boundaries(positions_BT, device)
    kept = torch.from_numpy(kept_K).to(device)
    logits = model(
        input_ids=torch.from_numpy(ids_BT).to(device),
        position_ids=torch.from_numpy(positions_BT).to(device),
        use_cache=False,
        logits_to_keep=kept,
        **boundaries,
    ).logits
    # A few models always compute all logits.
    return logits if logits.shape[1] == len(kept_K) else logits[:, kept]


def _boundaries(positions_1T: np.ndarray, device: Any) -> dict[str, Any]:  # noqa: N803
    """Arguments with the names of transformers' own collator of flattened examples."""
    import torch

    starts = np.flatnonzero(positions_1T[0] == 0)
    ends = np.append(starts, positions_1T.shape[1])
    cumulated = torch.from_numpy(ends.astype(np.int32)).to(device)
    longest = int(np.diff(ends).max())
    numbers_1T = ((positions_1T == 0).cumsum(axis=1) - 1).astype(np.int32)  # noqa: N806
    return {
        "seq_idx": torch.from_numpy(numbers_1T).to(device),
        "cu_seq_lens_q": cumulated,
        "cu_seq_lens_k": cumulated,
        "max_length_q": longest,
        "max_length_k": longest,
    }
