"""`score`: figures of features made elsewhere, and files that cannot serve."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.rules import RULES
from pipeline.errors import InputError
from tests.front_door import call, refused
from tests.train.test_metrics import brute_force
from train.evaluation.score import Features, read_features, score


def sides(seed: int = 0, noise: float = 2.0, protocol: str = "sysu") -> tuple[dict, dict]:
    """Arrays of 80 queries and 120 gallery images of some 15 people."""
    cameras = {"sysu": ((3, 6), (1, 2, 4, 5)), "llcm": ((4, 6), (1, 3, 4, 6))}
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((17, 8))
    arrays = []
    of_protocol = cameras.get(protocol, ((3, 6), (1, 2, 3, 4)))
    for size, people, taken_by in ((80, 15, of_protocol[0]), (120, 17, of_protocol[1])):
        pids = rng.integers(people, size=size)
        features = points[pids] + noise * rng.standard_normal((size, 8))
        camids = rng.choice(taken_by, size)
        arrays.append({"features": features.astype(np.float32), "pids": pids, "camids": camids})
    return arrays[0], arrays[1]


def excluded(protocol: str, q: dict, g: dict) -> np.ndarray:
    """The protocols' exclusions, spelled out."""
    same_pid = q["pids"][:, None] == g["pids"]
    same_camera = q["camids"][:, None] == g["camids"]
    if protocol == "sysu":
        return same_camera | ((q["camids"][:, None] == 3) & (g["camids"] == 2))
    return same_pid & same_camera if protocol in ("llcm", "market") else np.zeros((80, 120), bool)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("protocol", RULES)
def test_equals_the_protocol_spelled_out(protocol, distance):
    q, g = sides(protocol=protocol)
    found = score(Features(**q), Features(**g), protocol, distance)
    x, y = q["features"].astype(np.float64), g["features"].astype(np.float64)
    if distance == "cosine":
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    d = ((x[:, None] - y) ** 2).sum(axis=2)
    ignore = excluded(protocol, q, g)
    expected = brute_force(
        d, q["pids"].tolist(), g["pids"].tolist(), ignore, protocol in ("sysu", "llcm")
    )
    assert expected is not None
    cmc, mean_ap, mean_inp, chance, num_query = expected
    for k in (1, 5, 10, 20):
        assert found[f"rank{k}"] == pytest.approx(100 * cmc[k - 1])
    assert found["mAP"] == pytest.approx(100 * mean_ap)
    assert found["mINP"] == pytest.approx(100 * mean_inp)
    assert found["chance_rank1"] == pytest.approx(100 * chance)
    assert (found["num_query"], found["num_gallery"]) == (num_query, 120)


@pytest.mark.parametrize("protocol", RULES)
def test_separable_features_score_100(protocol):
    q, g = sides(noise=0.001, protocol=protocol)
    found = score(Features(**q), Features(**g), protocol)
    assert [found[name] for name in ("rank1", "rank20", "mAP", "mINP")] == pytest.approx([100] * 4)


def test_several_galleries_are_trials():
    q, g = sides()
    _, other = sides(seed=1)
    apart = [score(Features(**q), Features(**x), "sysu") for x in (g, other)]
    both = score(Features(**q), [Features(**g), Features(**other)], "sysu")
    assert both["num_trials"] == 2
    assert both["mAP"] == pytest.approx(np.mean([one["mAP"] for one in apart]))
    assert both["std"]["mAP"] == pytest.approx(np.std([one["mAP"] for one in apart]))


def broken(**changes) -> dict:
    return {**sides()[0], **changes}


NOISE = np.random.default_rng(0).normal(size=(80, 8))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (broken(features=np.zeros((80, 8), int)), "features is int64; expected float32, or"),
        (broken(features=np.zeros((80, 8), complex)), "features is complex128; expected float32"),
        (broken(features=np.full((80, 8), 1e39)), "features, row 0: holds a number that float"),
        (broken(features=np.full((80, 8), np.inf)), "features, row 0: holds NaN or infinity"),
        (broken(features=NOISE + 1e9), "features are float64 and differ from each other by 0.9"),
        (broken(features=NOISE * 1e-40), "features are at most .*, too small for float32"),
        (
            broken(features=np.zeros(80, np.float32)),
            r"features has shape \[80\]; expected \[n, d\]",
        ),
        (
            broken(features=np.zeros((0, 8), np.float32)),
            r"features has shape \[0, 8\]; expected \[n, d\]",
        ),
        (broken(pids=np.zeros(80)), "pids is float64; expected int64, or another integer dtype"),
        (broken(camids=np.zeros(80, "m8[s]")), "camids is timedelta64.s.; expected int64"),
        (broken(pids=np.full(80, 2**63, np.uint64)), "pids, row 0: is 9223372036854775808; int64"),
        (broken(pids=np.full(80, -1)), r"pids, row 0: is -1, an unknown person \(80 such rows\)"),
        (broken(camids=np.zeros(79, np.int64)), r"camids has shape \[79\]; expected \[80\]"),
        (
            broken(features=np.full((80, 8), np.nan, np.float32)),
            r"features, row 0: holds NaN or infinity \(80 such rows\)",
        ),
    ],
)
def test_invalid_arrays_are_named(tmp_path, arrays, message):
    file = tmp_path / "q.npz"
    np.savez(file, **arrays)
    with pytest.raises(InputError, match=f"q.npz: {message}"):
        read_features(file)


