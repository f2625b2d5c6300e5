"""Folders: links, names, layouts; what is left out is counted, and the cache sees whatever is read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from engram.errors import ConfigError, DataError
from engram.streams import ImageData, class_incremental, load


def fill(folder: Path, *values: int) -> Path:
    """A folder with an image a value."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(folder / f"{value}.png")
    return folder


def bitmap(path: Path, value: int) -> None:
    """A file of the same size and time whatever the value."""
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path, "BMP")
    os.utime(path, ns=(0, 0))


def values(data: ImageData) -> list[int]:
    return sorted(torch.cat([data.train_x, data.test_x])[:, 0, 0, 0].tolist())


def pets(root: Path) -> Path:
    """train and test with cats and dogs."""
    for split, low in (("train", 0), ("test", 100)):
        for k, name in enumerate(("cat", "dog")):
            fill(root / split / name, *range(low + 10 * k, low + 10 * k + 3))
    return root


def cell(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def refused(path: Path, message: str, **options: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(path, **options)
    assert str(caught.value).isprintable()


# --- links


@pytest.mark.parametrize("linked", ["train", "train/cat", "train/cat/0.png", "."])
def test_what_lies_behind_a_link_is_part_of_the_cache_identity(tmp_path, linked):
    store = pets(tmp_path / "store")
    data = tmp_path / "data"
    place = data / linked
    if linked != ".":
        pets(data)
        place.rename(tmp_path / "away")
    place.symlink_to(store / linked)
    before = load(data)
    Image.fromarray(np.full((4, 4), 55, np.uint8)).save(store / "train" / "cat" / "0.png")
    assert 55 in values(load(data))
    assert 55 not in values(before)


def test_a_link_that_leads_elsewhere_is_seen_though_size_and_time_agree(tmp_path):
    (tmp_path / "store").mkdir()
    for value in (7, 8):
        bitmap(tmp_path / "store" / f"{value}.png", value)
    data = pets(tmp_path / "data")
    link = data / "train" / "cat" / "x.png"
    link.symlink_to(tmp_path / "store" / "7.png")
    assert 7 in values(load(data))
    link.unlink()
    link.symlink_to(tmp_path / "store" / "8.png")
    assert 8 in values(load(data))


def test_content_that_keeps_size_and_time_is_seen(tmp_path):
    data = pets(tmp_path / "data")
    bitmap(data / "train" / "cat" / "0.bmp", 7)
    assert 7 in values(load(data))
    bitmap(data / "train" / "cat" / "0.bmp", 8)
    assert 8 in values(load(data))


def test_a_link_to_a_folder_that_holds_it_is_refused(tmp_path):
    data = pets(tmp_path / "data")
    (data / "train" / "cat" / "again").symlink_to(data)
    refused(data, "must not lead back to a folder that holds it")


# --- files that are none


def test_pipes_and_dangling_links_among_images_are_named(tmp_path):
    data = pets(tmp_path / "data")
    os.mkfifo(data / "train" / "cat" / "pipe.png")
    (data / "test" / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    refused(
        data, r"got 2 that are not \(.*pipe.png: no regular file; .*gone.png: a link that leads nowhere\)"
    )


def test_a_pipe_called_like_a_table_is_refused(tmp_path):
    (tmp_path / "t").mkdir()
    os.mkfifo(tmp_path / "t" / "train.parquet")
    refused(tmp_path / "t", r"train.parquet must be a file that can be read")


def test_names_that_are_no_text_become_escapes(tmp_path):
    fill(tmp_path / "d" / "\x1b[31mred", 1, 2, 3, 4)
    fill(Path(os.fsdecode(os.fsencode(tmp_path) + b"/d/caf\xe9")), 5, 6, 7, 8)
    data = load(tmp_path / "d")
    assert data.class_names == ("\\x1b[31mred", "caf\\xe9")
    assert values(data) == list(range(1, 9))
    (tmp_path / "d" / "\x1b[31mred" / "\n.png").write_bytes(b"")
    refused(tmp_path / "d", r"\\x1b\[31mred/\\n.png must be a usable image")


# --- what is left out


def test_images_in_sub_folders_of_a_class_are_refused(tmp_path):
    data = pets(tmp_path / "data")
    fill(data / "train" / "cat" / "more", 60, 61)
    refused(data, r"got 2 in sub-folders, such as train/cat/more/60.png: move them up")
    refused(pets(tmp_path / "whole" / "inner").parent, "got 12 in sub-folders")


def test_whatever_is_left_out_is_counted(tmp_path):
    data = pets(tmp_path / "data")
    fill(data / "train", 60, 61)
    fill(data / "extra" / "cat", 62)
    fill(data, 63)
    (data / "train" / "cat" / "empty").mkdir()
    (data / "train" / "cat" / "list.txt").touch()
    (data / "train" / "cat" / "drawing.eps").touch()
    (data / "train" / "cat" / "._0.png").touch()
    loaded = load(data)
    assert values(loaded) == [*range(3), *range(10, 13), *range(100, 103), *range(110, 113)]
    assert loaded.notes == (
        "2 files without the ending of an image were left out",
        "4 images outside the class folders were left out, such as 63.png",
        "1 hidden images were left out",
    )


def test_names_of_splits_in_other_spellings(tmp_path):
    data = pets(tmp_path / "data")
    (data / "train").rename(data / "Training")
    (data / "test").rename(data / "Testing")
    assert load(data).class_names == ("cat", "dog")


# --- the order of classes


def test_numeric_names_sort_as_numbers_in_folders_and_tables(tmp_path, write_parquet: Callable[..., Path]):
    names = ["10", "9", "a", "-1", "2", "b10", "b9"]
    for k, name in enumerate(names):
        fill(tmp_path / "folders" / name, k, k + 50, k + 100, k + 150)
    for split in ("train", "test"):
        write_parquet(tmp_path / "table" / f"{split}.parquet", [cell(k) for k in range(7)], names)
    for place in ("folders", "table"):
        assert load(tmp_path / place).class_names == ("-1", "2", "9", "10", "a", "b10", "b9")
        assert load(f"{tmp_path / place}:1-3").class_names == ("2", "9", "10")
    assert class_incremental(load(tmp_path / "table"), groups=[7]).train(0).y.tolist() == [
        3,
        2,
        4,
        0,
        1,
        5,
        6,
    ]


# --- tables


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array(["x", "y"], pa.large_string()), ("x", "y")),
        (pa.array(["x", "y"], pa.string_view()), ("x", "y")),
        (pa.array(["x", "y"]).dictionary_encode(), ("x", "y")),
        (pa.array([False, True]), ("False", "True")),
        (pa.array([12.0, 3.0]), ("3", "12")),
        (pa.array([2**64 - 1, 5], pa.uint64()), ("5", str(2**64 - 1))),
    ],
)
def test_label_columns_of_every_type(tmp_path, column, names):
    folder = tmp_path / "t"
    folder.mkdir()
    images = pa.array([cell(1), cell(2)], pa.large_binary())
    for split in ("train", "test"):
        pq.write_table(pa.table({"picture": images, "label": column}), folder / f"{split}.parquet")
    data = load(folder)
    assert data.class_names == names
    assert [names[k] for k in data.train_y.tolist()] == [
        str(int(v) if isinstance(v, float) else v) for v in column.to_pylist()
    ]
    other = pa.table({"a": images, "b": images, "sort": column})
    for split in ("train", "test"):
        pq.write_table(other, folder / f"{split}.parquet")
    assert load(folder, image_column="b", label_column="sort").class_names == names
    refused(folder, "must have one image column, got a, b: say which with image_column=")


