"""Intrinsics that no photo of a pinhole camera has. Letters: h w pixels."""

import math

from config.errors import InputError

# The widest field of view of an image, in degrees; half of it is the largest angle of a pixel from the axis.
WIDEST_PHOTO_DEG = 170.0
# Focal lengths up to the first, in widths (1 is 53 degrees), may be shares of the image that were meant to be pixels. In images
# with a side below the second, in pixels, real focal lengths are as small.
LARGEST_FOCAL_SHARE, LEAST_SIDE = 10.0, 16


def fields_of_view(w: int, h: int, fx: float, fy: float) -> tuple[float, float]:
    """Return the angles, in degrees, that w and h span around the axis of a centred lens."""
    return 2 * math.degrees(math.atan(0.5 * w / fx)), 2 * math.degrees(math.atan(0.5 * h / fy))


def centre_in_corner(w: int, h: int, cx: float, cy: float) -> bool:
    """Return whether the principal point is in the first pixel, where shares of the image and offsets from its centre put it."""
    return min(w, h) >= LEAST_SIDE and 0 <= cx <= 1 and 0 <= cy <= 1


def check_intrinsics(where: str, w: int, h: int, camera: tuple[float, float, float, float]) -> None:
    """Check that a photo of w×h pixels can have the intrinsics fx, fy, cx, cy in pixels.

    Raises:
        InputError: the field of view is too wide, a pixel is too far from the axis, or the numbers are shares of the image.
    """
    fx, fy, cx, cy = camera
    fov = fields_of_view(w, h, fx, fy)
    in_corner = centre_in_corner(w, h, cx, cy)
    pixels = f"focal lengths in pixels of {w}×{h} (w×h)" + (", not shares of it" if in_corner else "")
    if max(fov) > WIDEST_PHOTO_DEG:
        found = f"has a field of view of {fov[0]:.4g}×{fov[1]:.4g} degrees (w×h)"
        raise InputError(where, found, f"{WIDEST_PHOTO_DEG:g} at most: {pixels}")
    if in_corner and max(fx, fy) <= LARGEST_FOCAL_SHARE:
        found = f"has the focal lengths {fx:g} and {fy:g} and the principal point ({cx:g}, {cy:g})"
        raise InputError(where, found, f"principal point and {pixels}")
    aside = max(abs(cx / fx), abs((w - cx) / fx), abs(cy / fy), abs((h - cy) / fy))
    if aside > math.tan(math.radians(WIDEST_PHOTO_DEG / 2)):
        angle = math.degrees(math.atan(aside))
        found = f"has the principal point ({cx:g}, {cy:g}), so that pixels are up to {angle:.4g} degrees from the axis"
        raise InputError(where, found, f"{WIDEST_PHOTO_DEG / 2:g} at most: a principal point in pixels of {w}×{h} (w×h)")
