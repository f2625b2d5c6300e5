"""load: every kind of source, the cache, and what is refused."""

from __future__ import annotations

import io
import socket
import subprocess
import sys

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets
import torch
from PIL import Image

from engram.errors import ConfigError, DataError
from engram.streams import load, resize
from engram.streams import readers as _readers


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file's content."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def grey(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    return encoded(np.full(size, value, np.uint8))


def colour(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    return encoded(np.full((*size, 3), (value, 0, 255), np.uint8))


def one_line(caught: pytest.ExceptionInfo) -> None:
    assert "\n" not in str(caught.value)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def table(tmp_path, write_parquet):
    """A folder with 2 + 2 grey train images and 1 + 1 test images, labels 3 and 5."""
    write_parquet(tmp_path / "t" / "train.parquet", [grey(v) for v in (1, 2, 3, 4)], [3, 5, 3, 5])
    write_parquet(tmp_path / "t" / "test.parquet", [grey(9), grey(8)], [5, 3])
    return tmp_path / "t"


def test_digits_are_scaled_split_by_class_and_always_the_same():
    data = load("digits")
    assert data.image_shape == (1, 8, 8)
    assert len(data.train_y) + len(data.test_y) == 1797
    assert int(data.train_x.max()) == 255
    assert set(data.train_x.unique().tolist()) <= {round(v * 255 / 16) for v in range(17)}
    share = torch.bincount(data.test_y) / (torch.bincount(data.test_y) + torch.bincount(data.train_y))
    assert bool(((share - 0.25).abs() < 0.005).all())
    assert "25% of each class" in data.notes[0]
    # a fingerprint that is kept: the split must be the same on every machine and in every version
    assert data.fingerprint == load("digits").fingerprint
    assert data.fingerprint.startswith("b33f26d36ce5b490")


def test_class_range_keeps_and_renumbers():
    whole, part = load("digits"), load("digits:3-5")
    assert part.class_names == ("3", "4", "5")
    assert part.name == "digits:3-5"
    assert "only classes 3 to 5 of 10" in part.notes
    keep = (whole.test_y >= 3) & (whole.test_y <= 5)
    assert torch.equal(part.test_x, whole.test_x[keep])
    assert torch.equal(part.test_y + 3, whole.test_y[keep])
    for bad in ("digits:5-3", "digits:0-10"):
        with pytest.raises(ConfigError, match="class range must lie in 0-9"):
            load(bad)


def test_parquet_folder_by_path_and_by_name(table, cache, monkeypatch):
    before = sorted(p.name for p in table.iterdir())
    data = load(table, cache_dir=cache)
    assert data.class_names == ("3", "5")
    assert data.train_y.tolist() == [0, 1, 0, 1]
    assert data.train_x[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert data.test_x[:, 0, 0, 0].tolist() == [9, 8]
    assert data.name == "t"
    assert load("t", data_dir=table.parent, cache_dir=cache).fingerprint == data.fingerprint
    monkeypatch.setenv("ENGRAM_DATA", str(table.parent))
    assert load("t:1-1", cache_dir=cache).class_names == ("5",)
    assert sorted(p.name for p in table.iterdir()) == before  # nothing is written beside the data


def test_short_name_in_data_dir_asks_no_network(tmp_path, table, cache, monkeypatch):
    asked: list = []

    def resolve(*args, **kwargs):
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(datasets, "load_dataset", forbidden)
    table.rename(tmp_path / "svhn")
    assert load("svhn", data_dir=tmp_path, cache_dir=cache).n_classes == 2
    assert not asked


def forbidden(*args, **kwargs):
    raise AssertionError("the network was asked")


def test_class_label_names_and_fine_labels(tmp_path, cache):
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=["ant", "bee"]),
            "coarse_label": datasets.ClassLabel(names=["insect"]),
        }
    )
    rows = {
        "img": [Image.new("RGB", (3, 3)), Image.new("RGB", (3, 3))],
        "fine_label": [1, 0],
        "coarse_label": [0, 0],
    }
    for split in ("train", "validation"):
        path = tmp_path / "bugs" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    data = load(tmp_path / "bugs", cache_dir=cache)
    assert data.class_names == ("ant", "bee")
    assert data.train_y.tolist() == [1, 0]
    assert data.image_shape == (3, 3, 3)
    assert 'the test split is the source\'s "validation"' in data.notes
    with pytest.raises(DataError, match='must have a column "colour"'):
        load(tmp_path / "bugs", cache_dir=cache, label_column="colour")


