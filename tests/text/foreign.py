"""Text that somebody hopes will be more than text, for tests that look at what a reader then sees."""

PICTURE = "![t](http://evil.test/a.png)"
FOREIGN = (
    PICTURE,
    "<iframe src=http://evil.test>",
    "<a href='http://evil.test'>x</a>",
    "<script>alert(1)</script> & &lt;b&gt; &#60;",
    "[x](javascript:alert(1)) [ref]: http://evil.test [^1]",
    "<http://evil.test> HTTPS://Evil.test/x?y=1 https:\\/\\/evil.test",
    "www.evil.test me@evil.test mailto:me@evil.test xmpp:me@evil.test ftp://evil.test",
    "a|b a\\|b | - | \\",
    "\\\\",
    "`c`|`` ``` ~~s~~ *e* _u_ __b__ $x$ # h",
    "- x",
    "1. x",
    "# x",
    "first\nsecond\r\n\r\n| new | row |",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \x08\x08 \x00",
    "\u202egnp.exe \u2066isolated\u2069 \ufeff\u200b",
    "[bold]rich[/bold] [link=http://evil.test]x[/link]",
    "\"'><svg onload=alert(1)>",
    "half \ud83d of a pair",
    "नमस्ते 👩‍👩‍👧‍👦 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f ภาษาไทย العربية",
)
EVERYTHING = " ".join(FOREIGN)
