"""Names of the tags with which a stage states what it needs; assets write them, coordinators read them."""

STAGE = "headrace/stage"
GPUS = "headrace/gpus"
GPU_MEMORY_MIB = "headrace/gpu_memory_mib"


def stage_tags(stage: str, *, gpus: int | float = 0, gpu_memory_mib: int = 0) -> dict[str, str]:
    """The op tags of one asset.

    `gpus` is a count of whole GPUs, or a fraction below 1 of one; `gpu_memory_mib` is per GPU. Both are wishes for a
    machine that has GPUs: without a coordinator that reads them, and on a machine without GPUs, they change nothing.
    """
    tags = {STAGE: stage}
    if gpus:
        tags[GPUS] = f"{gpus:g}"
    if gpu_memory_mib:
        tags[GPU_MEMORY_MIB] = str(gpu_memory_mib)
    return tags
