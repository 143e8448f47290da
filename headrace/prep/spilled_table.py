"""A table that is written while it is made, so that memory holds one batch of it."""

import mmap
from tempfile import TemporaryFile

import pyarrow as pa

_BATCH_ROWS = 8192
# A single document may be a book.
_BATCH_CHARACTERS = 32_000_000


class SpilledTable:
    """Collects rows in batches in a temporary Arrow file, so that few Python objects exist at once."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._rows: list[tuple[object, ...]] = []
        self._num_characters = 0
        # Without a name from the start: what a killed process read stays nowhere.
        self._file = TemporaryFile(prefix="headrace-read-", suffix=".arrow")  # noqa: SIM115 (until `table`)
        self._writer = pa.ipc.new_file(self._file, schema)

    def add(self, row: tuple[object, ...]) -> None:
        self._rows.append(row)
        self._num_characters += sum(len(value) for value in row if isinstance(value, str))
        if len(self._rows) >= _BATCH_ROWS or self._num_characters >= _BATCH_CHARACTERS:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        self._flush()
        self._writer.write_batch(batch)

    def table(self) -> pa.Table:
        """All rows, mapped: the file is gone when nothing of the table is left."""
        self._flush()
        self._writer.close()
        self._file.flush()
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file.close()
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(values, field.type)
                for values, field in zip(zip(*self._rows, strict=True), self.schema, strict=True)
            ]
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self.schema))
            self._rows.clear()
            self._num_characters = 0
