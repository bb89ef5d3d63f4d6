"""HCML: its maps, what they are learned from, runs, and runs that begin with TONE's."""

import dataclasses
import json
import re
import shlex
import shutil
import signal
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.metric_learning import Objective, Side, learn, principal_axes
from pipeline.errors import InputError
from tests.front_door import call, refused
from tests.train.test_resume import assert_same_run, lines
from train import checkpoint, config, loop, run_folder
from train.live.display import Display
from train.methods import hcml, tone
from train.paper.contents import EXPERIMENTS
from train.paper.experiments import _run as planned
from train.paper.experiments import first_stage_of
from train.presets import PRESETS, find_preset
from train.stages import Embedded, Offline

SMALL = [
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--device", "cpu"),
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "10", "--data.k", "4"),
    *("--model.fc-width", "32", "--optimizer.lr", "0.01", "--precision", "off", "--epochs", "2"),
]
FEW = ["--metric-iterations", "12", "--metric-dimensions", "20"]
METRIC = "network.metric."


@pytest.fixture(scope="module")
def tones(people, tmp_path_factory) -> Path:
    """A finished run of TONE."""
    run = tmp_path_factory.mktemp("tone") / "run"
    assert call("train", "tone", "--data.root", people, "--run-dir", run, *SMALL) == 0
    return run


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory) -> Path:
    """A finished run of HCML, both stages."""
    run = tmp_path_factory.mktemp("hcml") / "run"
    assert call("train", "hcml", "--data.root", people, "--run-dir", run, *SMALL, *FEW) == 0
    return run


def test_it_is_tone_tested_by_the_distance_that_it_learns():
    ours, theirs = find_preset("hcml").config, find_preset("tone").config
    own = dataclasses.fields(tone.Tone)
    for field in (field.name for field in own):
        assert getattr(ours.method, field) == getattr(theirs.method, field)
    assert dataclasses.replace(ours, method=theirs.method, distance="cosine") == theirs
    method = ours.method
    assert (method.metric_dimensions, method.metric_within_weight) == (600, 0.2)
    for table, (before, after) in {"table1": ("TONE", "BDTR"), "table2": ("TONE", "BDTR")}.items():
        labels = [label for label, _ in EXPERIMENTS[table].rows]
        assert labels[labels.index("HCML") - 1 :][:3:2] == [before, after]


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("metric_dimensions", 0, 1), ("metric_iterations", 0, 1), ("metric_within_weight", -1.0, 0)],
)
def test_an_option_that_cannot_be_is_refused(option, value, least):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(InputError, match=rf"^{flag} {value}: must be at least {least}$"):
        dataclasses.replace(hcml.METHOD, **{option: value})


