"""Intrinsics that no photo of a pinhole camera has. Letters: h w pixels."""

import math

from config.errors import InputError

# The widest angle, in degrees, between the first and the last column or row; half of it is the largest angle from the axis.
WIDEST_PHOTO_DEG = 170.0
# Shares of an image are at most these: focal lengths (1 is 53 degrees) and principal points. In an image of a few pixels,
# numbers in pixels are as small.
LARGEST_FOCAL_SHARE, LEAST_SIDE = 10.0, 16


def fields_of_view(w: int, h: int, fx: float, fy: float) -> tuple[float, float]:
    """Return the angles, in degrees, that w and h span, seen centrally."""
    return 2 * math.degrees(math.atan(0.5 * w / fx)), 2 * math.degrees(math.atan(0.5 * h / fy))


def centre_in_corner(w: int, h: int, cx: float, cy: float) -> bool:
    """Return whether the principal point is in the first pixel, as shares of the image and distances from its centre are."""
    return min(w, h) >= LEAST_SIDE and 0 <= cx <= 1 and 0 <= cy <= 1


def check_intrinsics(where: str, w: int, h: int, fx: float, fy: float, cx: float, cy: float) -> None:
    """Check that a photo of w×h pixels can have these intrinsics in pixels.

    Raises:
        InputError: a field of view is too wide, the photo looks too far to the side, or the numbers are shares of the image.
    """
    fov = fields_of_view(w, h, fx, fy)
    in_corner = centre_in_corner(w, h, cx, cy)
    pixels = f"focal lengths in pixels of {w}×{h} (w×h)" + (", no shares of it" if in_corner else "")
    if max(fov) > WIDEST_PHOTO_DEG:
        found = f"has a field of view of {fov[0]:.4g}×{fov[1]:.4g} degrees (w×h)"
        raise InputError(where, found, f"{WIDEST_PHOTO_DEG:g} at most: {pixels}")
    if in_corner and max(fx, fy) <= LARGEST_FOCAL_SHARE:
        found = f"has the focal lengths {fx:g} and {fy:g} and the principal point ({cx:g}, {cy:g})"
        raise InputError(where, found, f"principal point and {pixels}")
    aside = max(abs(cx / fx), abs((w - cx) / fx), abs(cy / fy), abs((h - cy) / fy))
    if aside > math.tan(math.radians(WIDEST_PHOTO_DEG / 2)):
        found = (
            f"has the principal point ({cx:g}, {cy:g}) so far outside that it looks {math.degrees(math.atan(aside)):.4g} degrees"
        )
        raise InputError(where, f"{found} aside", f"{WIDEST_PHOTO_DEG / 2:g} at most: a principal point in pixels of {w}×{h} (w×h)")
