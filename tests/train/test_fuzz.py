"""Hostile files through check, train and eval: no crash, no hang, no silently wrong image."""

import io
import json
import multiprocessing
import random
import resource
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.datasets.kinds import read_protocol, read_training
from pipeline.errors import BadImageError
from pipeline.loader import EvaluationLoader
from pipeline.options import DataOptions
from tests.front_door import SMALL, call

ROUNDS = 25
SHARE = 0.45  # of the training images that may be damaged
TIMEOUT_S = 120
OPTIONS = DataOptions(height_px=64, width_px=32, threads=2, cache="none", eval_batch=1)


def saved(image: Image.Image, format: str, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def sized(content: bytes, height: int, width: int) -> bytes:
    """Returns the JPEG with another size in its header."""
    at = next(i for i in range(len(content)) if content[i : i + 2] in (b"\xff\xc0", b"\xff\xc2"))
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return content[: at + 5] + size + content[at + 9 :]


def flipped(content: bytes, rng: random.Random, first: int, last: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 3, 20])):
        damaged[rng.randrange(first, min(last, len(damaged)))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


EXIF = Image.Exif()
EXIF[274] = 6  # rotate by 90 degrees
MUTATIONS = {
    "cut anywhere": lambda c, rng: c[: rng.randrange(len(c))],
    "cut in the header": lambda c, rng: c[: rng.randrange(700)],
    "bits of the header flipped": lambda c, rng: flipped(c, rng, 0, 620),
    "bits of the picture flipped": lambda c, rng: flipped(c, rng, 620, len(c)),
    "no bytes": lambda c, rng: b"",
    "noise": lambda c, rng: rng.randbytes(5000),
    "text": lambda c, rng: b"this is no picture\n" * 50,
    "bytes before": lambda c, rng: rng.randbytes(10) + c,
    "bytes behind": lambda c, rng: c + rng.randbytes(1000),
    "claims 20000 x 20000": lambda c, rng: sized(c, 20000, 20000),
    "claims no height": lambda c, rng: sized(c, 0, 128),
    "claims twice the height": lambda c, rng: sized(c, 2 * picture(c).height, picture(c).width),
    "PNG named .jpg": lambda c, rng: saved(picture(c), "PNG"),
    "16-bit PNG": lambda c, rng: saved(Image.fromarray(np.full((90, 40), 40000, np.uint16)), "PNG"),
    "BMP": lambda c, rng: saved(picture(c), "BMP"),
    "BMP, bits of the header flipped": lambda c, rng: flipped(saved(picture(c), "BMP"), rng, 0, 54),
    "GIF": lambda c, rng: saved(picture(c), "GIF"),
    "CMYK": lambda c, rng: saved(picture(c).convert("CMYK"), "JPEG"),
    "gray": lambda c, rng: saved(picture(c).convert("L"), "JPEG"),
    "progressive": lambda c, rng: saved(picture(c), "JPEG", progressive=True),
    "EXIF rotation": lambda c, rng: saved(picture(c), "JPEG", exif=EXIF),
    "one pixel": lambda c, rng: saved(picture(c).resize((1, 1)), "JPEG"),
    "a folder": None,
    "a dangling link": None,
}


def mutate(path: Path, name: str, rng: random.Random) -> None:
    content = path.read_bytes()
    path.unlink()
    if name == "a folder":
        path.mkdir()
    elif name == "a dangling link":
        path.symlink_to("/nowhere/at/all.jpg")
    else:
        path.write_bytes(MUTATIONS[name](content, rng))


def hostile_test_images(people: Path, root: Path, rng: random.Random) -> Path:
    """Makes the data set with one damaged test image."""
    shutil.copytree(people, root)
    index = read_protocol(OPTIONS, root).index
    mutate(index.path(rng.randrange(len(index))), rng.choice([*MUTATIONS]), rng)
    return root


def child(*args: str) -> None:
    raise SystemExit(call(*args))


def measured(peaks: str, target: Callable[..., None], *args: str) -> None:
    """Calls `target`, then adds this process's peak memory in KiB to the file `peaks`."""
    try:
        target(*args)
    finally:
        with Path(peaks).open("a") as file:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=file)


