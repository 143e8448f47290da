"""`make reference`: writes `docs/reference` anew, and removes pages that nothing writes any more."""

from pipelines.reference.pages import DIRECTORY, pages


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    made = pages()
    for name, text in made.items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")
    for path in DIRECTORY.glob("*.md"):
        if path.name not in made:
            path.unlink()


if __name__ == "__main__":
    main()
