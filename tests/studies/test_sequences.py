"""One data set after another from settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from engram.errors import ConfigError
from engram.studies.building import prepare
from engram.studies.settings import DataSettings, NetworkSettings


def test_each_data_set_is_a_task():
    settings = DataSettings(data="digits:0-1+digits:2-4", scenario="task")
    stream, _ = prepare(settings, NetworkSettings("mlp"))
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3, 4)]
    assert stream.class_names == tuple("01234")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"scenario": "domain"}, "scenario must be task or class"),
        ({"tasks": 3}, "tasks must be left out"),
        ({"groups": (1, 1)}, "groups must be left out"),
        ({"class_order": "random"}, "class_order must be left out"),
    ],
)
def test_what_a_sequence_cannot_do(more: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        DataSettings(**{"data": "digits:0-1+digits:2-3", "scenario": "task", **more})  # type: ignore[arg-type]


def test_a_folder_with_a_plus_sign_is_one_data_set(tmp_path: Path):
    (tmp_path / "a+b").mkdir()
    assert DataSettings(data=str(tmp_path / "a+b")).sets == (str(tmp_path / "a+b"),)
