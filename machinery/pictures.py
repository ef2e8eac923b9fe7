"""Pictures as people have them -> RGB of eight bits: turned as EXIF says, scaled, on white. No torch here."""
import base64
import io
import re
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from machinery.fields import BadRow

ADDRESS = re.compile(r"[a-zA-Z][\w+.-]+://")
BASE64 = re.compile(r"[\w+/\s]{300,}={0,2}\s*", re.ASCII)  # no path is like that: so long, without a dot
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,  # EXIF's orientation
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270,
         7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}
# what Pillow's readers raise on broken files
BROKEN = (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, EOFError,
          LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, NotImplementedError,
          struct.error, zlib.error)


def image_source(image, folder, name="image"):
    """A path or the bytes of a file, from what a row holds: a path relative to a folder, a data: address, or
    how Parquet stores images."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
        if not image:
            raise BadRow(f"{name} has neither bytes nor a path")
    if isinstance(image, str) and image.startswith("data:"):
        return decode_address(image, name)
    if isinstance(image, str) and ADDRESS.match(image):
        raise BadRow(f"{name} is an address ({image[:80]}): fetch it first, and name the file")
    if isinstance(image, str) and BASE64.fullmatch(image):
        raise BadRow(f"{name} is base64 ({image[:20]}...): write data:image/png;base64, in front")
    if isinstance(image, str) and image.strip():
        return str(folder / image)
    if isinstance(image, (bytes, Image.Image)) and image != b"":
        return image
    kind = "null" if image is None else type(image).__name__
    if isinstance(image, (str, bytes)):
        kind = "empty"
    raise BadRow(f"{name} is {kind}, not a path, a file's bytes or {{bytes, path}}")


def decode_address(image, name):
    head, comma, content = image.partition(",")
    try:
        if not head.endswith(";base64") or not comma:
            raise ValueError("only base64 is read")
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise BadRow(f"{name} is a data: address that can not be decoded ({error})") from error


def open_image(image):
    """A path, bytes or PIL image as RGB. Nothing is clipped: more than eight bits are scaled down, and what
    is transparent is laid on white."""
    if isinstance(image, (str, bytes)):
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    turn = TURNS.get(orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image.transpose(turn) if turn is not None else image


def orientation(image):
    try:
        return image.getexif().get(0x0112)
    except BROKEN:  # the picture may be whole though this is not
        return None


def eight_bits(image):
    """Grey of 16 or 32 bits, or of floats, as 8 bits. Where a file does not say its range, it is the smallest
    usual one that holds all values, else from the least to the greatest value."""
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("it has pixels that are no finite numbers")
    usual = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    fits = [most for most in usual if low >= 0 and high <= most]
    low, high = (0, fits[0]) if fits else (low, max(high, low + 1))
    return Image.fromarray(((values - low) / (high - low) * 255 + 0.5).astype(np.uint8))


def image_size(image):
    """(height, width) of an image that can be decoded, else a text that says why it can not be used."""
    name = ascii(image)[1:-1][-80:] if isinstance(image, str) else "(bytes)"
    try:
        if why := unusable_file(image):
            return f"image {name} {why}"
        return open_image(image).size[::-1]
    except BROKEN as error:
        return f"image {name} can not be read ({error.__class__.__name__}: {str(error)[:200]})"


def unusable_file(image):
    """Why an image is not to be decoded, or None. It looks at the head of the file alone."""
    if isinstance(image, (str, bytes)):
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    width, height = image.size
    if not width or not height:
        return "has no pixels"
    if width * height > Image.MAX_IMAGE_PIXELS:
        return f"has {width} x {height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}: scale it down"
    if max(image.size) > 200 * min(image.size):
        return f"has {width} x {height} pixels: it is more than 200 times longer than wide"
    frames = getattr(image, "n_frames", 1)  # a camera's MPO holds a photo, and smaller ones behind it
    if frames > 1 and image.format != "MPO":
        return f"is animated or has several pages ({frames}): name one of them as a file of its own"
    return None
