"""One short name for each GPU model, whether a driver, a person's tag or a node file spells it."""

import re

# Vendors' additions to the model's name: brand, memory, form factor. `gpu_memory_mib` tells variants apart.
_DECORATION = re.compile(r"NVIDIA|TESLA|QUADRO|GEFORCE|GRAPHICS|GPU|GENERATION|PCIE?|NVL\d*|SXM\d*|HBM\w*|\d+ ?GB|MIG")
_MIG_PROFILE = re.compile(r"\d+G\.\d+GB.*")
# A workstation card has two names, "RTX A6000" and "A6000".
_RTX_LETTER = re.compile(r"RTX(?=A\d)")
_SHORT = re.compile(r"[A-Z0-9][A-Z0-9.+_-]{0,63}")


def short_model(name: str) -> str | None:
    """The model's name in `headrace/gpu_models` and inventories; None: this cannot be such a name.

    "NVIDIA H100 80GB HBM3" and "h100" are H100, "NVIDIA A100-SXM4-40GB" is A100, "NVIDIA GeForce RTX 4090" is RTX4090.
    A MIG slice is its own model, A100-1G.5GB, since a run that asks for an A100 does not want a seventh of one.
    """
    if not name.isascii() or len(name) > 200:
        return None
    words = [word for word in re.split(r"[\s-]+", name.upper()) if word and not _DECORATION.fullmatch(word)]
    profiles = [word for word in words if _MIG_PROFILE.fullmatch(word)]
    model = _RTX_LETTER.sub("", "".join(word for word in words if word not in profiles))
    short = "-".join([model, *profiles]) if model else "".join(profiles)
    return short if _SHORT.fullmatch(short) else None
