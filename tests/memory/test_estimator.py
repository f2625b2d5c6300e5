"""A memory as a classifier of scikit-learn."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from letters import draw
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

import engram
from engram.memory.memory import Memory


@parametrize_with_checks([engram.MemoryClassifier()])
def test_the_checks_of_scikit_learn(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_the_checks_are_there() -> None:
    assert sum(1 for _ in estimator_checks_generator(engram.MemoryClassifier())) > 40


def blobs(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat([3, 5, 9], n)
    return rng.normal(size=(3 * n, 4)) + np.eye(4)[y // 4] * 4, y


def test_in_a_pipeline_and_cross_validated() -> None:
    x, y = blobs()
    pipeline = make_pipeline(StandardScaler(), engram.MemoryClassifier("ncm", seed=1))
    assert cross_val_score(clone(pipeline), x, y, cv=3).min() > 0.9
    pipeline.fit(x, y)
    assert pipeline.classes_.tolist() == [3, 5, 9]


def test_classes_come_one_after_another() -> None:
    x, y = blobs()
    known = engram.MemoryClassifier(valid_fraction=0.0)
    for label in (9, 3, 5):
        known.partial_fit(x[y == label], y[y == label])
    assert known.classes_.tolist() == [9, 3, 5]
    at_once = engram.MemoryClassifier(valid_fraction=0.0).fit(x, y)
    assert np.allclose(known.predict_proba(x)[:, [1, 2, 0]], at_once.predict_proba(x), atol=1e-5)
    assert at_once.score(x, y) > 0.95
    again = pickle.loads(pickle.dumps(known))
    assert np.array_equal(again.predict(x), known.predict(x))


def test_images_of_all_kinds(tmp_path: Path) -> None:
    paths = sorted(draw(tmp_path / "images", "ab").rglob("*.png"))
    names = [path.parent.name for path in paths]
    known = engram.MemoryClassifier("slda", features="pixels").fit(paths, names)
    assert known.score([str(path) for path in paths], names) == 1.0
    x = torch.zeros((2, 1, 8, 8), dtype=torch.uint8)
    assert known.predict_proba(x).shape == (2, 2)
    with pytest.raises(ValueError, match="one an image"):
        known.fit(paths, names[1:])


def test_saved_it_is_a_memory(tmp_path: Path) -> None:
    paths = sorted(draw(tmp_path / "images", "ab").rglob("*.png"))
    known = engram.MemoryClassifier("slda", features="pixels").fit(
        paths, [path.parent.name for path in paths]
    )
    known.save(tmp_path / "memory")
    stored = Memory.open(tmp_path / "memory")
    assert np.array_equal(stored.predict_proba(paths), known.predict_proba(paths))
    stored.learn({"c": sorted(draw(tmp_path / "c", "c").rglob("*.png"))})
    assert stored.classes_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="is one already"):
        known.save(tmp_path / "memory")
