"""Decodes turns side by side, padded on the left; turns join and leave between two tokens.

Shapes: B rows, T tokens, V vocabulary, H heads, D their width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.engines.local.sampling import Draw, next_tokens

if TYPE_CHECKING:
    import torch


@dataclass(eq=False)
class Row:
    """One turn in a batch. `draw` picks its next token from the row's own random numbers."""

    token_ids: Sequence[int]
    draw: Draw


class DecodingBatch:
    """Rows that share a cache; empty at first."""

    def __init__(self, model: Any, device: "torch.device", pad_id: int, num_positions: int | None) -> None:
        self._model = model
        self._device = device
        self._pad_id = pad_id
        self._num_positions = num_positions
        self.rows: list[Row] = []
        self._cache: Any = None
        self._mask_BT: Any = None
        self._next_B: Any = None

    @property
    def can_be_joined(self) -> bool:
        """Whether the model's cache allows rows of different lengths to be combined."""
        from transformers.cache_utils import DynamicLayer

        return not self.rows or all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def join(self, rows: Sequence[Row], num_prompt_tokens: int | None = None) -> list[int]:
        """Reads the new rows' prompts; returns their first tokens.

        Args: num_prompt_tokens: what prompts are padded to; None: the longest one's length.
        """
        import torch

        length = num_prompt_tokens or max(len(row.token_ids) for row in rows)
        ids = [[self._pad_id] * (length - len(row.token_ids)) + list(row.token_ids) for row in rows]
        mask = [[0] * (length - len(row.token_ids)) + [1] * len(row.token_ids) for row in rows]
        mask_BT = torch.tensor(mask, device=self._device)  # noqa: N806
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)  # noqa: N806
        with torch.inference_mode():
            step = self._forward(torch.tensor(ids, device=self._device), mask_BT, positions_BT, None)
            next_B = _drawn(rows, step.logits[:, -1])  # noqa: N806
            if self.rows:
                self._cache, mask_BT = _merged(self._cache, self._mask_BT, step.past_key_values, mask_BT)  # noqa: N806
                self._next_B = torch.cat([self._next_B, next_B])
            else:
                self._cache, self._next_B = step.past_key_values, next_B
        self._mask_BT = mask_BT
        self.rows = [*self.rows, *rows]
        return next_B.tolist()

    def step(self, read: Sequence[bool] | None = None) -> list[int]:
        """The next token of each row.

        Args: read: whether anybody reads a row's token; None: every row's. For one that nobody reads nothing is drawn,
            and its last token is given once more: drawing takes a third of a small model's step.
        """
        import torch

        with torch.inference_mode():
            self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(self.rows), 1)], dim=-1)
            # A finished row stays while others go on, maybe beyond the model's last position.
            last = self._num_positions and self._num_positions - 1
            positions_B1 = (self._mask_BT.sum(-1, keepdim=True) - 1).clamp(max=last)  # noqa: N806
            step = self._forward(self._next_B.unsqueeze(-1), self._mask_BT, positions_B1, self._cache)
            self._cache = step.past_key_values
            logits_BV = step.logits[:, -1]  # noqa: N806
            if read is None or all(read):
                self._next_B = _drawn(self.rows, logits_BV)
            else:
                places = [place for place, is_read in enumerate(read) if is_read]
                self._next_B = self._next_B.clone()
                self._next_B[places] = _drawn([self.rows[place] for place in places], logits_BV[places])
        return self._next_B.tolist()

    def drop(self, gone: set[Row]) -> None:
        """Removes rows, and the padding that only they needed."""
        import torch

        kept = [index for index, row in enumerate(self.rows) if row not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if not kept:
            self._cache = self._mask_BT = self._next_B = None
            return
        index_B = torch.tensor(kept, device=self._device)  # noqa: N806
        with torch.inference_mode():
            self._cache.batch_select_indices(index_B)
            self._mask_BT, self._next_B = self._mask_BT[index_B], self._next_B[index_B]

    def _forward(self, ids_BT: Any, mask_BT: Any, positions_BT: Any, cache: Any) -> Any:  # noqa: N803
        return self._model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )


def _drawn(rows: Sequence[Row], logits_BV: "torch.Tensor") -> "torch.Tensor":  # noqa: N803
    return next_tokens([row.draw for row in rows], logits_BV)


def _merged(left: Any, left_mask_BT: Any, right: Any, right_mask_BT: Any) -> tuple[Any, Any]:  # noqa: N803
    """One cache and one mask; the shorter cache is padded on the left, and the mask hides the padding."""
    import torch
    from torch.nn.functional import pad

    length = max(left_mask_BT.shape[1], right_mask_BT.shape[1])
    # The mask includes the token that a row reads next; the cache does not.
    past_length = max(left.get_seq_length(), right.get_seq_length())
    for mine, theirs in zip(left.layers, right.layers, strict=True):
        for name in ("keys", "values"):
            parts_BHTD = [getattr(layer, name) for layer in (mine, theirs)]  # noqa: N806
            padded = [pad(part, (0, 0, past_length - part.shape[2], 0)) for part in parts_BHTD]
            setattr(mine, name, torch.cat(padded))
    masks = [pad(mask, (length - mask.shape[1], 0)) for mask in (left_mask_BT, right_mask_BT)]
    return left, torch.cat(masks)
