"""Changed views of a portrait: what another day, another camera or another encoder makes of the same face."""

import io
from collections.abc import Callable, Mapping

from PIL import Image, ImageEnhance, ImageOps

from facewire_standalone.commands.client import Picture


def changed_views(picture: Picture) -> dict[str, Picture]:
    """Return the picture mirrored, darker, turned by 6 degrees, at 60 % of its size, and as a small WebP file."""
    with Image.open(io.BytesIO(picture.content)) as image:
        portrait = image.convert("RGB")
    views = {name: _jpeg(change(portrait), name) for name, change in _CHANGES.items()}
    return {**views, "as WebP": _encode(portrait, "as WebP.webp", "WEBP", quality=40)}


def _darker(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.6)


def _turned(image: Image.Image) -> Image.Image:
    return image.rotate(6, resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


def _smaller(image: Image.Image) -> Image.Image:
    return ImageOps.scale(image, 0.6)


_CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "darker": _darker,
    "turned": _turned,
    "smaller": _smaller,
}


def _jpeg(image: Image.Image, name: str) -> Picture:
    return _encode(image, f"{name}.jpg", "JPEG", quality=90)


def _encode(image: Image.Image, name: str, image_format: str, *, quality: int) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=quality)
    return Picture(name, buffer.getvalue())
