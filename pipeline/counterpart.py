"""Makes the graph's inputs for pairs: flip, spectrum, and the row that makes the counterpart.

Computed in NumPy from the batch's draws and P̂: in the graph, each of these small steps would be an
operator that costs 0.1 ms per batch.
"""

import numpy as np
from numpy import ndarray

from pipeline import spectrum
from pipeline.draws import Host, Originals, pair
from pipeline.options import DataOptions


def feeding(options: DataOptions, channels: int = 1) -> Host:
    """Returns the function that turns three uniforms per original into the graph's inputs.

    `flip` int32 [n]: 1 mirrors the pair; `code` int8 [n]: position in the options' spectra, or
    INFRARED. With counterparts also `row` float32 [n, channels, 3]: w of Eq. 1, repeated for
    `channels` equal channels; and, only if a spectrum needs them, `offset` float32 [n, channels]:
    added to w · pixel, and `hsv` uint8 [n]: 1 if w applies to hue, saturation and value.

    An RGB original's spectrum is drawn from P̂. An infrared one has none: its counterpart is luma
    times a brightness from U(1-δ, 1+δ).
    """
    spectra = [spectrum.SPECTRA[name] for name in options.spectra]
    # Each table's last entry is for infrared originals.
    codes = np.array([*range(len(spectra)), spectrum.INFRARED], np.int8)
    rows = np.array(
        [[s.row] * channels for s in spectra] + [[spectrum.LUMA] * channels], np.float32
    )
    tables: dict[str, ndarray] = {}
    if any(s.offset for s in spectra):
        offsets = [s.offset for s in spectra] + [0.0]
        tables["offset"] = np.repeat(np.array(offsets, np.float32)[:, None], channels, axis=1)
    if any(s.space == "hsv" for s in spectra):
        tables["hsv"] = np.array([s.space == "hsv" for s in spectra] + [False], np.uint8)

    def inputs(u: ndarray, originals: Originals) -> dict[str, ndarray]:
        drawn = pair(u, options.flip, options.jitter)
        if not spectra:
            return {"flip": drawn.flip, "code": np.full(len(u), spectrum.INFRARED, np.int8)}
        chosen = spectrum.choose(drawn.spectrum, originals.probability)
        chosen[originals.infrared] = len(spectra)
        brightness = np.where(originals.infrared, drawn.brightness, np.float32(1))
        return {
            "flip": drawn.flip,
            "code": codes[chosen],
            "row": rows[chosen] * brightness[:, None, None],
            **{name: table[chosen] for name, table in tables.items()},
        }

    return inputs
