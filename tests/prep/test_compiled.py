import hashlib
from pathlib import Path

import headrace.prep

PREP = Path(headrace.prep.__file__).parent


def test_what_is_compiled_with_other_functions_changes_when_they_do() -> None:
    """numba would go on with what it compiled before: it looks at the file of a function alone."""
    digest = hashlib.sha256((PREP / "compiled.py").read_bytes()).hexdigest()[:16]

    sources = {file.name: file.read_text() for file in PREP.glob("*.py")}
    users = {name: source for name, source in sources.items() if "from headrace.prep.compiled import" in source}
    assert users
    for name, source in users.items():
        assert f'\nBUILT_WITH = "{digest}"\n' in source, f"{name}: write BUILT_WITH = {digest!r}."