def test_distances_between_mapped_features_are_those_of_the_metric():
    """Of training images, in the dimensions that PCA leaves, by V, T and M."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    pids, infrared = np.arange(30) % 5, np.arange(30) % 2 == 1
    method = dataclasses.replace(
        hcml.METHOD,
        model=dataclasses.replace(
            hcml.METHOD.model, backbone="test_resnet", weights="none", fc_width=8
        ),
        metric_dimensions=6,
        metric_iterations=20,
    )
    network = method.network(5, (32, 16))
    embedded = Embedded(features, pids, infrared)
    with torch.no_grad():
        said = method.learn_metric(network, Offline(lambda: embedded, lambda: None))
        found = network.metric(torch.from_numpy(features), torch.from_numpy(infrared)).double()
    assert re.fullmatch(r"metric in 6 of 8 dimensions: objective \d.\d+ to \d.\d+ in 20 .*", said)

    mean, axes = principal_axes(features, 6)
    x = (features - mean) @ axes
    sides = [Side.of(x[rows], pids[rows]) for rows in (~infrared, infrared)]
    metrics, _ = learn(Objective.of(*sides, 0.2), 20)
    moved = np.where(infrared[:, None], x @ metrics.t, x @ metrics.v)
    for i, j in ((0, 1), (0, 5), (2, 4), (3, 7), (8, 9)):
        apart = moved[i] - moved[j]
        assert float((found[i] - found[j]).square().sum()) == pytest.approx(
            apart @ metrics.m @ apart, abs=1e-5
        )


def test_its_first_stage_is_tones_to_the_bit_and_the_metric_is_in_its_weights(tones, whole):
    first, both = (load_file(checkpoint.latest(run)) for run in (tones, whole))
    added = {name for name in both if name.startswith(METRIC)}
    assert set(both) - added == set(first)
    for name, tensor in first.items():
        assert torch.equal(both[name], tensor), name
    eye = torch.eye(32)
    for side in ("rgb", "infrared"):
        assert not torch.equal(both[f"{METRIC}{side}.weight"], eye)
        assert torch.linalg.matrix_rank(both[f"{METRIC}{side}.weight"]) <= 20
    records = [line for line in lines(whole) if line["event"] == "epoch"]
    assert [line["loss"] for line in records] == [x["loss"] for x in lines(tones)[:2]]
    assert ["finish_seconds" in line for line in run_folder.read_metrics(whole)[:2]] == [
        False,
        True,
    ]


def test_it_is_learned_from_the_training_images_without_augmentation(whole):
    """Learned again from what `cdp embed` would see of them, the maps are the same."""
    from pipeline.datasets.kinds import read_training
    from train.distributed import ALONE
    from train.evaluation.trained import open_run
    from train.offline import embed_training

    run = open_run(whole, Display(quiet=True), device_name="cpu")
    index = read_training(run.data, run.data.root)
    before = {name: weight.clone() for name, weight in run.network.metric.state_dict().items()}

    def embed() -> Embedded:
        found = embed_training(run.network, index, run.data, run.device, ALONE)
        assert np.linalg.norm(found.features, axis=1) == pytest.approx(1)  # no metric in between
        assert found.infrared.sum() == (index.modality == 1).sum()
        return found

    with torch.no_grad():
        run.cfg.method.learn_metric(run.network, Offline(embed, lambda: None))
    for name, weight in run.network.metric.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("when", ["before", "during"])
def test_interrupted_in_its_second_stage_it_goes_on_as_if_it_had_not_been(
    whole, people, tmp_path, monkeypatch, when
):
    """By a signal after the last step, or between two iterations of metric learning."""
    run, steps = tmp_path / "run", lines(whole)[0]["step"]
    if when == "before":
        from tests.train.test_resume import signal_at

        signal_at(monkeypatch, 2, steps, signal.SIGTERM)
    else:
        learn_ = hcml.learn

        def and_signal(objective, iterations, check):
            def signalled() -> None:
                signal.raise_signal(signal.SIGTERM)
                check()

            return learn_(objective, iterations, signalled)

        monkeypatch.setattr(hcml, "learn", and_signal)
    args = ["--data.root", people, "--run-dir", run, *SMALL, *FEW]
    assert call("train", "hcml", *args) == 3
    saved = load_file(checkpoint.latest(run))
    assert torch.equal(saved[f"{METRIC}rgb.weight"], torch.eye(32))
    monkeypatch.undo()
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_resumed_when_finished_it_stays_the_same_and_is_not_made_longer(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)
    line = refused(capsys, "train", "--resume", run, "--epochs", "3")
    assert "--epochs 3: stage 'TONE' is over, but epoch 3 would be in stage 'TONE'" in line
    assert_same_run(run, whole)


def begun_with(first: Path, cfg, run: Path) -> Path:
    loop.train(cfg, run, Display(quiet=True), first_stage=first)
    return run


def test_a_run_that_begins_with_tones_is_the_one_that_trains_both_stages(tones, whole, tmp_path):
    cfg = run_folder.read_config(whole)
    trained = checkpoint.latest(tones).read_bytes()
    run = begun_with(tones, cfg, tmp_path / "run")
    assert_same_run(run, whole)
    assert run_folder.read_config(run) == cfg
    assert checkpoint.latest(tones).read_bytes() == trained
    seconds = [[x["seconds"] for x in run_folder.read_metrics(r)[:2]] for r in (run, tones)]
    assert seconds[0][0] == seconds[1][0]  # its time includes theirs
    for name in ("result.json", "metrics.jsonl"):
        (run / name).unlink()
    assert call("train", "--resume", run) == 0  # from its own checkpoint
    assert (run / "result.json").read_bytes() == (whole / "result.json").read_bytes()


@pytest.mark.slow
def test_d_hsme_begins_with_hsmes_run(people, tmp_path):
    """Also when that was tested in between, as D-HSME then is too."""
    args = ["--data.root", people, *SMALL[:-2], "--eval-every", "1"]
    args[args.index("--model.fc-width") : args.index("--model.fc-width") + 2] = []
    hsme, whole = tmp_path / "hsme", tmp_path / "whole"
    no_warmup = ("--optimizer.warmup-epochs", "0", "--optimizer.milestones", "0.5")
    assert call("train", "hsme", *args, *no_warmup, "--run-dir", hsme, "--epochs", "2") == 0
    assert call("train", "d-hsme", *args, *no_warmup, "--run-dir", whole, "--epochs", "4") == 0
    assert_same_run(begun_with(hsme, run_folder.read_config(whole), tmp_path / "run"), whole)


def test_a_first_stage_is_taken_over_only_from_a_run_that_did_just_that(tmp_path):
    base = dataclasses.replace(PRESETS["small"].config, epochs=4)

    def found(method: str, base=base, **of_first):
        first = {"tone": "tone", "hcml": "tone", "hsme": "hsme", "d-hsme": "hsme"}[method]
        run = planned(method, method, base, 0, tmp_path, planned(first, first, base, 0, tmp_path))
        folder = run.first_stage.folder
        folder.mkdir(exist_ok=True)
        cfg = dataclasses.replace(run.first_stage.cfg, **of_first)
        (folder / "config.json").write_text(config.to_json(cfg))
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        numbers = dict.fromkeys(run_folder.EPOCH_NUMBERS, 1)
        about = {"event": "epoch", "epoch": cfg.epochs, "confidence": {}, "probability": {}}
        run_folder.append_metrics(folder, numbers | about)
        (folder / "result.json").write_text(json.dumps(loop.NO_TEST))
        return first_stage_of(run)

    assert found("hcml") == tmp_path / "tone-seed-0"
    assert found("d-hsme") == tmp_path / "hsme-seed-0"
    assert found("hcml", seed=1) is None
    assert found("hcml", epochs=5) is None
    # Three epochs have no room for D-HSME's warm-up in every stage.
    assert found("d-hsme", dataclasses.replace(base, epochs=3)) is None
    # Tests in between would be by another distance.
    assert found("hcml", dataclasses.replace(base, eval_every=2)) is None
    assert found("d-hsme", dataclasses.replace(base, eval_every=2)) == tmp_path / "hsme-seed-0"
    assert found("hcml") == tmp_path / "tone-seed-0"
    (tmp_path / "tone-seed-0" / "result.json").unlink()  # not finished
    run = planned("hcml", "hcml", base, 0, tmp_path, planned("tone", "tone", base, 0, tmp_path))
    assert first_stage_of(run) is None


def test_everything_that_reads_a_run_reads_its_metric(whole, people, tmp_path, capsys):
    """`cdp eval` and `cdp score` give its figures, exports its features."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    expected = (run / "result.json").read_bytes()
    (run / "result.json").unlink()
    assert call("eval", run, "--device", "cpu") == 0
    assert (run / "result.json").read_bytes() == expected
    out = tmp_path / "test"
    capsys.readouterr()
    assert call("embed", run, "--out", out, "--device", "cpu") == 0
    command = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("cdp score"))
    words = [glob(word) if "*" in word else [word] for word in shlex.split(command)[1:]]
    assert (
        call(
            *(file for files in words for file in sorted(files)), "--json", tmp_path / "scored.json"
        )
        == 0
    )
    scored = json.loads((tmp_path / "scored.json").read_text())
    assert scored["mAP"] == pytest.approx(json.loads(expected)["mAP"])
    for kind in ("safetensors", "torchscript"):  # each compares features with the run's
        assert call("export", run, "--format", kind) == 0
    from train.export.formats import load

    network, about = load(run / "export" / "model.safetensors")
    assert about["outputs"]["features"]["shape"] == ["n", 32]
    tensors = load_file(checkpoint.latest(run))
    for name, weight in network.metric.state_dict().items():
        assert torch.equal(weight, tensors[METRIC + name])


def test_other_runs_may_start_from_its_weights_but_its_metric_is_learned_anew(
    whole, people, tmp_path
):
    run = tmp_path / "run"
    start = ["--model.weights", whole, "--epochs", "1", "--checkpoint-every", "0"]
    args = [*SMALL, *FEW, *start, "--metric-iterations", "1"]
    saved: list[dict] = []
    save = checkpoint.save

    def and_keep(run_dir, state, progress, trained_on):
        saved.append({name: x.clone() for name, x in state.tensors().items()})
        return save(run_dir, state, progress, trained_on)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", and_keep)
        assert call("train", "hcml", "--data.root", people, "--run-dir", run, *args) == 0
    before, after = (x[f"{METRIC}rgb.weight"] for x in saved)
    assert torch.equal(before, torch.eye(32))
    assert not torch.equal(after, before)
