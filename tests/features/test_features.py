"""Fixed features: a stream seen through them, what they are kept as, and what they know of data."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import engram
from engram import features
from engram.core.samples import Samples
from engram.errors import ConfigError
from engram.features.contract import extract
from engram.features.extractor import Extractor
from engram.streams.stream import Stream


@pytest.fixture(scope="module")
def images() -> Stream:
    """Five tasks of two digits."""
    return engram.class_incremental(engram.load("digits"), n_tasks=5, valid_fraction=0.1, max_per_class=40)


SMALL: dict[str, dict[str, Any]] = {
    "pixels": {},
    "fourier": {"n_features": 50},
    "scattering": {"J": 1, "L": 3},
    "first-task": {"network": "mlp", "epochs": 1},
}


def seen(images: Stream, name: str, folder: Path | None = None) -> tuple[Stream, Extractor]:
    view = Extractor(features.make(name, SMALL[name]), images.image_shape, folder)
    return images.through(view), view


@pytest.mark.parametrize("name", features.FEATURES)
def test_every_split_becomes_vectors_with_its_labels(images: Stream, name: str):
    vectors, view = seen(images, name)
    assert vectors.image_shape == view.shape
    for split in (Stream.train, Stream.valid, Stream.test):
        found, pixels = split(vectors, 2), split(images, 2)
        assert found.x.shape == (len(pixels), *view.shape)
        assert found.x.dtype == torch.float32
        assert torch.equal(found.y, pixels.y)


@pytest.mark.parametrize("name", features.FEATURES)
def test_an_image_has_the_same_bits_whatever_is_computed_with_it(images: Stream, name: str):
    whole, view = seen(images, name)
    x = images.train(1).x
    found = whole.train(1).x
    alone = [extract(view.module, x[:n], view.features.block) for n in (1, 3)]
    assert torch.equal(torch.cat([alone[0], found[1:3]]), alone[1])


@pytest.mark.parametrize("name", features.FEATURES)
def test_what_is_kept_is_what_was_computed(
    images: Stream, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, view = seen(images, name, tmp_path)
    found, seconds = first.train(1).x, view.seconds
    monkeypatch.setattr("engram.features.extractor.extract", None)  # nothing is computed twice
    again, view = seen(images, name, tmp_path)
    assert torch.equal(again.train(1).x, found)
    assert view.seconds == seconds > 0


def test_vectors_that_are_overwritten_change_no_file(images: Stream, tmp_path: Path):
    vectors, _ = seen(images, "pixels", tmp_path)
    found = vectors.train(0).x.clone()
    vectors.overwrite_train(0, torch.Generator().manual_seed(0))
    assert not torch.equal(vectors.train(0).x, found)
    assert torch.equal(seen(images, "pixels", tmp_path)[0].train(0).x, found)


def test_a_damaged_file_is_found_and_computed_again(images: Stream, tmp_path: Path):
    found = seen(images, "pixels", tmp_path)[0].train(0).x.clone()
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(seen(images, "pixels", tmp_path)[0].train(0).x, found)


def test_a_folder_that_cannot_be_written_is_said(images: Stream, tmp_path: Path):
    (tmp_path / "file").touch()
    vectors, _ = seen(images, "pixels", tmp_path / "file")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert len(vectors.train(0).x)


def test_a_folder_holds_no_more_than_it_may(images: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    vectors, _ = seen(images, "pixels", tmp_path)
    vectors.train(0)
    (oldest,) = tmp_path.glob("*.safetensors")
    monkeypatch.setattr("engram.features.extractor.ON_DISK", oldest.stat().st_size + 1)
    vectors.train(1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert not oldest.exists()


def test_the_fingerprint_is_of_images_and_features(images: Stream):
    a, b = (seen(images, name)[0] for name in ("pixels", "scattering"))
    assert len({images.fingerprint, a.fingerprint, b.fingerprint}) == 3
    assert a.images.fingerprint == images.fingerprint
    assert a.images.image_shape == images.image_shape


def test_features_of_the_first_task_see_no_other(images: Stream):
    vectors, view = seen(images, "first-task")
    vectors.test(3)  # whatever is asked first
    only = Extractor(view.features, images.image_shape)
    only.fit(Samples(images.train(0).x, images.train(0).y))
    assert all(
        torch.equal(a, b) for a, b in zip(view.module.parameters(), only.module.parameters(), strict=True)
    )
    assert view.storage_bytes() == sum(p.nbytes for p in view.module.parameters())
    untrained = Extractor(features.make("first-task", {"network": "mlp", "epochs": 2}), images.image_shape)
    untrained.fit(images.train(0))
    assert not torch.equal(*(next(v.module.parameters()) for v in (view, untrained)))


def test_a_first_task_of_one_class_is_refused():
    one = engram.class_incremental(engram.load("digits"), n_tasks=10)
    with pytest.raises(ConfigError, match="at least two classes"):
        seen(one, "first-task")[0].train(0)


def test_fourier_features_approach_their_kernel():
    view = Extractor(features.make("fourier", {"n_features": 20_000, "gamma": 0.05}), (1, 4, 4))
    x = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    z, pixels = view(x), x.flatten(1).double() / 255
    wanted = torch.exp(-0.05 * torch.cdist(pixels, pixels) ** 2)
    assert (z @ z.T - wanted).abs().max() < 5 / math.sqrt(20_000)
    other = Extractor(features.make("fourier", {"n_features": 20_000, "gamma": 0.05, "seed": 1}), (1, 4, 4))
    assert not torch.equal(other(x), z)
    assert view.storage_bytes() == 0


def test_pixels_are_pixels():
    view = Extractor(features.make("pixels"), (1, 2, 2))
    assert torch.equal(view(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)), torch.full((3, 4), 0.5))


def test_the_opponents_of_grey_are_nothing():
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8).expand(-1, 3, -1, -1)
    found = Extractor(features.make("scattering", {"J": 1, "L": 3, "floor": 0.0, "coarse": 1}), (3, 8, 8))(
        grey
    )
    intensity, *opponents = found.chunk(3, 1)
    assert all(part.abs().max() < 1e-5 < intensity.abs().max() for part in opponents)


def test_mirror_images_have_the_same_features_at_half_the_width():
    options = {"J": 2, "L": 4}
    both, half = (
        Extractor(features.make("scattering", {**options, "mirror": mirror}), (3, 16, 16))
        for mirror in (False, True)
    )
    assert 2 * half.shape[0] == both.shape[0]
    x = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for view, same in ((half, True), (both, False)):
        assert ((view(x) - view(x.flip(-1))).abs().max() < 0.1) == same


# One's own ------------------------------------------------------------------------------------------------------------
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())

class Broken(nn.Module):
    def forward(self, x):
        return x.sum()
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    """``FILE.py:NAME`` of a file with a small network."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return lambda name: f"{path}:{name}"


