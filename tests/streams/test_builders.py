"""The four builders: who gets which samples, under which labels."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from engram.errors import ConfigError, DataError
from engram.streams import ImageData, Stream, class_incremental, from_arrays, permuted, rotated, sequence
from engram.streams.splits import hold_out, named_generator

properties = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def numbered(n_classes: int, n_train: int, n_test: int, shape: tuple[int, int, int] = (1, 1, 2)) -> ImageData:
    """Every image holds its own number in its first two bytes, so that a sample can be followed."""
    arrays = []
    for split, count in ((0, n_train), (1, n_test)):
        y = torch.arange(n_classes * count) % n_classes
        x = torch.zeros(len(y), *shape, dtype=torch.uint8).flatten(1)
        number = torch.arange(len(y)) + split * 10_000
        x[:, 0], x[:, 1] = (number // 256).to(torch.uint8), (number % 256).to(torch.uint8)
        arrays += [x.reshape(-1, *shape), y]
    return from_arrays(*arrays, class_names=[f"c{k}" for k in range(n_classes)], layout="NCHW")


def numbers(x: torch.Tensor) -> list[int]:
    flat = x.flatten(1).int()
    return (flat[:, 0] * 256 + flat[:, 1]).tolist()


streams = st.fixed_dictionaries(
    {
        "n_classes": st.integers(1, 7),
        "n_train": st.integers(2, 9),
        "n_tasks": st.integers(1, 7),
        "order": st.sampled_from([None, "random"]),
        "seed": st.integers(0, 1000),
        "valid_fraction": st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    }
)


@properties
@given(streams)
def test_class_incremental_partitions_classes_and_samples(case):
    data = numbered(case["n_classes"], case["n_train"], 2)
    arguments = {
        "n_tasks": min(case["n_tasks"], data.n_classes),
        "class_order": case["order"],
        "seed": case["seed"],
        "valid_fraction": case["valid_fraction"],
    }
    stream = class_incremental(data, **arguments)
    # every class in exactly one task, in order of arrival; names are a bijection
    assert [c for task in stream.tasks for c in task.classes] == list(range(data.n_classes))
    assert sorted(stream.class_names) == sorted(data.class_names)
    sizes = [len(task.classes) for task in stream.tasks]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    # every sample exactly once, in its class's task and under its class's name
    seen: dict[str, list[int]] = {"train": [], "test": []}
    for task in stream.tasks:
        splits = {"train": stream.train(task.index), "valid": stream.valid(task.index)}
        splits["test"] = stream.test(task.index)
        assert [len(s) for s in splits.values()] == [task.n_train, task.n_valid, task.n_test]
        for split, samples in splits.items():
            assert set(samples.y.tolist()) <= set(task.classes)
            into = "test" if split == "test" else "train"
            original = data.test_y if split == "test" else data.train_y
            for number, label in zip(numbers(samples.x), samples.y.tolist(), strict=True):
                row = number - 10_000 * (split == "test")
                assert stream.class_names[label] == data.class_names[int(original[row])]
                seen[into].append(row)
        per_class = torch.bincount(splits["valid"].y, minlength=data.n_classes)[list(task.classes)]
        if case["valid_fraction"] == 0:
            assert len(splits["valid"]) == 0
        else:  # stratified, and at least one of each class on either side
            assert len(set(per_class.tolist())) == 1
            assert 1 <= int(per_class[0]) <= case["n_train"] - 1
            assert abs(int(per_class[0]) - case["valid_fraction"] * case["n_train"]) <= 1
    assert sorted(seen["train"]) == list(range(len(data.train_y)))
    assert sorted(seen["test"]) == list(range(len(data.test_y)))
    # deterministic
    assert class_incremental(data, **arguments).describe() == stream.describe()


@properties
@given(st.integers(0, 50), st.integers(1, 5))
def test_rows_do_not_depend_on_the_grouping(seed, n_tasks):
    data = numbered(5, 8, 2)
    one = class_incremental(data, n_tasks=1, seed=seed, valid_fraction=0.25, max_per_class=6)
    many = class_incremental(data, n_tasks=n_tasks, seed=seed, valid_fraction=0.25, max_per_class=6)
    rows = [n for i in range(n_tasks) for n in numbers(many.valid(i).x)]
    assert sorted(rows) == sorted(numbers(one.valid(0).x))


def test_rows_of_a_class_do_not_depend_on_other_classes():
    data = numbered(5, 8, 2)
    whole = class_incremental(data, n_tasks=5, valid_fraction=0.25, max_per_class=6)
    chosen = [data.train_y >= 3, data.test_y >= 3]
    late = from_arrays(
        data.train_x[chosen[0]],
        data.train_y[chosen[0]],
        data.test_x[chosen[1]],
        data.test_y[chosen[1]],
        class_names=data.class_names[3:],
    )
    alone = class_incremental(late, n_tasks=2, valid_fraction=0.25, max_per_class=6)
    for split in ("train", "valid"):
        for place in range(2):
            pairs = (getattr(alone, split)(place).x, getattr(whole, split)(3 + place).x)
            assert torch.equal(*pairs)


def test_groups_and_order():
    data = numbered(10, 3, 2)
    assert [len(t.classes) for t in class_incremental(data, n_tasks=3).tasks] == [4, 3, 3]
    stream = class_incremental(data, groups=(1, 2, 7), class_order=[9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    assert [t.classes for t in stream.tasks] == [(0,), (1, 2), (3, 4, 5, 6, 7, 8, 9)]
    assert stream.class_names[:3] == ("c9", "c8", "c7")
    assert [t.name for t in stream.tasks] == ["c9", "c8, c7", "c6 to c0 (7 classes)"]
    assert stream.train(0).y.tolist() == [0, 0, 0]
    assert stream.label_space == "disjoint"


def test_class_order_by_names(make_data):
    data = make_data(3, class_names=["ant", "bee", "cow"])
    by_name = class_incremental(data, n_tasks=3, class_order=["cow", "ant", "bee"])
    assert by_name.fingerprint == class_incremental(data, n_tasks=3, class_order=[2, 0, 1]).fingerprint
    assert by_name.class_names == ("cow", "ant", "bee")
    years = make_data(
        3, class_names=["2", "1", "0"]
    )  # text is a name; a whole number is a label where it can be
    assert class_incremental(years, n_tasks=3, class_order=["0", "1", "2"]).class_names == ("0", "1", "2")
    assert class_incremental(years, n_tasks=3, class_order=[0, 1, 2]).class_names == ("2", "1", "0")
    late = make_data(3, class_names=["1999", "2000", "2001"])
    assert class_incremental(late, n_tasks=3, class_order=[2001, 1999, 2000]).class_names[0] == "2001"
    for wrong in (["cow", "ant"], ["cow", "ant", "ant"], ["cow", "ant", "owl"], "cow", [0, 1, "cow"]):
        with pytest.raises(ConfigError, match=r"each label 0\.\.2 once, or each class name once"):
            class_incremental(data, n_tasks=3, class_order=wrong)


def test_random_order_depends_on_the_seed_only():
    data = numbered(10, 1, 1)
    orders = {class_incremental(data, n_tasks=2, class_order="random", seed=s).class_names for s in range(5)}
    assert len(orders) > 1
    assert class_incremental(data, n_tasks=2, seed=3).class_names == data.class_names


def test_max_per_class_takes_that_many_before_the_validation_split():
    data = numbered(3, 10, 2)
    stream = class_incremental(data, n_tasks=3, max_per_class=4, valid_fraction=0.25, seed=1)
    assert [(t.n_train, t.n_valid, t.n_test) for t in stream.tasks] == [(3, 1, 2)] * 3
    other = class_incremental(data, n_tasks=3, max_per_class=4, valid_fraction=0.25, seed=2)
    assert numbers(stream.train(0).x) != numbers(other.train(0).x)
    assert stream.fingerprint != other.fingerprint
    assert class_incremental(data, n_tasks=3, max_per_class=99).tasks[0].n_train == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "n_tasks= or groups="),
        ({"n_tasks": 2, "groups": (2, 2)}, "one of the two"),
        ({"n_tasks": 5}, r"n_tasks must be an integer in 1\.\.4.*got 5"),
        ({"n_tasks": 0}, "n_tasks must be"),
        ({"n_tasks": 2.0}, "n_tasks must be"),
        ({"groups": (3, 2)}, "add up to the 4 classes"),
        ({"groups": (4, 0)}, "integers >= 1"),
        ({"n_tasks": 2, "class_order": [0, 1, 2]}, "each label 0..3 once"),
        ({"n_tasks": 2, "class_order": [0, 1, 2, 2]}, "each label 0..3 once"),
        ({"n_tasks": 2, "class_order": "reversed"}, 'must be "random"'),
        ({"n_tasks": 2, "valid_fraction": 1.0}, r"in \[0, 1\)"),
        ({"n_tasks": 2, "valid_fraction": -0.1}, r"in \[0, 1\)"),
        ({"n_tasks": 2, "max_per_class": 0}, "max_per_class must be"),
        ({"n_tasks": 2, "seed": "0"}, "seed must be an integer"),
    ],
)
def test_class_incremental_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        class_incremental(numbered(4, 2, 1), **arguments)
    assert "\n" not in str(caught.value)


def test_validation_needs_two_samples_of_a_class():
    with pytest.raises(DataError, match='2 training samples of each class, got 1 of "c0"'):
        class_incremental(numbered(2, 1, 1), n_tasks=2, valid_fraction=0.1)


def test_hold_out_follows_the_count_of_each_class():
    labels = torch.tensor([0, 1, 0, 1, 1, 1])
    kept, held = hold_out(labels, lambda n: n // 2, generator=lambda label: named_generator("test", label))
    assert torch.bincount(labels[held]).tolist() == [1, 2]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(6))


# --- domain-incremental


@properties
@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_permutations_can_be_undone(seed, across_channels, first_identity):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8, generator=generator)
    data = from_arrays(x, [0, 1] * 3, x, [0, 1] * 3)
    stream = permuted(data, 3, seed=seed, first_identity=first_identity, across_channels=across_channels)
    assert stream.label_space == "shared"
    assert torch.equal(stream.train(0).x, x) == first_identity
    n_pixels = 60 if across_channels else 20
    for index in (1, 2):
        order = torch.randperm(n_pixels, generator=named_generator("permutation", seed, index))
        back = torch.argsort(order)
        there = stream.train(index).x.reshape(6, -1, n_pixels)
        assert torch.equal(there[:, :, back].reshape(x.shape), x)
        assert torch.equal(stream.test(index).x, stream.train(index).x)
        assert torch.equal(stream.train(index).y, data.train_y)
    assert not torch.equal(stream.train(1).x, stream.train(2).x)


def test_permutation_of_a_task_does_not_depend_on_the_number_of_tasks(make_data):
    data = make_data()
    assert torch.equal(permuted(data, 2, seed=5).train(1).x, permuted(data, 9, seed=5).train(1).x)


def test_right_angles_are_exact(make_data):
    data = make_data(shape=(3, 5, 5))
    stream = rotated(data, angles=[0, 90, -90, 180, 360])
    for index, turns in enumerate((0, 1, -1, 2, 0)):
        assert torch.equal(stream.train(index).x, torch.rot90(data.train_x, turns, (2, 3)))


@properties
@given(st.floats(-360, 360), st.integers(1, 9), st.integers(1, 9))
def test_rotation_agrees_with_grid_sample(angle, height, width):
    x = torch.randint(0, 256, (2, 1, height, width), dtype=torch.uint8, generator=named_generator("pixels"))
    data = from_arrays(x[:, 0], [0, 1], x[:, 0], [0, 1])
    turned = rotated(data, angles=[angle]).train(0).x
    radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    c, s, ratio = radians.cos(), radians.sin(), height / width
    # grid_sample wants coordinates in half widths and half heights
    theta = torch.stack([torch.stack([c, -s * ratio, c * 0]), torch.stack([s / ratio, c, c * 0])])
    grid = functional.affine_grid(theta.expand(2, 2, 3), [2, 1, height, width], align_corners=False)
    expected = functional.grid_sample(x.double(), grid, align_corners=False)
    assert float((turned.double() - expected).abs().max()) <= 1


def test_angles_are_spaced_from_0_to_the_largest(make_data):
    data = make_data()
    assert rotated(data, 3, max_angle=90).options["angles"] == [0, 45, 90]
    assert rotated(data, 1).options["angles"] == [0]
    assert [t.transform for t in rotated(data, angles=[10]).tasks] == ["rotated by 10 degrees"]


def test_unusable_domain_streams_are_refused(make_data):
    data = make_data()
    for call, message in (
        (lambda: permuted(data, 0), "n_tasks must be"),
        (lambda: rotated(data), "one of the two"),
        (lambda: rotated(data, 2, angles=[1, 2]), "one of the two"),
        (lambda: rotated(data, 0), "n_tasks must be"),
        (lambda: rotated(data, angles=[]), "finite number"),
        (lambda: rotated(data, angles=[float("nan")]), "finite number"),
        (lambda: rotated(data, 2, max_angle=float("inf")), "finite number"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


# --- sequences of data sets


def test_sequence_appends_classes(make_data):
    a, b = make_data(2, name="a"), make_data(3, name="b", seed=1)
    stream = sequence([a, b], valid_fraction=0.2)
    assert [t.classes for t in stream.tasks] == [(0, 1), (2, 3, 4)]
    assert [t.name for t in stream.tasks] == ["a", "b"]
    assert stream.class_names == ("a: c0", "a: c1", "b: c0", "b: c1", "c2")
    assert torch.equal(stream.test(1).x, b.test_x)
    assert torch.equal(stream.test(1).y, b.test_y + 2)
    assert stream.data == (("a", a.fingerprint), ("b", b.fingerprint))


def test_sequence_with_shared_labels(make_data):
    a, b = make_data(name="a"), make_data(name="b", seed=1)
    stream = sequence([a, b], shared_labels=True)
    assert stream.label_space == "shared"
    assert stream.class_names == a.class_names
    assert torch.equal(stream.train(1).y, b.train_y)
    with pytest.raises(ConfigError, match="same class names"):
        sequence([a, make_data(2, name="b")], shared_labels=True)


def test_sequence_refuses_other_shapes_and_nothing(make_data):
    with pytest.raises(
        ConfigError, match=r"got \[1, 4, 4\] \(a\) and \[3, 4, 4\] \(b\).*resize\(\)"
    ) as caught:
        sequence([make_data(name="a"), make_data(name="b", shape=(3, 4, 4))])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="at least one"):
        sequence([])


def all_streams(data: ImageData) -> list[Stream]:
    """One of each builder."""
    return [
        class_incremental(data, n_tasks=2, valid_fraction=0.3),
        permuted(data, 2, valid_fraction=0.3),
        rotated(data, 2, valid_fraction=0.3),
        sequence([data, data], valid_fraction=0.3),
    ]


def test_descriptions_are_json_and_differ(make_data):
    data = make_data()
    described = [json.loads(json.dumps(s.describe())) for s in all_streams(data)]
    assert described == [s.describe() for s in all_streams(data)]
    assert len({d["fingerprint"] for d in described}) == 4
    assert described[0]["tasks"][1]["class_names"] == ["c2", "c3"]


def test_fingerprint_follows_what_decides_the_samples(make_data):
    data = make_data()
    prints = {
        class_incremental(data, n_tasks=2).fingerprint,
        class_incremental(data, n_tasks=4).fingerprint,
        class_incremental(data, n_tasks=2, class_order=[1, 0, 2, 3]).fingerprint,
        class_incremental(data, n_tasks=2, valid_fraction=0.3).fingerprint,
        class_incremental(data, n_tasks=2, valid_fraction=0.3, seed=1).fingerprint,
        class_incremental(make_data(seed=1), n_tasks=2).fingerprint,
        permuted(data, 2).fingerprint,
        permuted(data, 2, seed=1).fingerprint,
        rotated(data, 2).fingerprint,
        rotated(data, 2, max_angle=90).fingerprint,
    }
    assert len(prints) == 10
    assert class_incremental(make_data(name="other"), n_tasks=2).fingerprint in prints
