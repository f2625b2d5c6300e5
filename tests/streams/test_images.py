"""ImageData, from_arrays, resize, to_channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram.errors import ConfigError, DataError
from engram.streams import ImageData, fingerprint, from_arrays, resize, to_channels
from engram.streams.images import resize_pixels

X = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
Y = [0, 1, 0, 1]


def test_grey_arrays_get_a_channel():
    data = from_arrays(X, Y, X[:2], Y[:2])
    assert data.image_shape == (1, 5, 6)
    assert data.n_classes == 2
    assert torch.equal(data.train_x[:, 0], torch.from_numpy(X))
    assert data.train_x.dtype == torch.uint8
    assert data.train_y.dtype == torch.int64


def test_channels_last_and_first_agree():
    last = np.stack([X, X + 100, X + 50], axis=-1)
    first = last.transpose(0, 3, 1, 2)
    a = from_arrays(last, Y, last, Y)
    b = from_arrays(torch.from_numpy(first.copy()), torch.tensor(Y), first, Y)
    assert a.fingerprint == b.fingerprint
    assert a.image_shape == (3, 5, 6)


def test_ambiguous_layout_must_be_said():
    x = np.zeros((2, 3, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r'layout="NCHW" or layout="NHWC"'):
        from_arrays(x, [0, 1], x, [0, 1])
    assert from_arrays(x, [0, 1], x, [0, 1], layout="NCHW").image_shape == (3, 8, 3)
    assert from_arrays(x, [0, 1], x, [0, 1], layout="NHWC").image_shape == (3, 3, 8)
    two = np.zeros((2, 5, 8, 7), np.uint8)
    with pytest.raises(DataError, match="channels"):
        from_arrays(two, [0, 1], two, [0, 1])
    with pytest.raises(ConfigError, match="layout"):
        from_arrays(X, Y, X, Y, layout="HWC")  # type: ignore[arg-type]


def test_arrays_are_copied():
    x = X.copy()
    data = from_arrays(x, Y, x, Y)
    x[:] = 0
    assert torch.equal(data.train_x[:, 0], torch.from_numpy(X))


def test_floats_are_rounded_and_said():
    x = np.array([[[0.0, 1.0]], [[0.5, 0.002]]], np.float32)
    data = from_arrays(x, [0, 1], x, [0, 1])
    assert data.train_x.flatten().tolist() == [0, 255, 128, 1]
    assert data.notes == ("float pixels in [0, 1] rounded to bytes",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, r"must lie in \[0, 1\], got 1.5\.\.1.5: give value_range="),
        (-0.1, r"must lie in \[0, 1\]"),
        (float("nan"), "must hold finite numbers"),
        (float("-inf"), "must hold finite numbers"),
    ],
)
def test_floats_out_of_range_are_refused(value, message):
    x = np.full((2, 3, 3), value)
    with pytest.raises(DataError, match=message):
        from_arrays(x, [0, 1], x, [0, 1])


def test_rounding_errors_are_clipped():
    x = np.array([[[-1e-7, 1 + 1e-7]], [[0.5, np.nextafter(np.float32(1), np.float32(2))]]])
    assert from_arrays(x, [0, 1], x, [0, 1]).train_x.flatten().tolist() == [0, 255, 128, 255]


@pytest.mark.parametrize("kind", [">i2", "<u4", "f4", "f8", np.longdouble, np.uint8])
def test_value_range_scales_numbers_of_any_type(kind):
    x = np.array([[[10, 30]], [[20, 15]]]).astype(kind)
    data = from_arrays(x, [0, 1], x, [0, 1], value_range=(10, 30))
    assert data.train_x.flatten().tolist() == [0, 255, 128, 64]
    assert data.notes == ("pixels in [10, 30] scaled to 0..255 and rounded",)
    with pytest.raises(DataError, match=r"must lie in \[10, 20\], got 10\.\.30"):
        from_arrays(x, [0, 1], x, [0, 1], value_range=(10, 20))
    for wrong in ((1, 1), (3, 2), (0, float("inf")), 5, ("a", "b"), (0, 1, 2), "01"):
        with pytest.raises(ConfigError, match="value_range must be two finite numbers"):
            from_arrays(x, [0, 1], x, [0, 1], value_range=wrong)


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.asfortranarray(a)[::1],
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: (a.setflags(write=False), a)[1],
        lambda a: torch.from_numpy(a).requires_grad_(a.dtype.kind == "f"),
        lambda a: a.tolist(),
    ],
)
def test_the_layout_of_arrays_in_memory_does_not_matter(form):
    x, y = X / 255, np.array(Y)
    assert (
        from_arrays(form(x.copy()), form(y.copy()), x, y).fingerprint == from_arrays(x, y, x, y).fingerprint
    )


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "2", "10"], ("2", "9", "10")),
        (np.array(["no", "yes", "no", "7"], object), ("7", "no", "yes")),
        (np.array([b"b", b"a", b"b", b"a"]), ("a", "b")),
        (np.array([2**63 + 5, 3, 2**64 - 1, 3], np.uint64), ("3", str(2**63 + 5), str(2**64 - 1))),
        ([True, False, True, False], ("False", "True")),
        ([2.0, 10.0, 2.0, 10.0], ("2", "10")),
        (torch.tensor([5, 1, 5, 1], dtype=torch.int8), ("1", "5")),
    ],
)
def test_labels_of_any_kind_are_named_and_ordered(labels, names):
    data = from_arrays(X, labels, X, labels)
    assert data.class_names == names
    plain = [
        str(int(v)) if isinstance(v, float) else v.decode() if isinstance(v, bytes) else str(v)
        for v in np.asarray(labels).tolist()
    ]
    assert [names[k] for k in data.train_y.tolist()] == plain


def test_class_names_are_unlike_and_printable():
    with pytest.raises(DataError, match='class names must differ, got "a" twice'):
        from_arrays(X, Y, X, Y, class_names=["a", "a"])
    with pytest.raises(DataError, match=r"must not be empty, got \['', 'b'\]"):
        from_arrays(X, Y, X, Y, class_names=["", "b"])
    data = from_arrays(X, Y, X, Y, class_names=["\x1b[31mred\n", "caf\udce9"], name="x\ry")
    assert data.class_names == ("\\x1b[31mred\\n", "caf\\xe9")
    assert data.name == "x\\ry"


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_labels_of_any_value_are_mapped_in_sorted_order(labels):
    x = np.zeros((len(labels), 2, 2), np.uint8)
    data = from_arrays(x, labels, x, labels)
    assert [int(data.class_names[k]) for k in data.train_y.tolist()] == labels
    assert [int(n) for n in data.class_names] == sorted(set(labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": X.reshape(4, 30)}, "reshape it first"),
        ({"train_x": X.astype(np.int32)}, "must be uint8"),
        ({"train_x": "pixels"}, "array or tensor of numbers"),
        ({"train_x": X[:0], "train_y": np.zeros(0, int)}, "at least one image"),
        ({"train_x": X[:3]}, "one an image"),
        ({"train_y": [0.5, 1.0, 0.0, 1.0]}, "row 0: every image needs a label"),
        ({"train_y": [0.0, float("nan"), 0.0, 1.0]}, "row 1: every image needs a label .* got nan"),
        ({"train_y": np.array(["a", None, "b", "a"], object)}, "row 1: .* got None"),
        ({"train_y": [1j, 0, 0, 1]}, "row 0: every image needs a label"),
        ({"train_y": np.eye(4)}, r"one label an image, \[N\], got \[4, 4\]"),
        ({"train_x": [X[0], X[1][:2]]}, "all images of one size"),
        ({"train_x": torch.from_numpy(X).to_sparse()}, "make a plain NumPy array"),
        ({"train_x": torch.empty(4, 5, 6, device="meta")}, "make a plain NumPy array"),
        ({"train_x": np.ma.masked_equal(X, 3)}, "masked values"),
        ({"train_x": X.astype("M8[s]")}, "array or tensor of numbers"),
        ({"train_x": X.astype(complex)}, "array or tensor of numbers"),
        ({"train_y": [0, 0, 0, 0]}, r'1 of 2 have no train sample \("1"\)'),
        ({"test_y": [1, 1, 1, 1]}, r'1 of 2 have no test sample \("0"\)'),
        ({"test_x": X[:, :4]}, "must have one shape"),
        ({"class_names": ["a"]}, "one name for each of the 2 labels"),
    ],
)
def test_unusable_arrays_are_refused(change, message):
    arguments = {"train_x": X, "train_y": Y, "test_x": X, "test_y": Y} | change
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_vectors_are_those_that_were_given_or_refused():
    v = np.arange(4.0).reshape(2, 2)
    assert from_arrays(v * 1e38, [0, 1], v, [0, 1]).train_x.isfinite().all()
    with pytest.raises(
        DataError, match=r"train_x must lie within -3\.4e\+38 and 3\.4e\+38, .* got 0\.\.3e\+300"
    ):
        from_arrays(v * 1e300, [0, 1], v, [0, 1])
    with pytest.raises(ConfigError, match=r"left out with vectors, .* got \(0, 4\) for arrays: train_x"):
        from_arrays(v, [0, 1], v, [0, 1], value_range=(0, 4))


def test_image_data_is_checked_however_it_is_made():
    x, y = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2])
    with pytest.raises(DataError, match=r"must lie in 0\.\.1"):
        ImageData("made", x, y, x, y, ("a", "b"), "")
    with pytest.raises(DataError, match="from_arrays, which converts"):
        ImageData("made", x.float(), y, x, y, ("a", "b"), "")


def test_fingerprint_sees_shape_bytes_and_labels():
    a = torch.arange(4, dtype=torch.uint8)
    assert fingerprint(a) == fingerprint(a.clone())
    assert len({fingerprint(a), fingerprint(a.reshape(2, 2)), fingerprint(a + 1), fingerprint(a.long())}) == 4


def test_resize_keeps_constants_and_averages(make_data):
    data = make_data(shape=(1, 8, 8))
    small = resize(data, 4)
    assert small.image_shape == (1, 4, 4)
    assert small.fingerprint != data.fingerprint
    assert small.notes == ("resized from 8x8 to 4x4 pixels (bilinear)",)
    assert resize(data, 8) is data
    wide = resize(make_data(shape=(1, 6, 8)), 4)
    assert wide.notes == ("resized from 8x6 to 4x4 pixels (bilinear)",), (
        "width x height, as pictures are measured"
    )
    assert abs(float(small.train_x.float().mean()) - float(data.train_x.float().mean())) < 3
    constant = np.full((2, 6, 9), 77, np.uint8)
    assert set(resize(from_arrays(constant, [0, 1], constant, [0, 1]), 5).train_x.unique().tolist()) == {77}


def test_resize_of_one_image_does_not_depend_on_the_others(make_data):
    data = make_data(shape=(3, 9, 7))
    alone = torch.cat([resize_pixels(x.unsqueeze(0), 5) for x in data.train_x])
    assert torch.equal(alone, resize(data, 5).train_x)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "8"])
def test_resize_refuses_other_sizes(make_data, size):
    with pytest.raises(ConfigError, match="image_size must be an integer >= 1"):
        resize(make_data(), size)


def test_to_channels_repeats_grey(make_data):
    data = make_data()
    wide = to_channels(data, 3)
    assert wide.image_shape == (3, 4, 4)
    assert all(torch.equal(wide.test_x[:, c], data.test_x[:, 0]) for c in range(3))
    assert wide.notes == ("grey repeated over 3 channels",)
    assert to_channels(wide, 3) is wide
    with pytest.raises(ConfigError, match="repeats grey images"):
        to_channels(wide, 1)
