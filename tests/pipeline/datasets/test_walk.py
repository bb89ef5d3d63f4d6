"""`walk`: every file once for each path that leads to it, whatever the links."""

import os
from pathlib import Path

import pytest

from pipeline.datasets.walk import HIDDEN, LOOP, NOT_A_FILE, walk
from pipeline.errors import InputError


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_links_to_folders_and_files_are_followed(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root / "b.jpg", root / "b" / "2.jpg", elsewhere / "deep" / "1.jpg")
    (root / "a").symlink_to(elsewhere)
    (root / "c").symlink_to(elsewhere)
    (root / "d.jpg").symlink_to(root / "b.jpg")
    walked = walk(root)
    names = ["a/deep/1.jpg", "b/2.jpg", "b.jpg", "c/deep/1.jpg", "d.jpg"]
    assert [os.path.relpath(file, root) for file in walked.files] == names
    assert walked.left_out == {}


def test_loops_hidden_names_and_non_files_are_left_out_by_name(tmp_path):
    touch(tmp_path / "a" / "1.jpg", tmp_path / "a" / "._1.jpg", tmp_path / ".cache" / "2.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.jpg")
    walked = walk(tmp_path)
    assert walked.files == [str(tmp_path / "a" / "1.jpg")]
    assert {Path(path): why for path, why in walked.left_out.items()} == {
        tmp_path / "a" / "._1.jpg": HIDDEN,
        tmp_path / ".cache": HIDDEN,
        tmp_path / "a" / "up": LOOP,
        tmp_path / "a" / "self": LOOP,
        tmp_path / "gone.jpg": NOT_A_FILE,
        tmp_path / "pipe.jpg": NOT_A_FILE,
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(InputError, match=f"{closed}: cannot be read \\(Permission denied\\)"):
        walk(tmp_path)


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(InputError, match="gone: cannot be read \\(No such file"):
        walk(tmp_path / "gone")
