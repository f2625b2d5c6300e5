"""One picture gives the same pixels in every format; what is lost is counted, what cannot be read is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engram.errors import ConfigError, DataError
from engram.streams import decode as decode_module
from engram.streams.decode import Decoder

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (6, 8), np.uint8)
COLOUR = rng.integers(0, 256, (6, 8, 3), np.uint8)
# formats without loss, with the options that make them so
LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def saved(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def decoded(*contents: bytes | Path | None, size: int | None = None) -> tuple[torch.Tensor, list[str]]:
    decoder = Decoder(image_size=size)
    (pixels,) = decoder.decode([[(f"image {k}", content) for k, content in enumerate(contents)]])
    return pixels, decoder.notes()


def png(header: tuple[int, ...], rows: list[bytes], extra: bytes = b"") -> bytes:
    """A PNG of any depth and colour type, which Pillow cannot write; extra is put before the pixels."""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", *header)),
            extra,
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        )
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_grey_and_colour_are_the_same_in_every_format(kind):
    if kind != "AVIF":  # which rounds colours
        x, notes = decoded(saved(COLOUR, kind, **LOSSLESS[kind]))
        assert torch.equal(x[0], torch.from_numpy(COLOUR).permute(2, 0, 1))
        assert notes == []
    x, notes = decoded(saved(GREY, kind, **LOSSLESS[kind]))
    assert torch.equal(x[0, 0], torch.from_numpy(GREY))
    assert x.shape[1] == 1
    assert notes == []


def test_palettes_give_their_colours():
    few = (COLOUR // 128 * 255).astype(np.uint8)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        x, notes = decoded(
            saved(Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=8), kind)
        )
        assert torch.equal(x[0], torch.from_numpy(few).permute(2, 0, 1))
        assert notes == []
    reverse = Image.fromarray(GREY, "P")
    reverse.putpalette([255 - v // 3 for v in range(768)])  # a palette of greys is grey
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        x, _ = decoded(saved(reverse, kind))
        assert torch.equal(x, 255 - torch.from_numpy(GREY)[None, None])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_counts_in_every_format(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    forms = {kind: options for kind, options in LOSSLESS.items() if kind in ("PNG", "TIFF", "WEBP")}
    shown = {k: decoded(saved(COLOUR, k, exif=exif, **options))[0] for k, options in forms.items()}
    turned = torch.from_numpy(COLOUR).permute(2, 0, 1)
    if orientation >= 5:
        turned = turned.transpose(1, 2)  # 5: mirrored along the diagonal
    turns = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}
    turned = turned.flip(turns.get(orientation, []))
    for kind, x in shown.items():
        assert torch.equal(x[0], turned), kind
    for kind in ("JPEG", "AVIF"):
        x, _ = decoded(
            saved(np.kron(COLOUR // 2, np.ones((16, 16, 1), np.uint8)), kind, exif=exif, quality=95)
        )
        assert x.shape[2:] == (16 * turned.shape[1], 16 * turned.shape[2])
        middle = x[0, :, 8::16, 8::16].int()
        assert float((middle - turned.int() // 2).abs().float().mean()) < 12, kind


def test_transparency_is_laid_over_black_and_counted_where_there_is_any():
    alpha = rng.integers(0, 256, (6, 8, 1), np.uint8)
    alpha[0] = 0
    want = torch.from_numpy(np.floor(COLOUR * (alpha / 255) + 0.5).astype(np.uint8)).permute(2, 0, 1)
    for kind in ("PNG", "TIFF", "WEBP"):  # WebP changes the colour of what cannot be seen
        x, notes = decoded(saved(np.concatenate([COLOUR, alpha], 2), kind, **LOSSLESS[kind]))
        assert torch.equal(x[0], want)
        assert notes == ["transparency of 1 images laid over black"]
    opaque = np.concatenate([COLOUR, np.full_like(alpha, 255)], 2)
    for kind in ("PNG", "TIFF", "WEBP", "JPEG2000"):
        x, notes = decoded(saved(opaque, kind, **LOSSLESS[kind]))
        assert torch.equal(x[0], torch.from_numpy(COLOUR).permute(2, 0, 1))
        assert notes == []
    seen = np.where(GREY[2, 3] == GREY, 0, GREY)
    for content in (  # one grey is transparent: as a key, in a palette, with an alpha channel
        saved(GREY, "PNG", transparency=int(GREY[2, 3])),
        saved(GREY, "GIF", transparency=int(GREY[2, 3])),
        saved(
            Image.fromarray(np.stack([GREY, np.where(GREY[2, 3] == GREY, 0, 255).astype(np.uint8)], 2)), "PNG"
        ),
    ):
        x, notes = decoded(content)
        assert torch.equal(x[0], torch.from_numpy(seen)[None])
        assert notes == ["transparency of 1 images laid over black"]
    bits = png((8, 2, 1, 0, 0, 0, 0), [b"\xaa", b"\x0f"], chunk(b"tRNS", b"\0\1"))  # white is transparent
    assert int(decoded(bits)[0].max()) == 0


def test_frames_after_the_first_are_counted():
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 60, 90)]
    contents = [
        saved(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "TIFF", "PNG")
    ]
    x, notes = decoded(*contents, saved(frames[2], "PNG"))
    assert x.flatten(1)[:, 0].tolist() == [10, 10, 10, 90]
    assert notes == ["6 frames after the first left out of 3 images"]


def test_more_than_eight_bits_are_refused_in_every_format():
    wide = GREY.astype(np.uint16) * 257
    three = np.repeat(wide.astype(">u2")[..., None], 3, 2)
    j2k = bytearray(saved(COLOUR, "JPEG2000"))
    j2k[j2k.index(b"\xff\x4f\xff\x51") + 42] = 11  # 12 bits in the first channel
    contents = {
        "grey PNG": saved(wide, "PNG"),
        "colour PNG": png((8, 6, 16, 2, 0, 0, 0), [row.tobytes() for row in three]),
        "grey and alpha PNG": png((8, 6, 16, 4, 0, 0, 0), [row[:, :2].tobytes() for row in three]),
        "grey TIFF": saved(wide, "TIFF"),
        "float TIFF": saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        "signed TIFF": saved(GREY, "TIFF", tiffinfo={339: 2}),
        "grey JPEG 2000": saved(wide, "JPEG2000"),
        "colour JPEG 2000": bytes(j2k),
        "grey PPM": b"P5 8 6 65535\n" + wide.astype(">u2").tobytes(),
        "colour PPM": b"P6 8 6 1023\n" + (three // 64).astype(">u2").tobytes(),
    }
    for what, content in contents.items():
        with pytest.raises(DataError, match="image 0 must be a usable image, got more than 8 bits") as caught:
            decoded(content)
        assert "\n" not in str(caught.value), what
    few = png((8, 2, 4, 0, 0, 0, 0), [bytes([0x01, 0x23, 0x45, 0x67]), bytes([0x89, 0xAB, 0xCD, 0xEF])])
    assert decoded(few)[0].flatten().tolist() == [17 * v for v in range(16)]  # fewer bits are scaled


def test_avif_of_ten_bits_is_known_by_its_header():
    content = bytearray(saved(COLOUR, "AVIF"))
    with Image.open(io.BytesIO(content)) as image:
        assert not decode_module._is_deep(image, io.BytesIO(content))
        content[content.index(b"av1C") + 6] |= 0x40  # high_bitdepth; Pillow writes none such
        assert decode_module._is_deep(image, io.BytesIO(content))


def test_vector_and_page_formats_are_not_opened():
    for kind in ("EPS", "PDF", "ICO"):
        with pytest.raises(DataError, match="no image of a kind that is read"):
            decoded(saved(COLOUR, kind))


def test_all_unusable_images_are_named_at_once(tmp_path):
    (tmp_path / "link.png").symlink_to("/nowhere/x.png")
    bad = [b"", None, saved(GREY, "PNG")[:60], tmp_path / "link.png"]
    with pytest.raises(DataError) as caught:
        decoded(saved(GREY, "PNG"), *bad, *[b"no image"] * 30)
    text = str(caught.value)
    assert "got 34 that are not (image 1: " in text
    assert "image 2: no image; " in text
    assert "image 4: a link that leads nowhere" in text
    assert "image 20: " in text
    assert "image 21: " not in text
    assert "; and 14 more)" in text
    assert "\n" not in text


def test_the_limit_on_pixels_says_how_to_raise_it(monkeypatch):
    monkeypatch.setenv("ENGRAM_MAX_PIXELS", "47")
    with pytest.raises(DataError, match=r"8x6 pixels, more than 47 \(set ENGRAM_MAX_PIXELS"):
        decoded(saved(GREY, "PNG"))
    monkeypatch.setenv("ENGRAM_MAX_PIXELS", "48")
    assert decoded(saved(GREY, "PNG"))[0].shape == (1, 1, 6, 8)
    monkeypatch.setenv("ENGRAM_MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match="ENGRAM_MAX_PIXELS must be a whole number"):
        decoded(saved(GREY, "PNG"))
    monkeypatch.delenv("ENGRAM_MAX_PIXELS")
    header = png((30000, 30000, 8, 2, 0, 0, 0), [])  # Pillow's own limit would speak of an attack
    with pytest.raises(DataError, match=r"30000x30000 pixels, more than 40,000,000 \(set ENGRAM_MAX_PIXELS"):
        decoded(header)


def test_large_jpegs_are_decoded_near_the_size_that_is_needed(monkeypatch):
    monkeypatch.setattr(decode_module, "DRAFT_PIXELS", 5000)
    smooth = np.add.outer(np.arange(160), np.arange(80)).astype(np.uint8)
    exact = decoded(saved(smooth, "PNG"), size=10)[0]
    for progressive in (False, True):
        x, notes = decoded(saved(smooth, "JPEG", quality=95, progressive=progressive), size=10)
        assert float((x.int() - exact.int()).abs().float().max()) < 6
        assert [note for note in notes if "reduced size" in note] == [
            "1 JPEG images of more than 5,000 pixels decoded at a reduced size"
        ]
    monkeypatch.setenv("ENGRAM_MAX_PIXELS", "3200")  # a quarter of the pixels is within it
    assert decoded(saved(smooth, "JPEG", quality=95), size=10)[0].shape == (1, 1, 10, 10)
    for how in ({"size": None}, {"size": 10, "progressive": True}):  # as a whole, or held whole
        with pytest.raises(DataError, match="80x160 pixels, more than 3,200"):
            decoded(saved(smooth, "JPEG", quality=95, progressive="progressive" in how), size=how["size"])
