"""Telling that memory ran out from other failures, and what helps; standard library only."""

from rlhf_core.config import Settings

# Of errors that torch raises as plain RuntimeError: the CPU's allocator, CUDA, cuBLAS, cuDNN.
SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "Cannot allocate memory")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a device or the machine had no memory left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return True
        if isinstance(cause, RuntimeError | OSError) and any(sign in str(cause) for sign in SIGNS):
            return True
        cause = cause.__cause__
    return False


def memory_cure(config: Settings) -> str:
    """Which settings of a run make it need less memory, with what they are now."""
    cures = []
    if hasattr(config, "micro_batch_size"):
        cures.append(f"a smaller micro_batch_size (now {config.micro_batch_size or 'the whole minibatch'})")
    elif hasattr(config, "batch_size"):
        cures.append(f"a smaller batch_size (now {config.batch_size})")
    if not getattr(config, "activation_checkpointing", True):
        cures.append("activation_checkpointing")
    if hasattr(config, "rollout_batch_size"):
        cures.append(f"a smaller rollout_batch_size (now {config.rollout_batch_size})")
    if not getattr(config, "fsdp", True):
        cures.append("fsdp over several processes")
    return "What helps: " + ", ".join(cures)