def look(root: str, outcomes_file: str) -> None:
    """Runs each file through the evaluation graph: rejected, or equal to PIL's picture."""
    index = read_training(OPTIONS, Path(root))
    outcomes = {}
    loader = EvaluationLoader(index, OPTIONS, torch.device("cpu"))
    for row in range(len(index)):
        loader.source.begin(np.array([row]))
        try:
            outcomes[str(index.path(row))] = compare(loader, index, row)
        except BadImageError:
            outcomes[str(index.path(row))] = "refused"
    Path(outcomes_file).write_text(json.dumps(outcomes))


def compare(loader: EvaluationLoader, index, row: int) -> str:
    from pipeline.batches import run

    for _, (pixels,) in run(loader._pipeline, loader.source, torch.device("cpu")):
        ours = pixels[0].numpy().astype(float)
    try:
        with Image.open(index.path(row)) as file:
            theirs = file.convert("RGB").resize((32, 64), Image.Resampling.BILINEAR)
    except Exception:
        return "read, though PIL cannot"
    # Rounding differs by a level or two, another picture, or part of one, by tens.
    return "read" if np.abs(ours - np.asarray(theirs)).mean() < 3 else "another picture than PIL's"


@pytest.fixture(scope="module")
def people(more_people) -> Path:
    """Enough images for all mutations."""
    return more_people


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(ROUNDS, marks=pytest.mark.long)],
)
def test_hostile_files_are_rejected_or_read_correctly(people, tmp_path, capsys, rounds):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.train.test_fuzz", "train.loop", "train.trials"])
    table = {name: Counter() for name in MUTATIONS}
    statuses: Counter = Counter()
    peaks = tmp_path / "peaks"

    def run(target, *args: object) -> int:
        process = processes.Process(target=measured, args=(str(peaks), target, *map(str, args)))
        process.start()
        process.join(TIMEOUT_S)
        hung = process.is_alive()
        process.kill()
        process.join()
        assert not hung, args
        return process.exitcode

    for n in range(rounds):
        rng = random.Random(n)
        root = Path(shutil.copytree(people, tmp_path / f"people-{n}"))
        index = read_training(OPTIONS, root)
        # Spare one image per identity and modality, otherwise the run rightly stops.
        _, spared = np.unique(2 * index.pids + index.modality, return_index=True)
        others = np.setdiff1d(np.arange(len(index)), spared).tolist()
        rows = rng.sample(others, round(SHARE * len(others)))
        names = [*MUTATIONS] * (1 + len(rows) // len(MUTATIONS))
        made = {index.path(row): name for row, name in zip(rows, names, strict=False)}
        for path, name in made.items():
            mutate(path, name, rng)

        status = run(child, "data", "check", root)
        assert status == 2, "faults were planted"
        run_dir = tmp_path / f"run-{n}"
        options = ("--data.root", root, "--run-dir", run_dir, *SMALL, "--data.max-bad", "1")
        status = run(child, "train", "demo", *options, "--data.on-bad-image", "skip")
        statuses[f"train {status}"] += 1
        assert status == 0, n
        hostile = hostile_test_images(people, tmp_path / f"test-{n}", rng)
        status = run(child, "eval", run_dir, "--data-root", hostile, "--device", "cpu")
        statuses[f"eval of hostile images {status}"] += 1
        assert status in (0, 2), n  # read or rejected
        assert run(look, root, tmp_path / "outcomes.json") == 0
        outcomes = json.loads((tmp_path / "outcomes.json").read_text())
        for path, name in made.items():
            table[name][outcomes[str(path)]] += 1
        skipped = (run_dir / "bad_images.tsv").read_text().splitlines()
        for line in skipped:  # training skipped only unreadable images
            assert outcomes[line.split("\t")[0]] == "refused", line
        shutil.rmtree(root)
        shutil.rmtree(hostile)

    peak_mib = max(map(int, peaks.read_text().split())) / 1024
    with capsys.disabled():
        print(f"\n{sum(sum(c.values()) for c in table.values())} files, {dict(statuses)}, ", end="")
        print(f"0 crashes, 0 hangs, peak {peak_mib:.0f} MiB")
        for name, counts in table.items():
            print(f"| {name} | {', '.join(f'{v} {k}' for k, v in sorted(counts.items()))} |")
    assert peak_mib < 3000
    assert all(table.values())
    for name, counts in table.items():
        assert not counts["another picture than PIL's"], name
