"""A memory as a classifier of scikit-learn: for pipelines, cross-validation, and samples that are vectors or images."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from engram.memory.memory import Memory
from engram.memory.model import Model
from engram.memory.rule import given, is_single
from engram.memory.settings import Settings


class MemoryClassifier(ClassifierMixin, BaseEstimator):
    """Learns classes as they come, in main memory; `save` makes a memory on disk of it.

    ``fit`` begins anew; ``partial_fit`` adds the classes of ``y``, new ones, or known ones where the method can.
    Samples are vectors [N, D], or images in any form of `engram.memory.rule.given`.

    Args:
        method, features, network, image_size, channels, valid_fraction, seed: see `engram.memory.settings.Settings`.
        method_options, features_options, network_options: by name; None for the defaults.

    Attributes:
        classes_: the labels known, in order of arrival, those that came together sorted; columns of `predict_proba`.
        model_: what was learned.

    Raises:
        ValueError: settings or samples that cannot be used, from `fit` on.
    """

    classes_: NDArray[Any]
    model_: Model

    def __init__(
        self,
        method: str = "slda",
        features: str | None = "auto",
        network: str | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        valid_fraction: float = 0.1,
        seed: int = 0,
        method_options: Mapping[str, Any] | None = None,
        features_options: Mapping[str, Any] | None = None,
        network_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.features = features
        self.network = network
        self.image_size = image_size
        self.channels = channels
        self.valid_fraction = valid_fraction
        self.seed = seed
        self.method_options = method_options
        self.features_options = features_options
        self.network_options = network_options

    def fit(self, X: Any, y: Any) -> MemoryClassifier:
        """Learn these classes and no others."""
        return self._learn(X, y, reset=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> MemoryClassifier:
        """Learn these classes beside those known. ``classes`` is what scikit-learn passes, and is not needed."""
        return self._learn(X, y, reset=not hasattr(self, "model_"))

    def _learn(self, X: Any, y: Any, *, reset: bool) -> MemoryClassifier:
        samples, labels = self._checked(X, y, reset=reset)
        values, places = np.unique(labels, return_inverse=True)
        model = Model(self._settings()) if reset else self._copy()
        x, _ = model.prepare(samples)
        names = [str(value) for value in values]
        model.check(torch.from_numpy(places), names, refine=not reset)
        model.learn(x, torch.from_numpy(places), names)
        known = values[:0] if reset else self.classes_
        self.classes_ = np.concatenate([known, values[~np.isin(values, known)]])
        self.model_ = model
        return self

    def _settings(self) -> Settings:
        options = {
            k: v
            for k, v in self.get_params(deep=False).items()
            if not k.endswith("_options") or v is not None
        }
        return Settings(**options)

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, NDArray[Any]]:
        """Samples as `Model.prepare` takes them, and labels; vectors pass the checks of scikit-learn."""
        if _are_vectors(X):
            X, y = validate_data(self, X, y, reset=reset, dtype=np.float32)
            samples: Any = torch.from_numpy(np.ascontiguousarray(X))
        else:
            samples, y = given(X), column_or_1d(y, warn=True)
            if len(samples) != len(y):
                raise ValueError(f"labels must be one an image, got {len(y)} for {len(samples)} images.")
        check_classification_targets(y)
        return samples, y

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities [N, classes], in the order of `classes_`."""
        logits = self._logits(X)
        return self.model_.calibrated(logits).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of each sample."""
        probabilities = self.predict_proba(X)
        found: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return found

    def rejects(self, X: Any, share: float = 0.05) -> NDArray[np.bool_]:
        """Whether each sample is of none of the known classes, bool [N]; see `engram.memory.model.Model.rejected`."""
        logits = self._logits(X)
        return self.model_.rejected(logits, share).numpy()

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self)
        if _are_vectors(X):
            X = torch.from_numpy(np.ascontiguousarray(validate_data(self, X, reset=False, dtype=np.float32)))
        samples = X if isinstance(X, Tensor) else given(X)
        return self.model_.logits(self.model_.prepare(samples)[0])

    # Keeping -----------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Memory:
        """A new memory in the folder ``path`` that knows the same; `Memory.open` and the commands read it."""
        check_is_fitted(self)
        memory = Memory.create(path)
        memory.model = self._copy()
        memory.keep()
        return memory

    def _copy(self) -> Model:
        facts, files = self.model_.files()
        return Model.of_files(json.loads(json.dumps(facts)), files)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = self.model_.files()  # JSON and safetensors, as on disk
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        state = dict(state)
        if "model_" in state:
            state["model_"] = Model.of_files(*state["model_"])
        super().__setstate__(state)


def _are_vectors(X: Any) -> bool:
    """Whether these are for scikit-learn to check: all that is no image by its kind or its axes."""
    if isinstance(X, (list, tuple)):
        return not any(map(is_single, X))
    return len(getattr(X, "shape", ())) < 3
