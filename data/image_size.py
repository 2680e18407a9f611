"""Image sizes that a network can read. Letters: h w pixels."""

from config.errors import InputError


def check_image_size(
    image_size: tuple[int, int], patch_size: int, where: tuple[str, str] = ("--image_size", "--image_size")
) -> None:
    """Check that an image (h, w) splits into whole patches; `where`: what states its height and its width, for the message.

    Raises:
        InputError: a side does not; the message names the nearest ones that do.
    """
    for name, side, place in zip(("height", "width"), image_size, where, strict=True):
        if side < 1 or side % patch_size:
            below = side // patch_size * patch_size
            nearest = f"{below} or {below + patch_size}" if below > 0 else f"{patch_size}"
            raise InputError(place, f"has the {name} {side}", f"a multiple of the patch {patch_size}: {nearest}")
