"""Every kind of picture a camera or a person may send."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facewire.domain.errors import DecodeError
from facewire.vision.imagecodec import decode, encode_jpeg, measure, sniff

RED, GREEN, BLUE, GREY = (250, 10, 10), (10, 250, 10), (10, 10, 250), (120, 120, 120)


def quadrants() -> Image.Image:
    """Return 64 x 32 pixels: red and green above, blue and grey below."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32], pixels[:16, 32:], pixels[16:, :32], pixels[16:, 32:] = RED, GREEN, BLUE, GREY
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *extra: bytes) -> bytes:
    """Return a PNG made by hand, so that what Pillow cannot write can be read."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(raw, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def code_of(data: bytes, **limits: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data, **limits)
    assert caught.value.detail
    return caught.value.code


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"quality": 95})],
)
def test_rgb_in_all_formats(file_format: str, options: dict[str, Any]) -> None:
    data = encoded(quadrants(), file_format, **options)
    pixels = decode(data)
    assert pixels.shape == (32, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[8, 8].astype(int) - RED).max() < 25
    assert np.abs(pixels[24, 8].astype(int) - BLUE).max() < 25
    assert sniff(data) == file_format.lower()
    assert measure(data) == (file_format.lower(), 64, 32)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    file_format = "JPEG" if mode == "CMYK" else "PNG"
    image = quadrants().convert("L").point(lambda value: 255 if value > 100 else 0).convert("RGB")
    pixels = decode(encoded(image.convert(mode), file_format))
    assert pixels.shape == (32, 64, 3)
    assert np.abs(pixels.astype(int) - np.asarray(image)).max() <= 8


def test_cmyk_colours_are_not_inverted() -> None:
    pixels = decode(encoded(quadrants().convert("CMYK"), "JPEG", quality=95))
    assert pixels[8, 8, 0] > 200
    assert pixels[8, 8, 2] < 60


@pytest.mark.parametrize(("opacity", "expected"), [(255, 40), (0, 255), (128, 147)])
def test_transparency_lies_over_white(opacity: int, expected: int) -> None:
    image = Image.new("RGBA", (4, 4), (40, 40, 40, opacity))
    assert np.abs(decode(encoded(image, "PNG")).astype(int) - expected).max() <= 1
    assert np.abs(decode(encoded(image, "WEBP", lossless=True, exact=True)).astype(int) - expected).max() <= 1


def test_transparent_palette_lies_over_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([40, 40, 40, 200, 0, 0])
    assert (decode(encoded(image, "PNG", transparency=0)) == 255).all()
    assert (decode(encoded(image, "PNG", transparency=b"\x00\xff")) == 255).all()


def test_sixteen_bit_grey_is_scaled() -> None:
    samples = np.array([[0, 128, 257, 32768, 65535]], ">u2")
    pixels = decode(png(5, 1, 16, 0, b"\x00" + samples.tobytes()))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_sixteen_bit_colour_is_scaled() -> None:
    samples = np.array([[0, 32768, 65535]], ">u2")
    assert decode(png(1, 1, 16, 2, b"\x00" + samples.tobytes())).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda upright: upright,
        2: np.fliplr,
        3: lambda upright: np.rot90(upright, 2),
        4: np.flipud,
        5: lambda upright: upright.transpose(1, 0, 2),
        6: lambda upright: np.rot90(upright, 1),
        7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
        8: lambda upright: np.rot90(upright, 3),
    }
    upright = np.asarray(quadrants())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    pixels = decode(encoded(stored, file_format, exif=exif, **lossless.get(file_format, {})))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() < 40


@pytest.mark.parametrize("exif", [b"Exif\x00\x00II*\x00\xff\xff\xff\x7f", b"Exif\x00\x00MM", b"Exif\x00\x00xx", b""])
def test_unreadable_exif_is_upright(exif: bytes) -> None:
    assert decode(encoded(quadrants(), "WEBP", exif=exif)).shape == (32, 64, 3)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_first_frame_of_an_animation(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(decode(data).astype(int) - RED).max() < 12


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8", b"GIF89a" + bytes(50), b"RIFF" + bytes(20), bytes(1000)])
def test_not_an_image(data: bytes) -> None:
    assert sniff(data) is None
    assert code_of(data) == "not_an_image"


def test_other_formats_are_refused() -> None:
    for file_format in ("BMP", "GIF", "TIFF"):
        assert code_of(encoded(quadrants(), file_format)) == "not_an_image"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated(file_format: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, file_format)
    assert code_of(data[: int(len(data) * part)]) == "truncated_image"


def test_damaged_png_is_broken() -> None:
    data = bytearray(encoded(quadrants(), "PNG"))
    data[data.index(b"IDAT") + 8] ^= 0xFF
    assert code_of(bytes(data)) in {"broken_image", "truncated_image"}


def test_too_large_is_known_from_the_header() -> None:
    bomb = png(10_000, 10_000, 1, 0, bytes(1251 * 10_000))
    assert len(bomb) < 50_000
    assert code_of(bomb) == "image_too_large"
    assert code_of(encoded(quadrants(), "JPEG"), max_pixels=64 * 32 - 1) == "image_too_large"
    assert decode(encoded(quadrants(), "JPEG"), max_pixels=64 * 32).shape == (32, 64, 3)


def test_huge_webp_canvas_is_refused_before_it_is_made() -> None:
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xfe\x3f\x00" + b"\xfe\x3f\x00"
    assert code_of(b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended) == "image_too_large"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_ends_in_pixels_or_in_a_decode_error(data: st.DataObject) -> None:
    file_format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    original = bytearray(encoded(quadrants(), file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    codes = {"not_an_image", "truncated_image", "broken_image", "image_too_large"}
    try:
        pixels = decode(bytes(original), max_pixels=100_000)
    except DecodeError as error:
        codes.remove(error.code)
    else:
        assert pixels.shape[2] == 3


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP"])
)
def test_arbitrary_bytes_are_refused(tail: bytes, head: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(head + tail)


def test_warnings_of_the_decoder_do_not_leak() -> None:
    program = """
import io
from PIL import Image
from facewire.vision.imagecodec import decode

directory = bytes.fromhex("0200 1a01 0500 01000000 ffffff00")  # a resolution far beyond the end
buffer = io.BytesIO()
Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=b"Exif\\x00\\x00II*\\x00\\x08\\x00\\x00\\x00" + directory)
data = buffer.getvalue()
jfif = data.index(b"JFIF") - 4
decode(data[:jfif] + data[jfif + 18 :])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_jpeg_round_trip() -> None:
    pixels = np.asarray(quadrants().resize((128, 64)))
    data = encode_jpeg(pixels, 95)
    assert sniff(data) == "jpeg"
    assert np.abs(decode(data).astype(int) - pixels).mean() < 4
    assert len(encode_jpeg(pixels, 30)) < len(data)


def test_what_cannot_be_identified_is_named_without_an_address_in_memory() -> None:
    data = encoded(quadrants(), "PNG")
    for length in range(24, 60):
        with pytest.raises(DecodeError) as caught:
            decode(data[:length])
        assert "0x" not in caught.value.detail
