"""Every data set and protocol from the command line."""

import json

import numpy as np
import pytest

from tests import trees
from tests.front_door import SMALL, call


@pytest.mark.parametrize("protocol", ["sysu", "regdb", "llcm", "plain"])
def test_score_prints_and_writes_official_figures(protocol, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pids = np.arange(40)
    points = rng.standard_normal((40, 16)).astype(np.float32)
    cameras = {"q": np.full(40, 6), "g": np.tile([1, 2, 4, 5], 10)}
    for name, camids in cameras.items():
        np.savez(tmp_path / f"{name}.npz", features=points, pids=pids, camids=camids)
    out = tmp_path / "score.json"
    files = ("--query", tmp_path / "q.npz", "--gallery", tmp_path / "g.npz")
    assert call("score", *files, "--protocol", protocol, "--json", out) == 0
    result = json.loads(out.read_text())
    assert {name: result[name] for name in ("rank1", "rank20", "mAP", "mINP")} == {
        "rank1": 100.0,
        "rank20": 100.0,
        "mAP": 100.0,
        "mINP": 100.0,
    }
    assert (result["num_query"], result["num_gallery"], result["protocol"]) == (40, 40, protocol)
    assert "100.0" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["llcm", "table"])
def test_any_data_set_trains_and_is_tested_again(kind, tmp_path):
    """RegDB: tests/train/test_trials.py."""
    root = trees.llcm(tmp_path / "data") if kind == "llcm" else trees.table(tmp_path / "data")
    folder = tmp_path / "run"
    small = (*SMALL, "--data.p", "4", "--model.weights", "none")
    assert call("train", kind, "--data.root", root, "--run-dir", folder, *small) == 0
    before = (folder / "result.json").read_bytes()
    assert call("eval", folder, "--device", "cpu") == 0
    assert (folder / "result.json").read_bytes() == before
    assert len(json.loads(before)["modes"]) == {"llcm": 3, "table": 1}[kind]
