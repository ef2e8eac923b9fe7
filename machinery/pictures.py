"""Pictures as people have them -> RGB of eight bits: turned as EXIF says, scaled, on white. No torch here."""
import io

import numpy as np
from PIL import Image

TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,  # EXIF's orientation
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270,
         7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


def open_image(image):
    """A path, the bytes of a file or a PIL image as RGB. Nothing is clipped: more than eight bits are scaled
    down, and what is transparent is laid on white."""
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
    except Exception:  # Pillow raises anything; the picture may be whole though this is not
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
    """(height, width) of an image that can be decoded, else a text that says why it cannot be used."""
    name = ascii(image)[1:-1][-80:] if isinstance(image, str) else "(bytes)"
    try:
        if isinstance(image, (str, bytes)):
            image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        if max(image.size) > 200 * min(image.size):  # Qwen-VL's processor refuses it
            return f"image {name} has {image.width} x {image.height} pixels: 200 times longer than wide"
        # of several frames one would be taken. A camera's MPO holds a photo, and smaller ones behind it
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            return f"image {name} is animated or has several pages: name one of them as a file of its own"
        return open_image(image).size[::-1]
    except Exception as error:  # Pillow's readers raise anything on broken files
        return f"image {name} cannot be read ({type(error).__name__}: {str(error)[:200]})"
