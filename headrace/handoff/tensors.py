"""Columns as torch tensors over the sealed files' pages.

A tensor that was not copied is read-only, but torch cannot mark it so: **a write into it kills the process with
SIGSEGV**. Only `copy=True` makes a writable tensor. Columns that Arrow lays out differently from torch (nulls,
bit-packed bools, text) are refused with advice.

Arrow has no bfloat16. Store its bits (`tensor.view(torch.uint16)`) and view them again as bfloat16:
`tensor(handoff, "weights").view(torch.bfloat16)`, which copies nothing either.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import InvalidInput
from headrace.handoff.sealed_rows import SealedRows

if TYPE_CHECKING:
    import torch


def tensor(handoff: SealedRows, column: str, *, rows: range | None = None, copy: bool = False) -> "torch.Tensor":
    """The rows of a column as one tensor.

    Numbers: (rows,). Fixed-size lists of n: (rows, n), nested ones (rows, n, m) and so on; fixed-shape tensors too.
    Lists: the values of all rows in a row, (values,); `list_tensors` says where each row begins.

    Args:
        rows: only these; they must lie in one part, unless copied.
        copy: a writable tensor of the caller's own; bools need it. Holds one part beside it.

    Raises:
        InvalidInput: an unknown column; rows in several parts, nulls, bools without `copy`; text and other non-numbers.
    """
    import torch

    _check_type(handoff, column)
    if not copy:
        _check_one_part(handoff, column, rows)
    pieces = [_tensor_of(handoff, column, array, copy) for array in _arrays(handoff, column, rows)]
    if copy and len(pieces) == 1:
        return pieces[0].clone()
    if len(pieces) > 1:
        return torch.cat(pieces)
    return pieces[0] if pieces else _tensor_of(handoff, column, pa.array([], handoff.schema.field(column).type), copy)


def tensors(handoff: SealedRows, column: str, *, rows: range | None = None) -> "Iterator[torch.Tensor]":
    """As `tensor`, part by part without a copy: each part is mapped in turn.

    Raises:
        InvalidInput: as `tensor`, except for the number of parts.
    """
    _check_type(handoff, column)
    return (_tensor_of(handoff, column, array, copy=False) for array in _arrays(handoff, column, rows))


def list_tensors(
    handoff: SealedRows, column: str, *, rows: range | None = None, copy: bool = False
) -> "tuple[torch.Tensor, torch.Tensor]":
    """A list column as (values, offsets): row i is `values[offsets[i]:offsets[i + 1]]`; offsets are (rows + 1,).

    With `rows`, values are the whole part's, since uncopied offsets still count from its beginning.
    With `copy`, offsets begin at 0 and values are these rows' alone.

    Raises:
        InvalidInput: as `tensor`, and if the column does not hold lists.
    """
    import torch

    _check_type(handoff, column)
    kind = handoff.schema.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise InvalidInput(f"Column {column!r} of {handoff.label} has type {kind}, not lists; take it with tensor().")
    if copy:
        arrays = list(_arrays(handoff, column, rows))
        lengths = [torch.from_dlpack(pc.call_function("list_value_length", [array])).long() for array in arrays]
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), *lengths]).cumsum(0)
        return tensor(handoff, column, rows=rows, copy=True), ends
    _check_one_part(handoff, column, rows)
    arrays = list(_arrays(handoff, column, rows)) or [pa.array([], kind)]
    array = arrays[0]
    _check_nulls(handoff, column, array)
    return _flat_tensor(handoff, column, array.values, copy=False), torch.from_dlpack(array.offsets)


def _arrays(handoff: SealedRows, column: str, rows: range | None) -> Iterator[pa.Array]:
    return (batch.column(0) for batch in handoff.batches([column], rows=rows))


def _tensor_of(handoff: SealedRows, column: str, array: pa.Array, copy: bool) -> "torch.Tensor":
    _check_nulls(handoff, column, array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        # Unlike `values`, only these rows' values; without nulls that is a slice.
        array = array.flatten()
        _check_nulls(handoff, column, array)
    return _flat_tensor(handoff, column, array, copy)


def _flat_tensor(handoff: SealedRows, column: str, array: pa.Array, copy: bool) -> "torch.Tensor":
    """Adds a dimension for each level of fixed-size lists."""
    import torch

    shape: list[int] = []
    while True:
        _check_nulls(handoff, column, array)
        if isinstance(array, pa.ExtensionArray):
            if isinstance(array.type, pa.FixedShapeTensorType):
                return _flat_tensor(handoff, column, array.storage, copy).reshape(-1, *array.type.shape)
            array = array.storage
        elif pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
            array = array.flatten()
        else:
            break
    if pa.types.is_boolean(array.type):
        if not copy:
            raise InvalidInput(
                f"Column {column!r} of {handoff.label} holds bools, which Arrow packs into bits: copy=True."
            )
        # Arrow's array is read-only here, and torch needs a writable one.
        flat = torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False), copy=True))
    else:
        # dlpack accepts read-only pages; torch.from_numpy would warn that it cannot keep them read-only.
        flat = torch.from_dlpack(array)
    num_rows = len(flat) // int(np.prod(shape)) if shape and all(shape) else len(flat)
    return flat.reshape(num_rows, *shape) if shape else flat


def _check_type(handoff: SealedRows, column: str) -> None:
    """Checks by the schema alone, before anything is opened."""
    kind = handoff.table([column], rows=range(0)).schema.field(0).type
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    while isinstance(inner, pa.BaseExtensionType) or pa.types.is_fixed_size_list(inner):
        inner = inner.storage_type if isinstance(inner, pa.BaseExtensionType) else inner.value_type
    if pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_boolean(inner):
        return
    raise InvalidInput(
        f"Column {column!r} of {handoff.label} has type {kind}, which torch has no layout for: encode it as numbers, "
        "or read it with table() or polars()."
    )


def _check_nulls(handoff: SealedRows, column: str, array: pa.Array) -> None:
    if array.null_count:
        raise InvalidInput(
            f"Column {column!r} of {handoff.label} has {array.null_count} nulls, which tensors cannot hold: "
            f"fill them first, as with handoff.polars([{column!r}]).fill_null(0)."
        )


def _check_one_part(handoff: SealedRows, column: str, rows: range | None) -> None:
    rows = range(handoff.num_rows) if rows is None else rows
    first, num_parts, own = 0, 0, range(0)
    for part in handoff.manifest.parts:
        here = range(max(first, rows.start), min(first + part.num_rows, rows.stop))
        num_parts += bool(here)
        own = own if own else here
        first += part.num_rows
    if num_parts > 1:
        raise InvalidInput(
            f"Column {column!r} of {handoff.label} lies in {num_parts} parts, which one tensor can hold only as a "
            f"copy: copy=True, rows within one part (rows=range({own.start}, {own.stop})), tensors() part by part, or "
            "publish with a larger batch_bytes."
        )