def test_unusable_labels_and_columns_are_told(tmp_path, write_parquet):
    cells = [cell(1), cell(2)]
    for labels, message in (
        ([0.5, 1.0], r'"train", row 0: every image needs a label .* got 0.5'),
        ([1.0, float("nan")], "row 1: every image needs a label .* got nan"),
        ([1.0, -1.0], "row 1: every image needs a label"),
        (
            [[1], [2]],
            r"one label column, got none among image \(struct<.*, label \(list<.*: say which with label",
        ),
    ):
        for split in ("train", "test"):
            write_parquet(tmp_path / "t" / f"{split}.parquet", cells, labels)
        refused(tmp_path / "t", message)
    write_parquet(tmp_path / "t" / "test.parquet", cells, [0, 1])
    pq.write_table(pa.table({"image": cells, "kind": [0, 1]}), tmp_path / "t" / "train.parquet")
    refused(tmp_path / "t", r'split "test" must have a column "kind", got columns image, label')
    with pytest.raises(ConfigError, match="digits is no table"):
        load("digits", label_column="x")
    refused(
        pets(tmp_path / "d"),
        "label_column must be left out where images lie in class folders",
        label_column="x",
    )


def test_layouts_of_the_hub(tmp_path, write_parquet):
    cells = [cell(1), cell(2)]

    def write(place: str) -> None:
        for name in ("train", "test"):
            write_parquet(tmp_path / place.format(name), cells, [0, 1])

    for k, place in enumerate(("{}-00000-of-00001", "data/{}-00000-of-00001", "plain/{}-0", "plain/{}/0000")):
        write(f"{k}/{place}.parquet")
        assert values(load(tmp_path / str(k))) == [1, 1, 2, 2]
    write("two/small/{}.parquet")
    write("two/large/{}.parquet")
    refused(tmp_path / "two", "must hold one table, got large, small: give the path of one")
    assert load(tmp_path / "two" / "small").n_classes == 2
    write("svhn/full_numbers/{}.parquet")
    write("svhn/cropped_digits/{}.parquet")
    write_parquet(tmp_path / "svhn" / "cropped_digits" / "extra.parquet", cells, [0, 1])
    assert load("svhn", data_dir=tmp_path).notes == (
        "3 tables of other splits were left out, such as cropped_digits/extra.parquet",
    )
    (tmp_path / "0" / "train-00000-of-00001.parquet").rename(tmp_path / "0" / "train-00000-of-00002.parquet")
    refused(tmp_path / "0", "must hold 2 parts such as train-00000-of-00002.parquet, got 1")


def test_tables_may_name_files_of_their_folder_only(tmp_path):
    folder = tmp_path / "t"
    files = fill(folder / "files", 3, 4)
    fill(tmp_path / "elsewhere", 5)

    def write(*paths: Path | str) -> None:
        images = pa.array(
            [{"bytes": None, "path": str(p)} for p in paths],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        for split in ("train", "test"):
            pq.write_table(pa.table({"image": images, "label": [0, 1]}), folder / f"{split}.parquet")

    write(files / "3.png", "files/4.png")
    data = load(folder)
    assert values(data) == [3, 3, 4, 4]
    assert data.notes == ("2 image files beside the tables are used only where these name them",)
    write(files / "3.png", tmp_path / "elsewhere" / "5.png")  # which the cache's identity does not cover
    refused(folder, r'got 2 that are not \(.*"train", row 1: no image; .*"test", row 1: no image\)')
