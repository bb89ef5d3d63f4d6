"""The batches of our loader's epoch, written out for loaders that know nothing of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import spectrum
from pipeline.datasets.records import Index, Modality
from pipeline.draws import draw
from pipeline.options import DataOptions
from pipeline.plan import ALL, columns
from pipeline.sampler import plan_epoch


@dataclass(frozen=True, slots=True)
class Item:
    """One original to load, and what was drawn for it."""

    path: Path
    flip: bool
    weights: np.ndarray  # float32 [3]: what the counterpart's one channel is made of


def plan(index: Index, options: DataOptions, steps: int) -> list[list[Item]]:
    """The batches of our loader's epoch 1 with uniform P̂, seed 0."""
    rows_of = plan_epoch(index, options.p, options.k, options.sampling, 0, 1)[:steps]
    spectra = spectrum.rows(options.spectra)
    cumulative = np.cumsum(spectrum.uniform(options.spectra))[:-1]
    batches = []
    for step, rows in enumerate(rows_of):
        draws = draw(0, 1, step, len(rows), options.flip, options.jitter)
        batch = []
        for i in columns(options, ALL):
            row = rows[i]
            weights = spectra[int((draws.spectrum[i] >= cumulative).sum())]
            if index.modality[row] == Modality.IR:
                weights = np.asarray(spectrum.LUMA) * draws.brightness[i]
            item = Item(index.path(row), bool(draws.flip[i]), weights.astype(np.float32))
            batch.append(item)
        batches.append(batch)
    return batches