@pytest.mark.parametrize("floating", ["f2", "f4", ">f4", "f8", "g"])
@pytest.mark.parametrize("integer", ["i1", "u2", "i4", ">i8", "u8"])
def test_other_floating_and_integer_types_are_converted(floating, integer, tmp_path):
    expected = {name: x.astype(np.float16) for name, x in sides()[0].items()}
    numbers = {"features": floating, "pids": integer, "camids": integer}
    np.savez(tmp_path / "q.npz", **{name: x.astype(numbers[name]) for name, x in expected.items()})
    found = read_features(tmp_path / "q.npz")
    for name, array in expected.items():
        converted = getattr(found, name)
        assert converted.dtype == (np.float32 if name == "features" else np.int64)
        np.testing.assert_array_equal(converted, array)


def test_one_row_that_is_not_finite_is_named(tmp_path):
    arrays = sides()[0]
    arrays["features"][41, 3] = np.inf
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(InputError, match="features, row 41: holds NaN or infinity"):
        read_features(tmp_path / "q.npz")


def write(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_files_without_features_are_rejected(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_features(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match=r"is not an \.npz file of plain arrays"):
        read_features(write(tmp_path / "a.npz", b"text"))
    np.savez(tmp_path / "b.npz", features=sides()[0]["features"])
    with pytest.raises(InputError, match="has no array 'pids'; expected features, pids, camids"):
        read_features(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", sides()[0]["features"])
    with pytest.raises(InputError, match=r"is not an \.npz file of plain arrays"):
        read_features(tmp_path / "c.npy")


def test_a_pickle_in_the_file_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    arrays = sides()[0] | {"pids": np.array([Bomb()], object)}
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(InputError, match=r"is not an \.npz file of plain arrays"):
        read_features(tmp_path / "q.npz")
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_ranked_is_explained():
    q, g = sides()
    with pytest.raises(InputError, match="--protocol nonsense: unknown; choose one of sysu, regdb"):
        score(Features(**q), Features(**g), "nonsense")
    with pytest.raises(InputError, match="--query: 2 files for 3 trials; pass one per trial"):
        score([Features(**q)] * 2, [Features(**g)] * 3, "sysu")
    narrow = {**g, "features": g["features"][:, :5]}
    with pytest.raises(InputError, match="features have 5 numbers, but those of features have 8"):
        score(Features(**q), Features(**narrow), "sysu")
    strangers = {**g, "pids": g["pids"] + 100}
    with pytest.raises(
        InputError, match=r"no query has a gallery image of its pid .*protocol sysu"
    ):
        score(Features(**q), Features(**strangers), "sysu")


def with_cameras(**cameras: list[int]) -> list[Features]:
    """Returns query and gallery with these cameras."""
    made = []
    for name, arrays in zip(("query", "gallery"), sides(), strict=True):
        camids = np.resize(np.array(cameras[name], np.int64), len(arrays["pids"]))
        made.append(Features(**{**arrays, "camids": camids}, name=f"{name}.npz"))
    return made


@pytest.mark.parametrize(
    ("protocol", "query", "gallery", "message"),
    [
        (
            "sysu",
            [2, 5],
            [0, 1, 3, 4],
            r"gallery.npz: camids holds 0; .* sysu are 1 to 6: .* add 1",
        ),
        (
            "sysu",
            [2, 5],
            [1, 3, 4],
            r"query.npz: has cameras 2, 5, and gallery.npz has 1, 3, 4",
        ),
        ("sysu", [3, 7], [1, 2], r"query.npz: camids holds 7; .* 1 to 6"),
        ("sysu", [1, 2], [4, 5], r"one modality in the other \(RGB 1, 2, 4, 5, infrared 3, 6\)"),
        ("llcm", [0, 1], [1, 2], r"query.npz: camids holds 0; .* llcm are 1 to 9"),
        ("llcm", [1, 3], [2, 3], r"query.npz: has cameras 1, 3, and gallery"),
        ("market", [-1], [1, 2], r"query.npz: camids holds -1, which is not a camera"),
    ],
)
def test_cameras_that_a_protocol_does_not_have_are_rejected(protocol, query, gallery, message):
    with pytest.raises(InputError, match=message):
        score(*with_cameras(query=query, gallery=gallery), protocol)


def test_the_result_states_rule_cameras_and_an_unusual_direction():
    found = score(*with_cameras(query=[3, 6], gallery=[1, 2]), "sysu")
    assert found["cameras"] == {"query": [3, 6], "gallery": [1, 2]}
    assert found["rule"] == RULES["sysu"].about
    assert "remark" not in found
    found = score(*with_cameras(query=[1, 2], gallery=[3, 6]), "sysu")
    assert found["remark"].startswith("queries are RGB and the gallery infrared, the reverse")
    for protocol in ("market", "plain", "regdb"):  # any camera numbers
        assert score(*with_cameras(query=[0, 700], gallery=[8]), protocol)["num_query"] > 0


def test_queries_without_a_match_are_counted():
    q, g = sides()
    q["pids"][:30] += 100
    found = score(Features(**q), Features(**g), "sysu")
    assert (found["num_query"], found["num_query_left_out"]) == (50, 30)


def test_queries_that_would_match_themselves_are_rejected():
    q, g = (Features(**arrays, name=name) for arrays, name in zip(sides(), "qg", strict=True))
    everybody = Features(
        *(np.concatenate([getattr(q, n), getattr(g, n)]) for n in ("features", "pids", "camids"))
    )
    for protocol in ("plain", "regdb"):
        with pytest.raises(InputError, match=r"q: all 80 queries are in features too"):
            score(q, everybody, protocol)
    assert score(q, everybody, "market")["num_gallery"] == 200  # the protocol ignores them


def test_features_without_a_distance_are_rejected():
    q, g = sides()
    q["features"][7] = 0
    with pytest.raises(InputError, match="features, row 7: is all zeros and has no cosine"):
        score(Features(**q), Features(**g), "sysu", "cosine")
    assert score(Features(**q), Features(**g), "sysu")["num_query"] == 80
    for factor in (np.float32(1e-20), np.float32(1e20)):
        scaled = [Features(**{**a, "features": a["features"] * factor}) for a in (q, g)]
        with pytest.raises(InputError, match="float32 cannot represent distances of that size"):
            score(*scaled, "sysu")


@pytest.mark.parametrize(("offset", "spread"), [(1000, 1e-3), (100, 1e-4)])
def test_features_that_hardly_differ_for_their_size_are_rejected(offset, spread):
    """Their distances were rounded to 0, so figures depended on the order of the gallery."""
    q, g = sides(protocol="plain")
    for side in (q, g):
        side["features"] = np.float32(offset) + np.float32(spread) * side["features"]
    with pytest.raises(InputError, match=r"g: features have a length of .* subtract the same"):
        score(Features(**q), Features(**g, name="g"), "plain")
    for side in (q, g):
        side["features"] = side["features"] - np.float32(offset)
    score(Features(**q), Features(**g), "plain")


def test_the_command_states_the_basis_of_its_figures(tmp_path, capsys):
    files = [tmp_path / name for name in ("q.npz", "g.npz")]
    for file, arrays in zip(files, sides(), strict=True):
        np.savez(file, **arrays)
    args = ("--protocol", "sysu", "--device", "cpu", "--json", tmp_path / "out.json")
    assert call("score", "--query", files[0], "--gallery", files[1], *args) == 0
    printed = capsys.readouterr().out
    assert "cameras   query 3, 6; gallery 1, 2, 4, 5" in printed
    assert "rule      sysu: a query from camera 3 ignores camera 2" in printed
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["cameras"] == {"query": [3, 6], "gallery": [1, 2, 4, 5]}
    twice = ("--query", files[0], "--gallery", files[1], files[1])
    assert f"--gallery {files[1]}: is named twice" in refused(capsys, "score", *twice, *args)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_read_correctly_or_rejected_in_one_line(tmp_path, save):
    """A few hundred random kinds of damage: zip, zlib, NumPy's header, data."""
    file = tmp_path / "q.npz"
    arrays = {name: array[:9] for name, array in sides()[0].items()}
    save(file, **arrays)
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    refusals = []
    for at in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[at] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged if at % 2 else content[:at])
        try:
            found = read_features(file)
        except InputError as error:
            refusals.append(str(error))
        else:
            for name, array in arrays.items():
                np.testing.assert_array_equal(getattr(found, name), array)
    assert len(refusals) > 100
    assert all(line.startswith(f"{file}: ") and "\n" not in line for line in refusals)