def test_several_candidates_are_listed(tmp_path, write_parquet, cache):
    cells = [grey(1), grey(2)]
    for split in ("train", "test"):
        write_parquet(tmp_path / "t" / f"{split}.parquet", cells, [[1], [1]], digit=[0, 1], writer=[7, 7])
    with pytest.raises(
        DataError, match="one label column, got digit, writer: say which with label_column="
    ) as caught:
        load(tmp_path / "t", cache_dir=cache)
    one_line(caught)
    assert load(tmp_path / "t", cache_dir=cache, label_column="digit").class_names == ("0", "1")


def test_image_folder_without_test_split(image_folder, cache):
    (image_folder / "cat" / "notes.txt").write_text("not an image")
    (image_folder / "cat" / ".hidden.png").write_bytes(b"")
    data = load(image_folder, cache_dir=cache)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (1, 5, 6)
    assert torch.bincount(data.train_y).tolist() == [6, 6]
    assert torch.bincount(data.test_y).tolist() == [2, 2]
    values = torch.cat([data.train_x, data.test_x])[:, 0, 0, 0]
    assert sorted(values.tolist()) == [*range(8), *range(10, 18)]
    assert data.notes[0] == "1 files without the ending of an image were left out"
    assert data.notes[1] == "1 hidden images were left out"
    assert "no test split" in data.notes[2]


def test_image_folder_with_test_split(image_folder, tmp_path, cache):
    root = tmp_path / "split"
    root.mkdir()
    image_folder.rename(root / "train")
    for name in ("cat", "dog"):
        (root / "test" / name).mkdir(parents=True)
        Image.new("L", (6, 5), 200).save(root / "test" / name / "x.png")
    data = load(root, cache_dir=cache)
    assert len(data.train_y) == 16
    assert data.test_x.unique().tolist() == [200]
    assert data.notes == ()
    (root / "test" / "cow").mkdir()
    with pytest.raises(DataError, match='same class folders, got "cow" in one only'):
        load(root, cache_dir=cache)
    (root / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="at least one image file"):
        load(root, cache_dir=cache)


def test_grey_and_colour_mixed_become_colour(tmp_path, write_parquet, cache):
    rgba = encoded(np.full((4, 4, 4), 30, np.uint8))
    write_parquet(tmp_path / "t" / "train.parquet", [grey(7), grey(8), grey(9)], [0, 1, 1])
    write_parquet(tmp_path / "t" / "test.parquet", [colour(50), rgba], [0, 1])
    data = load(tmp_path / "t", cache_dir=cache)
    assert data.image_shape == (3, 4, 4)
    assert data.train_x[0].unique().tolist() == [7]
    assert data.test_x[0, :, 0, 0].tolist() == [50, 0, 255]
    assert data.notes == (
        "3 grey images converted to colour, as 2 are colour",
        "transparency of 1 images laid over black",
    )


def test_jpeg_and_palette(tmp_path, write_parquet, cache):
    pixels = np.full((8, 8, 3), (200, 10, 10), np.uint8)
    palette = io.BytesIO()
    Image.fromarray(pixels).quantize(4).save(palette, "PNG")
    cells = [encoded(pixels, "JPEG"), palette.getvalue()]
    for split in ("train", "test"):
        write_parquet(tmp_path / "t" / f"{split}.parquet", cells, [0, 1])
    data = load(tmp_path / "t", cache_dir=cache)
    assert data.image_shape == (3, 8, 8)
    assert "lossy JPEG in 2 of 4 images" in data.notes[0]
    assert int((data.train_x.int() - torch.tensor([200, 10, 10]).reshape(3, 1, 1)).abs().max()) < 6


