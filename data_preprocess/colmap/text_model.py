"""Lines of a COLMAP sparse model's text files, cameras.txt and images.txt, split into words and numbers.

Source: COLMAP's documentation, "Output Format". The values are checked in `sparse_model.py`.
"""

import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from config.errors import InputError, check_file
from config.messages import counted, shown


class CameraEntry(NamedTuple):
    """A camera as stored: `numbers`, of any count, are width, height and parameters; `where` is for errors."""

    where: str
    camera_id: int
    model: str
    numbers: list[float]


class ImageEntry(NamedTuple):
    """An image as stored: `pose` is QW QX QY QZ TX TY TZ; `where` is for errors."""

    where: str
    image_id: int
    pose: list[float]
    camera_id: int
    name: str


def text_cameras(path: Path) -> Iterator[CameraEntry]:
    """Yield the cameras of cameras.txt.

    Raises:
        InputError: a word that should be a number is not one.
    """
    for where, line in _lines(path):
        first, *words = line.split()
        (camera_id,) = _whole(where, [first])
        yield CameraEntry(where, camera_id, words[0] if words else "", _numbers(where, words[1:]))


def text_images(path: Path, cameras: Collection[int]) -> Iterator[ImageEntry]:
    """Yield the images of images.txt; their second lines, of keypoints, are checked and skipped.

    Args:
        path: the file.
        cameras: ids of the model's cameras, to tell an image from keypoints.

    Raises:
        InputError: a line is neither an image nor its keypoints, or there are fewer images than the file's header says. In a file
            without lines of keypoints, every second image would pass for one.
    """
    count, lines = 0, _lines(path, blank=True)
    for where, line in lines:
        if not line.strip():
            continue
        # Names may begin with a space other than ASCII's.
        words = re.split(r"[ \t]+", line.strip(" \t\r"), maxsplit=9)
        if len(words) < 10:
            raise InputError(where, f"has {counted(len(words), 'word')}", "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        image_id, camera_id = _whole(where, [words[0], words[8]])
        yield ImageEntry(where, image_id, _numbers(where, words[1:8]), camera_id, words[9])
        count += 1
        where, keypoints = next(lines, (where, ""))
        if not _are_keypoints(keypoints) or _is_image(keypoints, cameras):
            wanted = "the keypoints of the image above, X Y POINT3D_ID of each, or an empty line, after each image"
            raise InputError(where, f"is {shown(keypoints[:40].strip())}", wanted)
    stated = stated_count(path)
    if count < stated:
        raise InputError(path, f"holds {count} of the {stated} images of its header", "all of them, or the header corrected")


def _lines(path: Path, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (where, line) for all lines except comments and, unless `blank`, blank ones."""
    check_file(path, "a text file of a COLMAP model")
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.lstrip().startswith("#") and (blank or line.strip()):
            yield f"{path}, line {number}", line


def stated_count(path: Path) -> int:
    """Return the number of images in the comments at the start of the file, 0 if there is none."""
    with path.open("rb") as file:
        start = file.read(4096)
    stated = re.search(rb"^\s*#.*Number of images: *(\d{1,9})\b", start, re.MULTILINE)
    return int(stated[1]) if stated else 0


def _are_keypoints(line: str) -> bool:
    words = line.split()
    if len(words) % 3 or any(map(_no_number, words)):
        return False
    # NumPy writes a table of keypoints as floats.
    return all(re.fullmatch(r"\+?\d+", word) or (float(word) >= -1 and float(word).is_integer()) for word in words[2::3])


def _is_image(line: str, cameras: Collection[int]) -> bool:
    """Return whether a line of keypoints could be an image whose name has only digits and spaces.

    Keypoints pass for a rotation only within two pixels of the photo's corner.
    """
    words = line.split()
    if len(words) < 10 or not words[0].isdecimal() or not words[8].isdecimal() or int(words[8]) not in cameras:
        return False
    return 0.5 < math.hypot(*map(float, words[1:5])) < 2


def _numbers(where: str, words: list[str]) -> list[float]:
    wrong = next(filter(_no_number, words), None)
    if wrong is not None:
        raise InputError(where, f"holds {shown(wrong)}", "a finite number")
    return [float(word) for word in words]


def _whole(where: str, words: list[str]) -> list[int]:
    numbers = _numbers(where, words)
    wrong = next((word for word, number in zip(words, numbers, strict=True) if number != int(number)), None)
    if wrong is not None:
        raise InputError(where, f"has the id {wrong[:40]}", "a whole number")
    return [int(number) for number in numbers]


def _no_number(word: str) -> bool:
    try:
        return not math.isfinite(float(word))
    except ValueError:
        return True
