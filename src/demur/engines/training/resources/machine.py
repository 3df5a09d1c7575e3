"""Processes, arithmetic and memory of a training on this machine."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
from accelerate import PartialState
from torch.nn.attention import SDPBackend, sdpa_kernel

from demur.base.errors import EngineError
from demur.core.training.settings import TrainSettings


def check_processes(expected: int | None) -> PartialState:
    """State of the processes that take part; raises EngineError if their number is another.

    expected: from the settings; None: the launcher's WORLD_SIZE. Some launchers silently start one
    process, and with a smaller batch than intended another model is trained.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    state = PartialState(cpu=not torch.cuda.is_available())
    wanted = announced if expected is None else expected
    if state.num_processes != wanted:
        raise EngineError(
            f"{state.num_processes} processes take part in training, {wanted} were asked for",
            f"start them with: torchrun --nproc_per_node {wanted} -m demur train ...",
        )
    return state


def release_memory() -> None:
    """Release the memory of a finished training to the system.

    Weights, gradients and optimizer state would otherwise stay beside the model that scores.
    """
    gc.collect()  # the trainer's objects refer to each other: no count of references falls to 0
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc keeps freed pages.
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc has no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def attention() -> AbstractContextManager[None]:
    """Context of training's attention kernel: on a CPU the plain one.

    It is a quarter faster than the fused one on rows of a few dozen tokens.
    """
    if torch.cuda.is_available():
        return nullcontext()
    kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return kernel


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())  # torch has no public name for it


def uses_bfloat16(settings: TrainSettings) -> bool:
    """Whether these settings train in bfloat16 arithmetic."""
    wanted = settings.autocast == "bfloat16" or (settings.autocast == "auto" and has_bfloat16())
    return wanted or settings.dtype == "bfloat16"


def saved_dtype(settings: TrainSettings) -> str:
    """Dtype of the trained model's weights on disk."""
    if settings.saved_dtype == "auto":
        return "bfloat16" if has_bfloat16() else settings.dtype
    return settings.saved_dtype or settings.dtype


def shards_weights() -> bool:
    """Whether the launcher shards weights, so that no process holds all (FSDP, DeepSpeed)."""
    return any(os.environ.get(name, "").lower() == "true" for name in _SHARDING)


# as accelerate's launcher sets them
_SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