def test_image_size_is_the_same_as_resize(table, image_folder, cache):
    for source in (table, image_folder, "digits"):
        whole = load(source, cache_dir=cache)
        assert load(source, cache_dir=cache, image_size=3).fingerprint == resize(whole, 3).fingerprint


def test_mixed_sizes_are_refused_unless_resized(tmp_path, write_parquet, cache):
    write_parquet(tmp_path / "t" / "train.parquet", [grey(1), grey(2), grey(3, (5, 4))], [0, 1, 1])
    write_parquet(tmp_path / "t" / "test.parquet", [grey(1), grey(2)], [0, 1])
    with pytest.raises(
        DataError, match=r'got 4x4 and, first at .*"train", row 2, 5x4 .*image_size='
    ) as caught:
        load(tmp_path / "t", cache_dir=cache)
    one_line(caught)
    data = load(tmp_path / "t", cache_dir=cache, image_size=4)
    assert data.train_x[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.notes == ("images of several sizes resized to 4x4 pixels (bilinear)",)


@pytest.mark.parametrize(
    ("cells", "labels", "message"),
    [
        (
            [grey(1), b"\x89PNG\r\n\x1a\nbroken"],
            [0, 1],
            r'"train", row 1 must be a usable image, got no image of a kind that is read',
        ),
        ([grey(1), grey(2)[:40]], [0, 1], r'"train", row 1 must be a usable image'),
        ([grey(1), None], [0, 1], r'"train", row 1 must be a usable image, got no image'),
        ([grey(1), grey(2)], [0, None], r'"train", row 1: every image needs a label'),
        ([grey(1), grey(2)], [0, -1], r'"train", row 1: every image needs a label'),
        ([], [], "at least one image"),
        ([grey(1), grey(2)], [0, 0], r'1 of 2 have no train sample \("1"\)'),
        (
            [grey(1), encoded(np.zeros((4, 4), np.uint16))],
            [0, 1],
            r"row 1 must .* more than 8 bits a channel \(mode I;16;",
        ),
    ],
)
def test_damaged_tables_are_refused(tmp_path, write_parquet, cache, cells, labels, message):
    write_parquet(tmp_path / "t" / "train.parquet", cells, pa.array(labels, pa.int64()))
    write_parquet(tmp_path / "t" / "test.parquet", [grey(1), grey(2)], [0, 1])
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / "t", cache_dir=cache)
    one_line(caught)


def test_damaged_files_are_named(tmp_path, table, image_folder, cache):
    (image_folder / "dog" / "3.png").write_bytes(b"not a PNG")
    with pytest.raises(
        DataError, match=r"dog.3\.png must be a usable image, got no image of a kind"
    ) as caught:
        load(image_folder, cache_dir=cache)
    one_line(caught)
    (table / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"test\.parquet must be a readable Parquet table") as caught:
        load(table, cache_dir=cache)
    one_line(caught)
    (table / "train.parquet").unlink()
    with pytest.raises(DataError, match="rename the files"):
        load(table, cache_dir=cache)


