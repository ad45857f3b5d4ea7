"""Encoded pictures to pixels and back: JPEG, PNG and WebP by Pillow, with the limits that untrusted input needs."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from facewire.domain.errors import DecodeError

ImageFormat = Literal["jpeg", "png", "webp"]

#: design: uploads have at most 40 megapixels.
MAX_PIXELS = 40_000_000

# Pillow warns about odd metadata and sizes; what matters of it is raised here as DecodeError.
warnings.filterwarnings("ignore", module=r"PIL\.")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_FILL = 0xFF
_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION_TAG = 0x0112
#: What brings a picture of EXIF orientation n upright (EXIF 2.32, 4.6.4).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's three decoders raise on damaged files, beside OSError with its truncated-file message.
_DAMAGE = (OSError, SyntaxError, EOFError, ValueError, TypeError, IndexError, KeyError, struct.error, zlib.error)


def sniff(data: bytes) -> ImageFormat | None:
    """Return the format that the first bytes announce, or None if it is none of the three."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def measure(data: bytes) -> tuple[ImageFormat, int, int]:
    """Return format, width and height in pixels, as stored (before any EXIF rotation), from the header alone.

    Raises DecodeError: `not_an_image`, or `truncated_image` if the header is broken or cut short.
    """
    name = sniff(data)
    if name is None:
        raise DecodeError("not_an_image", f"the {len(data)} bytes are no JPEG, PNG or WebP picture")
    width, height = _MEASURES[name](data)
    if width < 1 or height < 1:
        raise DecodeError(
            "truncated_image", f"the {name.upper()} header is broken or cut short: it gives no width and height"
        )
    return name, width, height


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the picture as RGB, uint8 (height, width, 3), upright by its EXIF orientation.

    Transparent parts are laid over white, 16-bit samples are scaled to 8 bits, CMYK is converted without a colour
    profile, of an animation the first frame is taken. The array may be read-only. Raises DecodeError: `not_an_image`,
    `image_too_large` (from the header, before any pixel is decoded), `truncated_image`, `broken_image`.
    """
    name, width, height = measure(data)
    _check_size(width, height, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
            _check_size(*image.size, max_pixels)
            image.load()
            orientation = _exif_orientation(image.info.get("exif", b""))
            upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
            return _rgb_pixels(upright)
    except Image.DecompressionBombError as error:
        raise DecodeError("image_too_large", str(error)) from error
    except _DAMAGE as error:
        code = "truncated_image" if _is_cut_short(name, data, error) else "broken_image"
        # Pillow's own text names an object by its address in memory.
        reason = "its header is broken" if isinstance(error, UnidentifiedImageError) else error
        raise DecodeError(code, f"the {name.upper()} data of {len(data)} bytes cannot be decoded: {reason}") from error


def encode_jpeg(image: NDArray[np.uint8], quality: int = 92) -> bytes:
    """Return an RGB image, uint8 (height, width, 3), as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        detail = f"{width} x {height} are {width * height} pixels, the limit is {max_pixels}"
        raise DecodeError("image_too_large", detail)


def _is_cut_short(name: ImageFormat, data: bytes, error: Exception) -> bool:
    if name == "webp":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return isinstance(error, EOFError) or "truncated" in str(error).lower()


def _rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.uint32)
        grey = ((samples * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation in the first directory of an EXIF block, 1 (upright) if there is none to be read."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    start = int.from_bytes(tiff[4:8], order)
    entries = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(start + 2, min(start + 2 + 12 * entries, len(tiff)), 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == _ORIENTATION_TAG:
            return int.from_bytes(tiff[entry + 8 : entry + 10], order)
    return 1


def _measure_png(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _measure_webp(data: bytes) -> tuple[int, int]:
    """Read the first chunk: https://developers.google.com/speed/webp/docs/riff_container."""
    header = data[20:30]
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(header[4:7], "little") + 1, int.from_bytes(header[7:10], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(header[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(header[6:8], "little") & 0x3FFF, int.from_bytes(header[8:10], "little") & 0x3FFF
    return 0, 0


def _measure_jpeg(data: bytes) -> tuple[int, int]:
    """Walk the markers up to the frame header SOFn (ITU-T T.81, B.1 and B.2.2)."""
    position = 2
    while position + 4 <= len(data) and data[position] == _JPEG_FILL:
        marker = data[position + 1]
        if marker == _JPEG_FILL:
            position += 1
        elif marker in _JPEG_FRAME_HEADERS:
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0, 0


_MEASURES: dict[ImageFormat, Callable[[bytes], tuple[int, int]]] = {
    "jpeg": _measure_jpeg,
    "png": _measure_png,
    "webp": _measure_webp,
}
