"""Writes a model's safetensors files one tensor at a time, so that nobody needs to hold the model.

A header names every tensor's place, so names, dtypes and shapes come first, and then each tensor once, in the order of
the files. The bytes are those of `safetensors.torch.save_file`, the division into files and the index those of
`save_pretrained`: a model has the same digest whichever wrote it.
"""

import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from headrace.errors import InvalidInput

MAX_SHARD_BYTES = 5_000_000_000
"""Larger models are written as several files, which a store and a loader move side by side; the hub's own limit."""
TRANSFORMERS, DIFFUSERS = "model", "diffusion_pytorch_model"
"""What the files' names begin with, by the library that looks for them."""
# The format's names, in the order in which it sorts tensors: those that need the strictest alignment first.
_DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_ORDER = {dtype: number for number, dtype in enumerate(_DTYPES)}
_ALIGNMENT = 8


class SafetensorsStream:
    """A directory's files under way. Close it, or use it as a context: an exception removes what was written.

    Args:
        described: tensors of any device, meta among them, of which only dtype and shape count; in the model's order.
        stem: `TRANSFORMERS` or `DIFFUSERS`.

    Attributes:
        names: the order in which to write.
    """

    def __init__(
        self,
        directory: Path,
        described: Mapping[str, Any],
        *,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        stem: str = TRANSFORMERS,
    ) -> None:
        from huggingface_hub import split_torch_state_dict_into_shards

        self._directory, self._stem, self._described = directory, stem, described
        self._split = split_torch_state_dict_into_shards(
            {name: _meta(tensor) for name, tensor in described.items()},
            filename_pattern=f"{stem}{{suffix}}.safetensors",
            max_shard_size=max_shard_bytes,
        )
        self._files = {
            file: sorted(names, key=lambda name: (_ORDER[_dtype(described[name])], name))
            for file, names in self._split.filename_to_tensors.items()
        }
        self.names = [name for names in self._files.values() for name in names]
        self._file_of = {names[0]: file for file, names in self._files.items()}
        self._left = iter(self.names)
        self._open: IO[bytes] | None = None
        self._written: list[Path] = []

    def write(self, name: str, tensor: Any) -> None:
        """Appends the next tensor of `names`; it must have the described dtype and shape."""
        import torch

        described = self._described[name]
        assert name == next(self._left), f"{name} is not the next tensor"
        if tensor.shape != described.shape or tensor.dtype != described.dtype:
            raise InvalidInput(
                f"Tensor {name} was announced as {described.dtype} {list(described.shape)} and is {tensor.dtype} "
                f"{list(tensor.shape)}: what changes it while it is written must keep both."
            )
        if name in self._file_of:
            self._begin(self._file_of[name])
        assert self._open
        body = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._open.write(body.numpy().data)

    def close(self, *, num_parameters: int | None = None) -> None:
        """Ends the last file, and writes the index if there are several; `num_parameters` is told in it."""
        assert next(self._left, None) is None, "not every tensor was written"
        self._end()
        if not self._split.is_sharded:
            return
        told = {} if num_parameters is None else {"total_parameters": num_parameters}
        index = {"metadata": told | self._split.metadata, "weight_map": self._split.tensor_to_filename}
        path = self._directory / f"{self._stem}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def __enter__(self) -> "SafetensorsStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        with suppress(OSError):
            self._end()
        for path in self._written:
            path.unlink(missing_ok=True)

    def _begin(self, file: str) -> None:
        self._end()
        self._written.append(self._directory / file)
        self._open = self._written[-1].open("wb")
        self._open.write(_header({name: self._described[name] for name in self._files[file]}))

    def _end(self) -> None:
        if self._open:
            self._open.close()
        self._open = None


def _header(described: Mapping[str, Any]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in described.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[_dtype(tensor)], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    body = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % _ALIGNMENT)
    return struct.pack("<Q", len(body)) + body


def _meta(tensor: Any) -> Any:
    import torch

    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