def test_a_network_of_ones_own_with_its_weights(images: Stream, own: Callable[[str], str], tmp_path: Path):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    given = features.make(own("net"), weights=str(tmp_path / "w.safetensors"), trained_on="nothing much")
    view = Extractor(given, images.image_shape)
    x = images.test(0).x
    torch.testing.assert_close(view(x), net(x.float() / 255).detach())
    assert view.describe()["trained_on"] == "nothing much"
    assert view.storage_bytes() == sum(p.nbytes for p in net.parameters())
    bare = Extractor(features.make(own("net")), images.image_shape)
    assert bare.digest != view.digest
    assert torch.equal(bare(x), Extractor(features.make(own("net")), images.image_shape)(x))  # begins alike
    assert bare.describe()["trained_on"] == "not said"


def wrong_shape(path: Path) -> None:
    save_file({"1.weight": torch.zeros(6, 64), "1.bias": torch.zeros(7)}, path)


def missing(path: Path) -> None:
    save_file({"1.weight": torch.zeros(6, 64)}, path)


def no_file_of_weights(path: Path) -> None:
    path.write_bytes(b"weights")


@pytest.mark.parametrize("spoil", [wrong_shape, missing, no_file_of_weights])
def test_weights_that_do_not_fit_are_refused(
    spoil: Callable[[Path], None], own: Callable[[str], str], tmp_path: Path
):
    path = tmp_path / "w.safetensors"
    spoil(path)
    with pytest.raises(ConfigError, match=r"weights must be a safetensors file that fits net"):
        features.make(own("net"), weights=str(path)).module((1, 8, 8))


def test_what_gives_no_vectors_is_refused(own: Callable[[str], str]):
    with pytest.raises(ConfigError, match="must give float32"):
        features.make(own("Broken")).module((1, 8, 8))
    with pytest.raises(ConfigError, match="must take images"):
        features.make(own("net")).module((1, 9, 9))


def test_numbers_that_are_none_are_refused():
    class Nothing(nn.Module):
        n_features = 2

        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), math.nan)

    with pytest.raises(ConfigError, match="must be finite"):
        extract(Nothing(), torch.zeros(3, 1, 2, 2, dtype=torch.uint8), 2)


def test_features_of_vectors_are_refused(images: Stream):
    vectors, view = seen(images, "pixels")
    with pytest.raises(ConfigError, match="holds vectors"):
        vectors.through(view)
    with pytest.raises(ConfigError, match="are of images"):
        Extractor(features.make("scattering"), (7,))


def test_a_network_of_timm(tmp_path: Path):
    timm = pytest.importorskip("timm", reason="timm is an extra, and needs torchvision")
    net = timm.create_model("resnet18", num_classes=0)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    given = features.make("timm:resnet18", weights=str(tmp_path / "w.safetensors"), trained_on="nothing")
    view = Extractor(given, (3, 32, 32))
    assert view.shape == (512,)
    assert view(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 512)


def test_images_too_small_for_the_scales_are_refused_before_anything_is_computed():
    found = features.make("scattering", {"J": 3, "L": 2})
    with pytest.raises(ConfigError, match=r"needs images of more than 8 pixels squared, got 8x8[^\n]+$"):
        found.module((1, 8, 8))
    blank = torch.zeros(2, 1, 9, 9, dtype=torch.uint8)
    assert extract(found.module((1, 9, 9)), blank, 4).isfinite().all()
