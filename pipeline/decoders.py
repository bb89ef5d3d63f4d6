"""Tells which of nvImageCodec's decoders, which DALI uses, can decode a file on this machine."""

from contextlib import suppress

from nvidia import nvimgcodec

from pipeline.guard import Encoded


def decoders(image: Encoded, device_id: int | None) -> dict[str, bool]:
    """Returns for each kind of decoder whether it can decode the image on its own.

    CPU_ONLY, GPU_ONLY (CUDA kernels), HYBRID_CPU_GPU (Huffman codes on the CPU), HW_GPU_ONLY (the
    JPEG engine). `device_id` is None without a GPU.
    """
    stream = nvimgcodec.CodeStream(image)
    device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if device_id is None else device_id
    works = dict.fromkeys(nvimgcodec.BackendKind.__members__, False)
    for name, kind in nvimgcodec.BackendKind.__members__.items():
        if device_id is None and name != "CPU_ONLY":
            continue
        with suppress(RuntimeError):  # this machine has no such decoder
            decoder = nvimgcodec.Decoder(device_id=device, backends=[nvimgcodec.Backend(kind)])
            works[name] = decoder.decode(stream) is not None
    return works


def dali_cuda() -> str:
    """Returns the CUDA version that the installed DALI was built with, such as 12.9."""
    from nvidia import dali

    major, rest = divmod(dali.__cuda_version__, 1000)
    return f"{major}.{rest // 100}"
