"""`cdp bench` from the command line, on small data and a small network."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from bench import suite
from bench.generation import RATIO
from bench.measure import LEAD, TAIL
from bench.targets import TARGETS
from model.options import ModelOptions
from pipeline.options import DataOptions
from tests.front_door import call, refused
from train.config import Config
from train.methods.base import Method
from train.presets import PRESETS, Preset

TINY = Config(
    data=DataOptions(height_px=32, width_px=16, p=2, k=2, threads=2),
    method=Method(model=ModelOptions(backbone="test_resnet", weights="none")),
)
ONLY_ON_A_GPU = {"host_syncs_per_step", "step_over_timm_benchmark"}


@pytest.fixture
def tiny(monkeypatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", Preset("", TINY))
    monkeypatch.setattr(suite, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(suite, "QUICK_STEPS", 2)
    monkeypatch.setattr("bench.session.QUICK_IMAGES", 24)
    monkeypatch.setattr("bench.session.QUICK_SECONDS", 0.1)


@pytest.mark.slow
def test_the_whole_suite_prints_tables_and_writes_json_and_a_picture(
    people, tiny, tmp_path, capsys
):
    made, drawn = tmp_path / "new" / "b.json", tmp_path / "b.png"
    args = ("--preset", "tiny", "--data-root", people, "--device", "cpu", "--quick")
    traced = tmp_path / "trace"
    files = ("--json", made, "--plot", drawn, "--trace", traced)
    assert call("bench", "all", *args, *files) == 0

    result = json.loads(made.read_text())
    assert set(result["ratios"]) == set(TARGETS)
    for name, ratio in result["ratios"].items():
        if name != RATIO:  # may be lost in noise
            assert (ratio["samples"] is None) == (name in ONLY_ON_A_GPU), name
    assert result["ratios"]["decodes_per_image"]["samples"] == [0.5]
    titles = [comparison["bench"] for comparison in result["comparisons"]]
    for title in (
        "stages, pipeline, truncated",
        "stages, augmentation",
        "stages, second spectrum, originals/s",
        "loader, page cache",
        "peers",
        "augmented",
        "step",
        "step, batch",
        "end to end",
    ):
        assert title in titles
    assert set(result["waterfall"]["step"]) == {"forward", "backward", "optimizer"}
    assert list(result["waterfall"]["pipeline"])[-1] == "hand-over"
    peers = next(c for c in result["comparisons"] if c["bench"] == "peers")
    assert peers["left_out"]["torchvision on the GPU, uint8"] == "needs a GPU"
    for comparison in result["comparisons"]:
        for side in comparison["sides"].values():
            assert all(rate > 0 for rate in side["rate_samples"])

    lines = capsys.readouterr().out.splitlines()
    printed = [json.loads(line) for line in lines if line.startswith("{")]
    assert printed == result["comparisons"]
    text = " ".join(" ".join(lines).split())
    assert "step limits" in text or "pipeline limits" in text
    assert "not measured, there is no GPU" in text
    idle = json.loads((traced / "idle.json").read_text())
    assert (idle["device"], idle["steps"]) == ("CPU, torch's operators", 2)
    assert 0 < idle["busy"] <= 1
    assert idle["gaps"]
    assert (traced / "trace.json.gz").stat().st_size > 1000
    with Image.open(drawn) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_two_parts_run_and_no_sweep_skips_other_batch_sizes(people, tiny, tmp_path):
    made = tmp_path / "b.json"
    args = ("--preset", "tiny", "--data-root", people, "--device", "cpu", "--quick")
    assert call("bench", "step", "timm", *args, "--no-sweep", "--rounds", "2", "--json", made) == 0
    (comparison,) = json.loads(made.read_text())["comparisons"]
    assert (comparison["bench"], comparison["rounds"]) == ("step", 2)


def test_an_epoch_too_short_to_measure_is_rejected(people, tiny, tmp_path, capsys, monkeypatch):
    long = dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, p=8, k=8))
    monkeypatch.setitem(PRESETS, "tiny", Preset("", long))
    args = ("--preset", "tiny", "--data-root", people, "--device", "cpu")
    line = refused(capsys, "bench", "loader", *args)
    assert f"an epoch has 2 batches, the benchmark needs {LEAD + suite.STEPS + TAIL}" in line
    assert line.endswith("or pass --quick")
    quick = refused(capsys, "bench", "loader", *args, "--quick")
    assert "an epoch has 2 batches" in quick
    assert "--quick" not in quick


def test_no_rounds_are_rejected(capsys):
    assert "--rounds 0: must be at least 1" in refused(capsys, "bench", "step", "--rounds", "0")


def test_a_picture_in_another_format_is_rejected_before_anything_runs(people, tmp_path, capsys):
    line = refused(capsys, "bench", "step", "--plot", tmp_path / "b.pdf")
    assert "b.pdf: must end in .png" in line
    assert list(Path(tmp_path).iterdir()) == []
