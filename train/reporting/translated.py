"""The report's section of translated images, for networks that translate them."""

import io

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy import ndarray
from PIL import Image

from model.generated_spectrum import TranslatingNetwork
from pipeline.datasets.records import Index, Modality
from pipeline.loader import EvaluationLoader
from train.evaluation.trained import TestedRun
from train.metrics import Distance
from train.reporting.page import Markup, Section, element, joined, picture

NUM_PEOPLE = 12
QUALITY = 90
LEAD = (
    "Test identities, drawn with seed {seed}, at the size that the network sees: an RGB image, its "
    "translation, an infrared image of the same person at another moment, and the translation of "
    "that."
)


def translates(run: TestedRun) -> bool:
    """Whether the run's network translates images."""
    return isinstance(run.trained.network, TranslatingNetwork)


def translated_section(run: TestedRun, distance: Distance, seed: int) -> Section:
    """Returns real images with their translations in both directions."""
    network = run.trained.network
    assert isinstance(network, TranslatingNetwork)
    index = run.protocol.index
    chosen = some_pairs(index, seed)
    real, made = {}, {}
    for modality, rows in zip((Modality.RGB, Modality.IR), chosen.T, strict=True):
        loader = EvaluationLoader(index.take(rows), run.trained.data, run.trained.device)
        images = torch.cat(list(loader)) if len(rows) else torch.empty(0)
        real[modality] = images.cpu().numpy()
        if len(rows):
            made[modality] = network.translated(images, modality == Modality.IR).cpu().numpy()
    figures = [
        _figure(
            int(index.pids[chosen[i, 0]]),
            ("RGB", real[Modality.RGB][i]),
            ("→ infrared", made[Modality.RGB][i]),
            ("infrared", real[Modality.IR][i]),
            ("→ RGB", made[Modality.IR][i]),
        )
        for i in range(len(chosen))
    ]
    lead = LEAD.format(seed=seed) if figures else "No test identity has images of both modalities."
    return Section("translated", "Translated images", lead, more=_sheet(figures))


def some_pairs(index: Index, seed: int) -> Int64[ndarray, "people 2"]:
    """Rows of an RGB and an infrared image of each of some people, drawn with the seed."""
    rng = np.random.default_rng(seed)
    of_each = [
        {pid: np.flatnonzero(mask & (index.pids == pid)) for pid in np.unique(index.pids[mask])}
        for mask in (index.modality == Modality.RGB, index.modality == Modality.IR)
    ]
    both = np.array(sorted(of_each[0].keys() & of_each[1].keys()), np.int64)
    people = np.sort(rng.permutation(both)[:NUM_PEOPLE])
    pairs = [[rng.choice(rows[pid]) for rows in of_each] for pid in people]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _sheet(figures: list[Markup]) -> Markup:
    return element("div", *figures, class_="translated")


def _figure(pid: int, *images: tuple[str, UInt8[ndarray, "3 h w"]]) -> Markup:
    cells = [
        element("span", _picture(pixels, f"pid {pid}: {what}"), element("small", what))
        for what, pixels in images
    ]
    return element("figure", joined(cells), element("figcaption", f"pid {pid}"))


def _picture(pixels: UInt8[ndarray, "3 h w"], alt: str) -> Markup:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return picture(file.getvalue(), alt, *image.size)
