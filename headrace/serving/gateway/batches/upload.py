"""Reads an upload as it comes: `multipart/form-data` with the fields of a file, and the file itself in pieces.

Only fields are kept; a file's bytes are handed on. Limits are on fields too, so that no form fills the memory.
"""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headrace.serving.gateway.refusals import Refusal, invalid

_FIELD_BYTES_MAX, _NUM_FIELDS_MAX = 1_024, 16
_FILE = "file"


@dataclass
class Form:
    """What came so far. `pieces`: of the file, to be taken away. `filename` None: no file came yet."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    pieces: list[bytes] = field(default_factory=list)
    is_whole: bool = False

    def take(self) -> bytes:
        taken = b"".join(self.pieces)
        self.pieces.clear()
        return taken


class FormReader:
    """Feeds a parser with a body; `form` has what was read."""

    def __init__(self, content_type: bytes) -> None:
        """Raises: Refusal: this is no form."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
            raise invalid(
                "A file must come as multipart/form-data with the fields purpose and file.", code="invalid_form"
            )
        self.form = Form()
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._name: str | None = None
        self._text = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_end": self._end,
            },
        )

    def feed(self, piece: bytes) -> None:
        """Raises: Refusal: the form is broken, or has fields that are too many or too long."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise invalid(f"The form cannot be read: {error}", code="invalid_form") from None

    def end(self) -> None:
        """Raises: Refusal: the form is not whole."""
        if not self.form.is_whole:
            raise invalid("The form ends in the middle; send it again.", code="invalid_form")

    def _begin_part(self) -> None:
        self._disposition, self._name = b"", None
        self._text.clear()

    def _end_header(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == _FILE:
            if self.form.filename is not None:
                raise invalid("The form has two files; send one at a time.", param=_FILE, code="invalid_form")
            # Without directories, which some clients send.
            written = options.get(b"filename", b"file.jsonl").decode("utf-8", "replace")
            self.form.filename = written.replace("\\", "/").rpartition("/")[2][:255] or "file.jsonl"
        elif len(self.form.fields) >= _NUM_FIELDS_MAX:
            raise _too_much(f"A form may have {_NUM_FIELDS_MAX} fields, this one has more.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == _FILE:
            self.form.pieces.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _FIELD_BYTES_MAX:
            raise _too_much(f"A field of a form may have {_FIELD_BYTES_MAX} bytes, {self._name!r:.40} has more.")

    def _end_part(self) -> None:
        if self._name and self._name != _FILE:
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.form.is_whole = True


def _too_much(message: str) -> Refusal:
    return Refusal(413, message, code="request_too_large")
