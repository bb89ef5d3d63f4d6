"""Which of nvImageCodec's decoders, which are DALI's, this machine has for a file."""

from contextlib import suppress

from nvidia import nvimgcodec

from pipeline.guard import Encoded


def decoders(image: Encoded, device_id: int | None) -> dict[str, bool]:
    """For each kind of decoder whether it alone can decode the image here.

    CPU_ONLY, GPU_ONLY (CUDA kernels), HYBRID_CPU_GPU (Huffman codes on the CPU), HW_GPU_ONLY (the
    JPEG engine). `device_id` None: there is no GPU.
    """
    stream = nvimgcodec.CodeStream(image)
    device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if device_id is None else device_id
    can = dict.fromkeys(nvimgcodec.BackendKind.__members__, False)
    for name, kind in nvimgcodec.BackendKind.__members__.items():
        if device_id is None and name != "CPU_ONLY":
            continue
        with suppress(RuntimeError):  # there is no such decoder here
            decoder = nvimgcodec.Decoder(device_id=device, backends=[nvimgcodec.Backend(kind)])
            can[name] = decoder.decode(stream) is not None
    return can


def dali_cuda() -> str:
    """The CUDA version that the installed DALI was built with, such as 12.9."""
    from nvidia import dali

    major, rest = divmod(dali.__cuda_version__, 1000)
    return f"{major}.{rest // 100}"
