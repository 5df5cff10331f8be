"""Tell a lack of memory from other failures."""

import torch

# PyTorch has a type of its own for GPUs alone. Its allocator on CPUs and the libraries below it
# raise RuntimeErrors that differ in their words only.
WORDS = (
    "can't allocate memory",  # PyTorch on CPUs
    "not enough memory",  # the same, elsewhere than on Linux
    "out of memory",  # the CUDA driver
    "bad_alloc",  # C++
    "could not create a memory object",  # oneDNN
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
# What oneDNN says when it cannot allocate its code. That a kind of computation is not known to it
# begins with the same words.
PRIMITIVE = "could not create a primitive"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory, of the GPU or of the machine, is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return said == PRIMITIVE or any(words in said for words in WORDS)