def test_names_that_fit_nothing(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    for name, message in (
        ("mnst", r'digits, mnist, .*svhn, a hub name "user/name" or a folder, got "mnst"'),
        (str(tmp_path / "empty"), "must hold train"),
        (str(tmp_path / "file.txt"), "must be a folder, got the file"),
        ("a/b/c", "hub name"),
        ("", 'got ""'),
        ("./nowhere", r"must be a folder that there is, got \./nowhere"),
        ("x" * 5000, 'or a folder, got "xxx'),
        ("~nobody-of-this-name/x", "must be a folder that there is"),
        ("a\0b", r'got "a.x00b"'),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load(name, cache_dir=cache)
        one_line(caught)
    with pytest.raises(DataError, match=r"data_dir .* must be a folder"):
        load("mnist", data_dir=tmp_path / "nowhere", cache_dir=cache)
    with pytest.raises(ConfigError, match="image_size"):
        load("digits", image_size=0)


# --- the hub


class Info:
    sha = "abc123"


def fake_hub(monkeypatch, calls, splits):
    def load_dataset(name, config=None, **kwargs):
        calls.append((name, config, kwargs.get("revision")))
        return splits

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, **kwargs: Info())
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def tiny_splits(label: str = "label") -> dict[str, datasets.Dataset]:
    features = datasets.Features({"image": datasets.Image(), label: datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("L", (3, 3), 5), Image.new("L", (3, 3), 6)], label: [0, 1]}
    one = datasets.Dataset.from_dict(rows, features=features)
    return {"train": one, "test": one}


def test_hub_names_configs_and_revision(monkeypatch, cache):
    calls: list = []
    fake_hub(monkeypatch, calls, tiny_splits())
    data = load("svhn", cache_dir=cache)
    assert data.train_x[:, 0, 0, 0].tolist() == [5, 6]
    assert data.class_names == ("a", "b")
    assert data.notes == ("from the Hugging Face hub, ufldl-stanford/svhn, revision abc123",)
    load("some/set@small:1-1", cache_dir=cache)
    assert calls == [("ufldl-stanford/svhn", "cropped_digits", "abc123"), ("some/set", "small", "abc123")]


def test_hub_is_asked_once(monkeypatch, cache):
    fake_hub(monkeypatch, [], tiny_splits())
    first = load("some/set", cache_dir=cache)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", forbidden)
    monkeypatch.setattr(datasets, "load_dataset", forbidden)
    assert load("some/set", cache_dir=cache).fingerprint == first.fingerprint


def test_no_network_is_one_line_and_not_retried(monkeypatch, cache):
    def unreachable(self, name, **kwargs):
        assert kwargs["timeout"] <= 30
        raise ConnectionError("no route to host\nmore details")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", forbidden)
    for name in ("mnist", "some/set"):
        with pytest.raises(DataError, match=r"ConnectionError: no route to host: .*give data_dir") as caught:
            load(name, cache_dir=cache)
        one_line(caught)


def test_hub_failures_are_one_line(monkeypatch, cache):
    def failing(*args, **kwargs):
        raise ValueError("BuilderConfig 'x' not found.\nAvailable: ['y']")

    fake_hub(monkeypatch, [], {})
    monkeypatch.setattr(datasets, "load_dataset", failing)
    with pytest.raises(DataError, match="BuilderConfig 'x' not found:") as caught:
        load("some/set@x", cache_dir=cache)
    one_line(caught)
    fake_hub(monkeypatch, [], {"full": tiny_splits()["train"]})
    with pytest.raises(DataError, match='must have a split "train", got full'):
        load("some/set", cache_dir=cache)


def test_hub_set_without_test_split(monkeypatch, cache):
    one = tiny_splits()["train"]
    fake_hub(monkeypatch, [], {"train": datasets.concatenate_datasets([one] * 4)})
    data = load("some/set", cache_dir=cache)
    assert torch.bincount(data.test_y).tolist() == [1, 1]
    assert "no test split" in data.notes[-1]


def test_class_names_must_agree_between_splits(monkeypatch, cache):
    splits = tiny_splits()
    splits["test"] = splits["test"].cast_column("label", datasets.ClassLabel(names=["b", "a"]))
    fake_hub(monkeypatch, [], splits)
    with pytest.raises(DataError, match=r'split "test": .* same class names in every split'):
        load("some/set", cache_dir=cache)


# --- the cache


def files(cache):
    return sorted(p for p in cache.iterdir())


def test_second_load_does_not_decode(table, cache, monkeypatch):
    first = load(table, cache_dir=cache)
    monkeypatch.setattr(_readers, "read_folder", forbidden)
    again = load(table, cache_dir=cache)
    assert again.fingerprint == first.fingerprint
    assert again.class_names == first.class_names
    assert len(files(cache)) == 1


def test_default_cache_is_the_environment(table, tmp_path):
    load(table)
    assert len(files(tmp_path / "default-cache")) == 1


def test_changed_source_is_decoded_again(table, cache, write_parquet):
    load(table, cache_dir=cache)
    write_parquet(table / "test.parquet", [grey(0), grey(0), grey(77)], [5, 3, 3])
    assert load(table, cache_dir=cache).test_x.max() == 77
    assert len(files(cache)) == 2


@pytest.mark.parametrize("where", ["pixels", "description", "truncated", "empty"])
def test_damaged_cache_is_noticed_and_rebuilt(table, cache, where):
    first = load(table, cache_dir=cache)
    (path,) = files(cache)
    content = bytearray(path.read_bytes())
    if where == "pixels":
        content[-1] ^= 1
    elif where == "description":
        at = content.index(b"class_names")
        content[at] ^= 1
    else:
        content = content[: 0 if where == "empty" else len(content) // 2]
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="is damaged .* decoding the source again"):
        assert load(table, cache_dir=cache).fingerprint == first.fingerprint
    assert load(table, cache_dir=cache).fingerprint == first.fingerprint  # no warning: warnings are errors
    assert len(files(cache)) == 1


def test_cache_that_cannot_be_written_is_said(table, tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert load(table, cache_dir=tmp_path / "blocked").n_classes == 2


def test_stored_data_and_digits_load_no_slow_library(table, cache):
    load(table, cache_dir=cache)
    slow = ["datasets", "pandas", "sklearn", "pyarrow", "huggingface_hub"]
    code = f"""
import sys
from engram.streams import load
load({str(table)!r}, cache_dir={str(cache)!r})
load("digits")
print([name for name in {slow} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_digits_are_those_of_scikit_learn():
    bunch = sklearn.datasets.load_digits()
    scaled = torch.from_numpy(np.floor(bunch.images * 255 / 16 + 0.5)).to(torch.uint8)[:, None]
    data = load("digits")
    for y in range(10):  # train and test of a class, together and in any order
        ours = torch.cat([data.train_x[data.train_y == y], data.test_x[data.test_y == y]]).flatten(1)
        assert sorted(ours.tolist()) == sorted(
            scaled[torch.from_numpy(bunch.target) == y].flatten(1).tolist()
        )


# --- real data


@pytest.mark.data
def test_mnist(real_data, cache):
    data = load("mnist", data_dir=real_data, cache_dir=cache)
    assert data.image_shape == (1, 28, 28)
    assert data.train_y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = torch.bincount(data.train_y)
    assert (len(data.train_y), int(counts.min()), int(counts.max())) == (60000, 5421, 6742)
    assert len(data.test_y) == 10000
    assert abs(float(data.train_x[::5].float().mean()) / 255 - 0.1313) < 1e-4
    assert load("mnist", data_dir=real_data, cache_dir=cache).fingerprint == data.fingerprint


@pytest.mark.data
def test_stand_in_is_named(real_data, tmp_path, cache):
    if not (real_data / "mnist_m").is_dir():
        pytest.skip(f"no mnist_m in {real_data}")
    (tmp_path / "mnist_m").mkdir()
    for split in ("train", "test"):  # a few of its images are enough
        few = pq.ParquetFile(real_data / "mnist_m" / f"{split}.parquet").iter_batches(200)
        pq.write_table(pa.Table.from_batches([next(few)]), tmp_path / "mnist_m" / f"{split}.parquet")
    data = load("mnist_m:8-9", data_dir=tmp_path, cache_dir=cache)
    assert data.image_shape == (3, 32, 32)
    assert "stand-in for SVHN" in data.notes[0]
    assert "lossy JPEG" in data.notes[1]
