"""The encoding of an HTML page's bytes, in the order of browsers (encoding.spec.whatwg.org, html.spec.whatwg.org).

A byte order mark, then what somebody who knows it says in the layout, then what the page declares, then UTF-8. Only a
`meta` element in the head declares, never a comment or a script, and only encodings of the web count, so no page can
name a codec such as `unicode_escape`. One departure from browsers: UTF-8 wins over a declared encoding of one byte a
character, which reads anything, since no text in such an encoding is valid UTF-8 by chance.

Encodings in which other bytes are ASCII (ISO-2022-KR, HZ) are read by no browser: such a page is refused where it
declares it. One that declares nothing is told by the control characters that it decodes to; HZ has none.
"""

import codecs
import re
from typing import Any

_MARKS = (
    # UTF-32 before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The standard wants it within 1,024 bytes; browsers begin again where it comes later in the head.
_HEAD_BYTES = 4096
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';]+)", re.IGNORECASE)
_MORE_BYTES_A_CHARACTER = ("big5", "euc-jp", "euc-kr", "gb18030", "gbk", "iso-2022-jp", "shift_jis", "utf-8")
# Python's own are narrower than the web's; the others are as webencodings has them.
_AS_BROWSERS = {"gbk": "gb18030", "iso-2022-jp": "iso2022_jp_ext"}
# Of UTF-16 without its mark, and of encodings that shift between character sets. No page is written with them.
_OF_ANOTHER_ENCODING = re.compile("[\x00\x0e\x0f\x1b]")


class WrongEncoding(ValueError):
    """What could not be decoded; the text says why."""


def decoded_page(body: bytes, encodings: tuple[str, ...]) -> str:
    """The page's characters. `encodings` are the layout's, of which those other than UTF-8 come before the page's word.

    Raises:
        WrongEncoding: none of them reads it, it declares one that browsers do not read, or control characters say that
            it is in another.
    """
    html = _decoded(body, encodings)
    if found := _OF_ANOTHER_ENCODING.search(html):
        raise WrongEncoding(
            f"wrong encoding: it decodes to the control character U+{ord(found[0]):04X}, which no page has: "
            "name its encoding, or save it as UTF-8"
        )
    return html


def _decoded(body: bytes, encodings: tuple[str, ...]) -> str:
    declared = _declared(body[:_HEAD_BYTES])
    candidates = [encoding for mark, encoding in _MARKS if body.startswith(mark)][:1]
    candidates += [encoding for encoding in encodings if codecs.lookup(encoding).name != "utf-8"]
    if declared is None:
        candidates.append("utf-8")
    elif declared.name in _MORE_BYTES_A_CHARACTER:
        candidates += [_AS_BROWSERS.get(declared.name, declared.codec_info.name), "utf-8"]
    elif declared.name != "replacement":
        candidates += ["utf-8", declared.codec_info.name]
    for encoding in candidates:
        try:
            return body.decode(encoding)
        except (LookupError, ValueError):
            continue
    if declared is not None and declared.name == "replacement":
        raise WrongEncoding("it declares an encoding that browsers do not read: save it as UTF-8")
    raise WrongEncoding(f"wrong encoding, wanted {' or '.join(encodings)}, or what its head says")


def _declared(beginning: bytes) -> Any:
    """What a `meta` element of the head names, as `webencodings.Encoding`; None without one that the web knows."""
    import webencodings
    from lxml.etree import LxmlError
    from lxml.html import HTMLParser, document_fromstring

    # Byte for byte: whatever the page is in, its mark-up is ASCII, or else its mark says what it is.
    text = beginning.replace(b"\0", b" ").decode("latin-1").encode()
    try:
        head = document_fromstring(text, parser=HTMLParser(encoding="utf-8", remove_comments=True)).find("head")
    except (LxmlError, ValueError):
        return None
    for meta in head.iter("meta") if head is not None else ():
        said = meta.get("charset")
        if said is None and meta.get("http-equiv", "").strip().lower() == "content-type":
            said = found[1] if (found := _CHARSET.search(meta.get("content", ""))) else None
        encoding = webencodings.lookup(said) if said else None
        if encoding is not None:
            # The standard's own exception: a head that was read as ASCII is not in UTF-16.
            return webencodings.UTF8 if encoding.name in ("utf-16le", "utf-16be") else encoding
    return None
