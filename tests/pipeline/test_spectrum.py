"""Sets of spectra other than the paper's four: YUV and HSV against PIL, none at all, bad names."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions, num_images

CPU = torch.device("cpu")


def first_batch(people, spectra, probability=None, **changes):
    fixed = {"p": 4, "k": 4, "height_px": 64, "width_px": 32, "cache": "none"}
    options = DataOptions(root=people, spectra=spectra, **(fixed | changes))
    loader = TrainingLoader(read_training(options, people), options, CPU, seed=3)
    p_hat = spectrum.uniform(spectra) if probability is None else np.array(probability, float)
    batches = loader.epoch(1, p_hat)
    batch = next(batches)
    batches.close()
    return batch


def test_u_and_v_are_the_chroma_of_jpeg(people):
    for code, channel in ((0, 1), (1, 2)):  # PIL's YCbCr: Y, Cb, Cr
        batch = first_batch(people, ("U", "V"), np.eye(2)[code])
        rgb = batch.modality == 0
        assert (batch.spectrum[rgb] == code).all()
        for original, counterpart in batch.images[rgb].numpy():
            expected = np.asarray(Image.fromarray(original).convert("YCbCr"))[..., channel]
            assert (counterpart == counterpart[..., :1]).all()
            assert np.abs(counterpart[..., 0].astype(int) - expected).max() <= 1


def test_hue_saturation_and_value_match_colorsys(people):
    names = ("hue", "saturation", "value")
    for code, name in enumerate(names):
        batch = first_batch(people, names, np.eye(3)[code])
        pairs = batch.images[batch.modality == 0].numpy()
        original, counterpart = pairs[::3, 0, ::7, ::5], pairs[::3, 1, ::7, ::5, 0].astype(int)
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in original.reshape(-1, 3) / 255.0]
        expected = np.array(hsv)[:, code] * (256 if name == "hue" else 255)
        difference = np.abs(counterpart.ravel() - expected)
        if name == "hue":  # 256 wraps to 0
            difference = np.minimum(difference, 256 - difference)
        assert difference.max() <= (0.51 if name != "hue" else 1.01), name
        assert counterpart.std() > 5


def test_infrared_counterparts_do_not_depend_on_the_spectra(people):
    sets = [("R", "G", "B", "X"), ("U", "V"), ("R", "hue", "saturation", "value"), ("X",)]
    found = []
    for spectra in sets:
        batch = first_batch(people, spectra)
        infrared = batch.modality == 1
        assert (batch.spectrum[infrared] == spectrum.INFRARED).all()
        assert (batch.spectrum[~infrared] >= 0).all()
        assert (batch.spectrum < len(spectra)).all()
        found.append(batch.images[infrared])
    for images in found[1:]:
        assert torch.equal(images, found[0])


def test_without_spectra_there_are_no_counterparts(people):
    pairs, alone = first_batch(people, spectrum.DEFAULT), first_batch(people, ())
    assert alone.images.shape == (16, 1, 64, 32, 3)
    assert torch.equal(alone.images[:, 0], pairs.images[:, 0])
    assert torch.equal(alone.flat(), pairs.flat()[::2])
    assert alone.flat().data_ptr() == alone.images.data_ptr()
    assert (alone.num_views, pairs.num_views) == (1, 2)
    assert (alone.spectrum == spectrum.INFRARED).all()
    assert torch.equal(alone.pids, pairs.pids)
    assert torch.equal(alone.modality, pairs.modality)
    assert num_images(DataOptions(p=4, k=4, spectra=())) == 16
    assert num_images(DataOptions(p=4, k=4)) == 32


def test_a_cache_changes_nothing_without_spectra(people):
    kept, streamed = (first_batch(people, (), cache=cache) for cache in ("host", "none"))
    assert torch.equal(kept.images, streamed.images)


@pytest.mark.parametrize(
    ("spectra", "message"),
    [
        (("R", "gray"), r"--data.spectra gray: unknown; choose from R, G, B, X, U"),
        (("R", "R"), r"--data.spectra R R: names a spectrum twice"),
    ],
)
def test_bad_names_are_refused(spectra, message):
    with pytest.raises(InputError, match=message):
        DataOptions(spectra=spectra)


def test_the_initial_p_hat_is_uniform():
    assert spectrum.uniform(("R", "X")).tolist() == [0.5, 0.5]
    assert spectrum.uniform(()).tolist() == []
    assert spectrum.rows(()).shape == (0, 3)
