"""Every recipe is complete and valid, and the default one is chosen by the data."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from calling import Call
from engram.errors import ConfigError
from engram.methods.registry import method
from engram.recipes import DEFAULT_FOR_DATA, RECIPES, chosen_recipe, recipe
from engram.studies.building import build_network
from engram.studies.settings import DataSettings, NetworkSettings


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_is_valid(name: str):
    found = recipe(name)
    assert found.name == name
    assert "\n" not in found.summary
    assert found.origin
    DataSettings(**found.data)
    if found.network is not None:
        build_network(NetworkSettings(found.network, found.network_options), found.network)
    assert found.methods
    for method_name, options in found.methods.items():
        method(method_name, options)


def test_is_frozen():
    found = recipe("digits")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.methods["dgmw"]["epochs"] = 1  # type: ignore[index]


def test_the_papers_numbers():
    w, a = recipe("dgmw-mnist").methods["dgmw"], recipe("dgma-mnist").methods["dgma"]
    assert (w["epochs"], w["batch_size"], w["lr_g"], w["s_max"], w["lambda_ru"]) == (101, 64, 2e-3, 1e4, 0.08)
    assert (a["epochs"], a["batch_size"], a["lr_g"], a["s_max"], a["lambda_ru"]) == (101, 64, 2e-3, 1e5, 0.01)
    assert recipe("dgmw-mnist-official").methods["dgmw"]["annealing"] == "official"


def test_choice():
    assert chosen_recipe("none", "digits") is None
    assert chosen_recipe(None, "somewhere/else") is None
    for data, name in DEFAULT_FOR_DATA.items():
        chosen = chosen_recipe(None, data)
        assert chosen is not None
        assert chosen.name == name
    with pytest.raises(ConfigError, match="did you mean digits"):
        chosen_recipe("digit", "digits")


def test_defaults_recipe_file_command_line(call: Call, tmp_path):
    """Each wins over the one before it."""

    def epochs(*argv: object) -> int:
        done = call("run", "finetune", *argv, "--print-config")
        assert done.code == 0, done.err
        return int(yaml.safe_load(done.out)["finetune"]["epochs"])

    (tmp_path / "c.yaml").write_text("recipe: finetune-splitmnist\nfinetune: {epochs: 7}\n")
    assert epochs("--recipe", "none") == method("finetune").config.epochs
    assert epochs("--recipe", "finetune-splitmnist") == 1
    assert epochs("--config", tmp_path / "c.yaml") == 7
    assert epochs("--finetune.epochs", 8, "--config", tmp_path / "c.yaml") == 8


def test_cifar_recipes_name_six_data_sets():
    for name in ("si-cifar", "si-cifar-short"):
        settings = DataSettings(**recipe(name).data)
        assert len(settings.sets) == 6
        assert [s.rpartition(":")[2] for s in settings.sets[1:]] == [f"{k}-{k + 9}" for k in range(0, 50, 10)]
    assert "stand-in" in recipe("si-cifar-short").summary


def test_a_recipe_for_images_lends_features_what_holds_of_vectors():
    found = chosen_recipe("mnist-quick", "mnist", "scattering")
    assert found is not None
    assert found.network is None
    assert found.methods["joint"] == {"at": ()}
    whole = recipe("mnist-quick").methods["dgmw"]
    assert {k: whole[k] for k in whole if k not in found.methods["dgmw"]} == {
        "solver_rotate": 10.0,
        "solver_shift": 2.0,
    }
    own = chosen_recipe("closed-form-photos", "cifar10", "scattering")
    assert own == recipe("closed-form-photos") == chosen_recipe("closed-form-photos", "cifar10")
    assert chosen_recipe(None, "digits", "none") == recipe("digits")
