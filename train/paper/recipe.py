"""What strong baselines of the field add to a method, one part at a time, and whole methods.

A row is CDP+DHSM and one part. Methods keep the network's backbone, image size, batches and epochs
of the experiment, so that rows compare methods; everything else is theirs.
"""

import dataclasses

from train.config import Config, with_data, with_padded_crop
from train.methods import finding
from train.paper.rows import Row, Setting, all_of, options
from train.stages import lengths

FULL = 200  # epochs of a method that leaves their number to the data set


def warm_up(config: Config) -> Config:
    """The rate rises in the first tenth of the epochs."""
    warmup = _warmup(config.epochs / 10, [config.epochs])
    return options("optimizer", warmup_epochs=warmup)(config)


def _warmup(epochs: float, of_stages: list[int]) -> int:
    """Rounded, at most a third of the first stage, and shorter than any; stages in epochs."""
    return min(_scaled(epochs), of_stages[0] // 3, min(of_stages) - 1)


def _scaled(value: float) -> int:
    """Rounded, but at least 1, so that nothing a method has is lost; 0 stays 0."""
    return max(1, round(value)) if value else 0


def whole(name: str) -> Setting:
    """A method of train/methods/, with the experiment's backbone, image size, batches and epochs.

    What it gives in pixels or epochs is scaled from its own image size and number of epochs. A
    method that continues another one's training has that one's epochs for its first stage, and
    further ones in proportion; every stage has at least one.
    """

    def setting(base: Config) -> Config:
        module, its = finding.named(name), _in_its_setting(name, base)
        first = _in_its_setting(getattr(module, "FIRST_STAGE", name), base)
        kept = {name: getattr(base.data, name) for name in ("height_px", "width_px", "p", "k")}
        of_it = its.method
        padding = of_it.augmentation.crop_padding_px * base.data.height_px / its.data.height_px
        epochs = max(round(base.epochs * its.epochs / first.epochs), len(of_it.stages))
        warmup = of_it.optimizer.warmup_epochs * epochs / its.epochs
        backbone, weights = base.method.model.backbone, base.method.model.weights
        changed = all_of(
            options("model", backbone=backbone, weights=weights),
            options("augmentation", crop_padding_px=_scaled(padding)),
            options("optimizer", warmup_epochs=_warmup(warmup, lengths(of_it.stages, epochs))),
        )
        return with_data(dataclasses.replace(changed(its), epochs=epochs), **kept)

    return setting


def _in_its_setting(name: str, base: Config) -> Config:
    """The method in the setting that its file gives it, on the data of `base`."""
    module = finding.named(name)
    its: Config = module.setting(dataclasses.replace(base, method=module.METHOD, epochs=FULL))
    return its


PARTS: dict[str, Row] = {
    "crop": Row("CDP+DHSM with padded random crops.", with_padded_crop),
    "erasing": Row(
        "CDP+DHSM with random erasing, half of the pairs.", options("augmentation", erasing=0.5)
    ),
    "erasing-spectrum": Row(
        "CDP+DHSM with random erasing, gray in infrared images.",
        options("augmentation", erasing=0.5, erasing_fill="spectrum"),
    ),
    "gem": Row("CDP+DHSM with generalized-mean pooling.", options("model", pooling="gem")),
    "stride": Row("CDP+DHSM with a last stride of 1.", options("model", last_stride=1)),
    "smoothing": Row("CDP+DHSM with label smoothing of 0.1.", options("loss", label_smoothing=0.1)),
    "soft-margin": Row(
        "CDP+DHSM with a soft-margin triplet loss.", options("loss", triplet_kind="soft-margin")
    ),
    "weighted": Row(
        "CDP+DHSM with AGW's weighted regularized triplet loss.",
        options("loss", triplet_kind="weighted"),
    ),
    "hetero-center": Row(
        "CDP+DHSM with the hetero-center triplet loss beside the other.",
        options("loss", hetero_center_triplet=1.0),
    ),
    "warm-up": Row("CDP+DHSM with a warm-up of a tenth of the epochs.", warm_up),
    "cosine": Row("CDP+DHSM with a cosine schedule.", options("optimizer", schedule="cosine")),
}


def of_method(name: str) -> Row:
    """A method of train/methods/ as a row, with what was published of it."""
    module = finding.named(name)
    about = (module.__doc__ or "").strip().splitlines()[0]
    first = getattr(module, "FIRST_STAGE", None)
    return Row(about, whole(name), getattr(module, "PUBLISHED", {}), first)
