"""Foreign text in CSV files for spreadsheets, which evaluate `=HYPERLINK(…)` and the like as formulas.

Quotation marks do not prevent that; an apostrophe in front does. Numbers stay unchanged, with their signs.

Source: OWASP, CSV Injection.
"""

from collections.abc import Sequence

import polars as pl

# Wide forms too: spreadsheets in Japanese and Chinese treat them like the narrow ones.
_FORMULA = r"^[\s\p{Cc}\p{Cf}]*[=+\-@＝＋－＠]|^[\t\r]"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?%?$"


def without_formulas(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Puts an apostrophe before names and texts that a spreadsheet would evaluate."""
    texts = [pl.col(name).cast(pl.String) for name in columns]
    guarded = frame.with_columns(_guarded(text) for text in texts)
    names = pl.DataFrame({"name": frame.columns}).select(_guarded(pl.col("name"))).get_column("name")
    renamed: dict[str, str] = {}
    for old, new in zip(frame.columns, names, strict=True):
        # Another column may have the name already that this one gets.
        while new != old and (new in frame.columns or new in renamed.values()):
            new = f"'{new}"
        renamed[old] = new
    return guarded.rename(renamed)


def _guarded(text: pl.Expr) -> pl.Expr:
    is_formula = text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)
    return pl.when(is_formula).then(pl.lit("'") + text).otherwise(text).name.keep()
