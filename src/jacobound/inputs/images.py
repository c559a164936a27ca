"""Reading an image file as the pixels of a network's input; needs pillow (the extra `report`)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from jacobound.errors import InvalidRegionError, MissingExtraError, ShapeError

IMAGES = (".png", ".jpg", ".jpeg")
MOST_PIXELS = 1 << 24


def read_image(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Pixels from 0 to 255 in float64, and a word on how they are arranged.

    Args:
        path: a PNG or JPEG file of 8 bits a channel.
        shape: of the network's input: grey (height, width), colours first (3, height, width) or last, or flat.

    Raises:
        MissingExtraError: when pillow is not installed.
        InvalidRegionError: when the file is no such image.
        ShapeError: when the image has another size or other colours than the network's input.
    """
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise MissingExtraError("pillow", "report") from error
    try:
        with pillow.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InvalidRegionError(f"'{path}' has {image.width} x {image.height} pixels; that is too large")
            pixels = _pixels(image, path)
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, pillow.DecompressionBombError) as error:
        if isinstance(error, InvalidRegionError):
            raise
        raise InvalidRegionError(f"'{path}' is not a PNG or JPEG image, or damaged: {error}") from error
    return _arranged(pixels, shape, path)


def _pixels(image: Any, path: Path) -> np.ndarray:
    """Shape (height, width, channels), 1 or 3 channels of 8 bits; nothing is converted that would lose something."""
    if image.mode in ("P", "1", "LA", "PA", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGBA")
    if image.mode not in ("L", "RGB", "RGBA"):
        raise InvalidRegionError(f"'{path}' has {image.mode} pixels; save it with 8 bits a channel, grey or RGB")
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels.reshape(image.height, image.width, -1)
    if pixels.shape[2] == 4:
        if bool((pixels[:, :, 3] != 255).any()):
            raise InvalidRegionError(f"'{path}' is partly transparent; save it without transparency")
        pixels = pixels[:, :, :3]
    return pixels


def _arranged(pixels: np.ndarray, shape: tuple[int, ...], path: Path) -> tuple[np.ndarray, str]:
    """The pixels in the order of the network's input."""
    height, width, channels = pixels.shape
    size = int(np.prod(shape))
    grey = channels == 1 or bool((pixels == pixels[:, :, :1]).all())
    if size == height * width:
        if not grey:
            raise ShapeError(f"'{path}' has colours, but the network takes {shape}; convert the image to grey")
        return pixels[:, :, 0], f"{path} (grey)"
    if size == 3 * height * width:
        coloured = pixels if channels == 3 else np.repeat(pixels, 3, axis=2)
        if shape == (height, width, 3):
            return coloured, f"{path} (RGB, channels last)"
        return coloured.transpose(2, 0, 1), f"{path} (RGB, channels first)"
    raise ShapeError(f"'{path}' is {width} x {height} pixels, the network takes {shape}; resize the image")
