"""The backbone: a timm model without its classifier, and its number of output channels."""

import logging
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from model import attention, pooling, structures
from model.options import ModelOptions
from pipeline.errors import InputError

ImageSize = tuple[int, int]  # height, width


def build(options: ModelOptions, image_size: ImageSize) -> tuple[Any, int]:
    """Returns the timm model and its output channels, without loading weights from a file.

    It turns images into pooled features or, if `pooling.is_own`, into maps. Raises `InputError` for
    a backbone that is unknown, cannot take images of this size or lacks what the options need, and
    for timm weights that cannot be loaded.
    """
    backbone = _backbone(options, image_size)
    width = _width(backbone, options, image_size)
    if options.non_local:
        attention.add_non_local(backbone, options)
    return backbone, width


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of pixels in 0…1 that a backbone's weights expect.

    They depend on the name alone, so that a checkpoint is used as it was trained.
    """
    pretrained_cfg = timm.get_pretrained_cfg(name)
    if pretrained_cfg is None:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    return pretrained_cfg.mean, pretrained_cfg.std


def source(name: str) -> str:
    """Describes where timm gets a backbone's weights from."""
    pretrained_cfg = timm.get_pretrained_cfg(name)
    where = pretrained_cfg.hf_hub_id or pretrained_cfg.url
    return f"all tensors of timm's {pretrained_cfg.architecture}.{pretrained_cfg.tag} from {where}"


def cached_file(name: str) -> Path | None:
    """The file of a backbone's pretrained weights if timm has downloaded it; asks no network."""
    made_for = timm.get_pretrained_cfg(name)
    if not made_for.hf_hub_id:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(made_for.url).name)
        return file if file.is_file() else None
    for file_name in (made_for.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        found = file_name and try_to_load_from_cache(made_for.hf_hub_id, file_name)
        if isinstance(found, str):
            return Path(found)
    return None


def _backbone(options: ModelOptions, image_size: ImageSize) -> Any:
    name = options.backbone
    _check_name(name)
    # timm adapts pretrained weights for three input channels to more or fewer.
    arguments: dict[str, Any] = {"in_chans": structures.CHANNELS[options.structure]}
    if pooling.is_own(options):
        arguments["global_pool"] = ""
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        arguments |= _size_argument(options, arguments, image_size)
    if options.weights == "imagenet":
        backbone = _pretrained(name, arguments)
    else:
        backbone = _created(options, image_size, arguments)
    if options.last_stride == 1:
        _unstride_last_stage(backbone, name)
    return backbone


def _check_name(name: str) -> None:
    model = name.split(".")[0]
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{model}*")[:5])
        raise InputError(
            f"--model.backbone {name}: timm has no such model"
            + (f"; similar: {close}" if close else "; see timm.list_models()")
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_models(f"{model}.*", pretrained=True))
        raise InputError(
            f"--model.backbone {name}: timm has no weights of that name; it has {known or 'none'}"
        ) from error


def _created(options: ModelOptions, image_size: ImageSize, arguments: dict[str, Any]) -> Any:
    try:
        return timm.create_model(options.backbone, num_classes=0, **arguments)
    except Exception as error:
        raise _unfit(options, image_size, _first_line(error)) from error


def _pretrained(name: str, arguments: dict[str, Any]) -> Any:
    """Returns the model with timm's weights for it, which are downloaded once."""
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # its retries add nothing to the error below
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **arguments)
    except Exception as error:
        raise InputError(
            f"--model.weights imagenet: could not load weights for {name}, which timm downloads "
            f"once ({_first_line(error).partition('. ')[0]}); offline, pass --model.weights FILE "
            "with weights you have, or --model.weights none to train from scratch"
        ) from error
    finally:
        hub_log.setLevel(level)


def _size_argument(
    options: ModelOptions, arguments: dict[str, Any], image_size: ImageSize
) -> dict[str, ImageSize]:
    """Returns `img_size` for a model that takes it, and nothing for others.

    A few of the models that timm marks as fixed in size resize their input themselves.
    """
    for_this_size = {"img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        for size in (for_this_size, {}):
            try:
                _width(_created(options, image_size, arguments | size), options, image_size)
                return size
            except InputError:
                continue
    return for_this_size  # building it again raises the reason


@torch.no_grad()
def _width(backbone: Any, options: ModelOptions, image_size: ImageSize) -> int:
    """Returns the channels of the features or maps that a new backbone makes from such images.

    timm's `num_features` belongs to an earlier layer in some families. Raises `InputError` if the
    backbone cannot take images of this size, or does not return a vector or map for each.
    """
    images = torch.zeros(1, structures.CHANNELS[options.structure], *image_size)
    backbone.eval()  # keeps batch norm's statistics
    try:
        with torch.random.fork_rng(devices=[]):
            output = backbone(images)
        reason = ""
        if not pooling.is_own(options) and not _is_row(output):
            reason = "it does not return a vector for each image"
    except Exception as error:
        reason = _first_line(error)
    backbone.train()
    if reason:
        raise _unfit(options, image_size, reason)
    if pooling.is_own(options):
        _check_map(output, backbone, options)
    return int(output.shape[1])


def _check_map(output: Any, backbone: Any, options: ModelOptions) -> None:
    """Raises `InputError` if a backbone returns no map that can be pooled in that many parts."""
    flag = "--model.pooling gem" if options.pooling == "gem" else f"--model.parts {options.parts}"
    channels_first = getattr(backbone, "output_fmt", "NCHW") == "NCHW"
    if not isinstance(output, Tensor) or output.ndim != 4 or not channels_first:
        raise InputError(
            f"{flag}: {options.backbone} has no feature map to pool; use a convolutional backbone "
            "such as resnet50.tv_in1k, or leave --model.pooling and --model.parts at their defaults"
        )
    if output.shape[2] < options.parts:
        raise InputError(
            f"--model.parts {options.parts}: the feature map of {options.backbone} is only "
            f"{output.shape[2]} high; pass --model.parts {output.shape[2]} or less, larger images, "
            "or --model.last-stride 1"
        )


def _unfit(options: ModelOptions, image_size: ImageSize, reason: str) -> InputError:
    height, width = image_size
    pretrained_cfg = timm.get_pretrained_cfg(options.backbone)
    _, own_height, own_width = pretrained_cfg.input_size if pretrained_cfg else (3, 224, 224)
    return InputError(
        f"--model.backbone {options.backbone}: cannot take {height}x{width} images ({reason}); "
        f"use another backbone, or the size it was made for: --data.height-px {own_height} "
        f"--data.width-px {own_width}"
    )


def _is_row(features: Any) -> bool:
    return isinstance(features, Tensor) and features.ndim == 2 and len(features) == 1


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _unstride_last_stage(backbone: Any, name: str) -> None:
    """Sets the strides of a ResNet's last stage to 1 (its weights fit either way)."""
    if not hasattr(backbone, "layer4"):
        raise InputError(f"--model.last-stride 1: {name} is not a ResNet; leave it at 2")
    for parent in list(backbone.layer4.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                child.stride = (1, 1)
            elif isinstance(child, nn.AvgPool2d):  # in the shortcut, only for the stride
                setattr(parent, child_name, nn.Identity())
