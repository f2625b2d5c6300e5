"""Fixed features on the command line: options, results, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engram
from calling import Call, Refused
from engram.learning.learner import Learner
from engram.studies.results import read, read_result

SMALL = ["--data", "stripes", "--tasks", 3, "--recipe", "none", "--device", "cpu", "--quiet"]
SCATTERING = ["--features", "scattering", "--scattering.J", 1, "--scattering.L", 2]


def test_a_run_on_features_says_so_everywhere(call: Call, tmp_path: Path):
    out = tmp_path / "run"
    done = call("run", "finetune", *SMALL, *SCATTERING, "--finetune.epochs", 1, "--out", out)
    assert done.code == 0, done.err
    assert "scattering, d = 48, trained on: nothing" in " ".join(done.out.split())
    found = read_result(out)
    assert found["config"]["features"]["options"]["L"] == 2
    assert found["data"]["image_shape"] == [1, 8, 8]
    (seed,) = found["seeds"]
    assert seed["storage_bytes"]["features"] == 0
    features = sum(task["features"]["seconds"] for task in seed["tasks"])
    assert 0 < features < seed["seconds"]
    assert Learner.load(out / "seed-0").method.context.image_shape == (48,)
    again = call("run", "finetune", "--config", out / "config.yaml", "--out", tmp_path / "again", "--quiet")
    assert again.code == 0, again.err
    assert read_result(tmp_path / "again")["seeds"][0]["accuracy_matrix"] == seed["accuracy_matrix"]


def test_the_same_from_python(call: Call, tmp_path: Path):
    outcome = engram.compare(
        ["finetune"],
        engram.DataSettings(data="stripes", tasks=3),
        features=engram.FeatureSettings("scattering", {"J": 1, "L": 2}),
        options={"finetune": {"epochs": 1}},
        out=tmp_path / "a",
    )
    given = engram.compare(
        ["finetune"],
        engram.DataSettings(data="stripes", tasks=3),
        features=engram.fixed_features("scattering", J=1, L=2),
        options={"finetune": {"epochs": 1}},
        out=tmp_path / "b",
    )
    matrices = [o.results[0]["seeds"][0]["accuracy_matrix"] for o in (outcome, given)]
    assert matrices[0] == matrices[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--features", "scaterring"], "did you mean scattering"),
        (["--features", "scattering", "--scattering.J", 4], "more than 16 pixels"),
        (["--features", "scattering", "--network", "dcgan8"], "must be images"),
        (["--features", "pixels", "--scattering.J", 1], "give --features scattering"),
        (["--features", "pixels", "--weights", "w"], "--weights must be left out with features pixels"),
        (["--weights", "w"], "must be left out without features"),
        (["--features", "none", "--trained-on", "w"], "must be left out without features"),
        (["--features", "timm:resnet18"], "need the package timm"),
        (
            ["--features", "first-task", "--first-task.epochs", 0],
            "--first-task.epochs must be an integer >= 1, got",
        ),
        (
            ["--features", "first-task", "--first-task.seed", -1],
            "--first-task.seed must be an integer >= 0, got",
        ),
        (["--features", "first-task", "--first-task.network", "nope"], "--first-task.network must be one of"),
        (["--features", "first-task", "--first-task.network", "mlp", "--tasks", 10], "at least two classes"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: list[object], line: str, refused: Refused, tmp_path: Path):
    assert line in refused("run", "finetune", *SMALL, *words, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "given", [{"weights": "w"}, {"name": "pixels", "trained_on": "x"}, {"options": {"J": 1}}]
)
def test_settings_of_features_that_have_no_use_are_refused(given: dict[str, Any], tmp_path: Path):
    data, seen = engram.DataSettings(data="stripes", tasks=3), engram.FeatureSettings(**given)
    with pytest.raises(engram.EngramError, match="must be left out with"):
        engram.compare(["finetune"], data, features=seen, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_variants_have_features_of_their_own(call: Call, tmp_path: Path):
    out = tmp_path / "both"
    variants = ["finetune", "finetune:features=scattering[J=1,L=2]", "finetune:features=pixels"]
    done = call("compare", *variants, *SMALL, "--finetune.epochs", 1, "--out", out)
    assert done.code == 0, done.err
    assert "fingerprint" not in done.out  # the images are the same
    found = {f.result["label"]: f for f in read(out).results}
    features = [f.result["config"].get("features") for f in found.values()]
    assert features[0] is None
    assert [f["name"] for f in features[1:]] == ["scattering", "pixels"]
    assert [f.result["config"]["network"]["name"] for f in found.values()] == ["dcgan8", "mlp", "mlp"]
    one = found[variants[1]]
    again = call(
        "run", "finetune", "--config", one.directory / "config.yaml", "--out", tmp_path / "a", "--quiet"
    )
    assert again.code == 0, again.err
    assert (
        read_result(tmp_path / "a")["seeds"][0]["accuracy_matrix"]
        == one.result["seeds"][0]["accuracy_matrix"]
    )


def test_a_variant_may_see_images_where_others_see_features(call: Call, tmp_path: Path):
    done = call(
        *("compare", "finetune", "finetune:features=none", *SMALL, *SCATTERING),
        *("--finetune.epochs", 1, "--out", tmp_path / "both"),
    )
    assert done.code == 0, done.err
    found = [f.result["config"].get("features") for f in read(tmp_path / "both").results]
    assert found[0] is not None
    assert found[1] is None


@pytest.mark.parametrize("text", ["scattering[J=9]", "scattering[K=1]", "scattering[J=1", "fuorier"])
def test_features_of_a_variant_that_cannot_be(text: str, refused: Refused, tmp_path: Path):
    refused("compare", "finetune", f"finetune:features={text}", *SMALL, "--out", tmp_path / "out")
