"""Decodes rows so that each one's tokens depend on the row alone: every batch has one shape.

The last bits of a logit depend on the shapes of its matrices, not on a row's place or its neighbours. So a batch always
has as many rows as its version set says, filled up with rows that nobody reads; prompts are padded to a length that
follows from their own; no row joins, and finished rows stay until all are done, though nothing is drawn for them. A row
that is tried again alone gives the bytes of its first batch.

The cost: prompts of different lengths are different batches, each filled up. Where full batches are of one length, the
padding of prompts is all of it. Shapes: B rows, T tokens.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from headrace.engines.local.decoding_batch import DecodingBatch, Row

# Prompts up to 256 tokens are padded to a multiple of it, longer ones to a multiple of an eighth to a quarter of their
# length: few lengths, so that batches are full, and little padding.
_STEP_TOKENS = 32


@dataclass(eq=False)
class BoundedRow(Row):
    """A row, and the most tokens of its output."""

    num_tokens_max: int


def padded_length(num_tokens: int) -> int:
    """To how many tokens a prompt of so many is padded."""
    step = max(_STEP_TOKENS, 1 << max(0, (num_tokens - 1).bit_length() - 3))
    return -(-num_tokens // step) * step


def decode_in_one_shape(
    empty: Callable[[], DecodingBatch],
    rows: Sequence[BoundedRow],
    batch_rows: int,
    stop_ids: Collection[int],
    *,
    is_wanted: Callable[[], bool],
) -> list[list[int]]:
    """Each row's tokens up to its end token or its limit.

    Args:
        empty: makes an empty batch.
        is_wanted: called before each token; it may take its time, and if it returns False, the tokens made so far are
            returned.
    """
    outputs: dict[BoundedRow, list[int]] = {}
    for length, together in _of_one_length(rows, batch_rows):
        if not is_wanted():
            break
        outputs |= zip(together, _decoded(empty(), together, batch_rows, length, stop_ids, is_wanted), strict=True)
    return [outputs.get(row, []) for row in rows]


def _of_one_length(rows: Sequence[BoundedRow], batch_rows: int) -> Iterator[tuple[int, list[BoundedRow]]]:
    by_length: dict[int, list[BoundedRow]] = {}
    for row in rows:
        by_length.setdefault(padded_length(len(row.token_ids)), []).append(row)
    for length, found in by_length.items():
        for start in range(0, len(found), batch_rows):
            yield length, found[start : start + batch_rows]


def _decoded(
    batch: DecodingBatch,
    rows: Sequence[BoundedRow],
    batch_rows: int,
    length: int,
    stop_ids: Collection[int],
    is_wanted: Callable[[], bool],
) -> list[list[int]]:
    # A copy of the first row fills up: it needs no special case anywhere, and nobody reads it.
    filled = [*rows, *(Row(rows[0].token_ids, rows[0].draw.copy()) for _ in range(batch_rows - len(rows)))]
    outputs = [[token] for token in batch.join(filled, length)[: len(rows)]]
    nobody = [False] * (len(filled) - len(rows))
    while is_wanted():
        going_on = [
            output[-1] not in stop_ids and len(output) < row.num_tokens_max
            for output, row in zip(outputs, rows, strict=True)
        ]
        if not any(going_on):
            break
        for output, token, goes_on in zip(
            outputs, batch.step([*going_on, *nobody])[: len(rows)], going_on, strict=True
        ):
            if goes_on:
                output.append(token)
    return outputs
