"""Drawing of a scene's cameras as pyramids, seen along one of the world's axes.

Letters: v views, h w pixels.
"""

import math
from collections.abc import Collection, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CAMERA_COLOUR, MARK_COLOUR, LOOKED_AT_COLOUR = (29, 98, 176), (176, 48, 24), (20, 130, 90)
_INK, _FAINT, _PATH = (38, 38, 42), (112, 112, 118), (150, 150, 156)
# Lines are drawn this many times larger and then reduced: Pillow does not anti-alias them.
_OVERSAMPLING = 3
# Pixels of the longest extent and of the border; numbers in a panel, and the height of their digits.
_EXTENT, _PAD, _MOST_NUMBERS, _DIGITS = 880, 24, 40, 13
# Depth of a pyramid: shares of the cameras' extent at most, and of the usual distance from the nearest camera; in pixels at least.
_DEEPEST, _DEPTH_OF_SPACING, _LEAST_DEPTH = 0.07, 0.9, 10.0
# Share of the colour in that of the first camera; the rest is white.
_PALEST = 0.4
# The list is a path if its usual step is at most this many times the distance from the nearest camera.
_LONGEST_STEP = 3.0
# The cameras look at a point if its usual distance from their axes is at most this share of that from the cameras.
_OFF_AXIS = 0.2
_BLOCK = 256


class CameraDrawing:
    """The cameras of a scene, to draw from several sides at one scale.

    Args:
        c2w: (v, 4, 4) world from camera, OpenCV axes.
        fxfycxcy: (v, 4) pixels.
        image_size: (h, w).
        marked: numbers of cameras to draw in another colour, on top.

    Attributes:
        axes: (3, 3) rows: world axes drawn to the right, away from the viewer of the side view, and upwards.
        looked_at: (3,) the point that the cameras look at, in those axes; None if there is none.
        scale: pixels per unit.
    """

    def __init__(self, c2w: np.ndarray, fxfycxcy: np.ndarray, image_size: tuple[int, int], marked: Collection[int] = ()) -> None:
        self.axes = _plot_axes(-c2w[:, :3, 1].mean(0))
        self.marked = sorted(i for i in set(marked) if i < len(c2w))
        centres = c2w[:, :3, 3]
        extent, spacing = np.ptp(centres, axis=0).max(), _spacing(centres)
        depth = 1.0
        if extent > 0:
            least = _LEAST_DEPTH / _EXTENT * extent
            depth = min(_DEEPEST * extent, max(_DEPTH_OF_SPACING * spacing, least))
        self.points = _pyramids(c2w, fxfycxcy, image_size, depth) @ self.axes.T
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        self.is_path = len(centres) > 2 and bool(np.median(steps) <= _LONGEST_STEP * spacing)
        looked_at = _looked_at(c2w)
        self.looked_at = None if looked_at is None else self.axes @ looked_at
        drawn = self.points.reshape(-1, 3)
        if self.looked_at is not None:
            drawn = np.vstack([drawn, self.looked_at])
        self._low, self._high = drawn.min(0), drawn.max(0)
        self.scale = _EXTENT / (self._high - self._low).max()

    def panel(self, plane: tuple[int, int]) -> Image.Image:
        """Draw the cameras in the plane of two of the axes, the first to the right, the second upwards."""
        points, low, high = (values[..., list(plane)] for values in (self.points, self._low, self._high))
        size = np.ceil(self.scale * (high - low)).astype(int) + 2 * _PAD
        over = _OVERSAMPLING
        image = Image.new("RGB", tuple((size * over).tolist()), (255, 255, 255))
        draw = ImageDraw.Draw(image, "RGBA")

        def place(point: np.ndarray) -> np.ndarray:
            return ((point - low) * self.scale + _PAD) * (1, -1) + (0, size[1])

        places = place(points)
        _cross(draw, place(np.zeros(2)) * over)
        if self.is_path:
            draw.line([tuple(centre) for centre in (places[:, 0] * over).tolist()], fill=(*_PATH, 160), width=over)
        for i, pyramid in enumerate(places):
            if i not in self.marked:
                _pyramid(draw, pyramid * over, _paler(i / max(len(places) - 1, 1)))
        for i in self.marked:
            x, y = places[i, 0] * over
            _pyramid(draw, places[i] * over, MARK_COLOUR)
            draw.ellipse((x - 4 * over, y - 4 * over, x + 4 * over, y + 4 * over), fill=MARK_COLOUR)
        if self.looked_at is not None:
            x, y = place(self.looked_at[list(plane)]) * over
            draw.ellipse((x - 6 * over, y - 6 * over, x + 6 * over, y + 6 * over), outline=LOOKED_AT_COLOUR, width=2 * over)
        self._number(draw, places, size)
        return image.reduce(over)

    def _number(self, draw: ImageDraw.ImageDraw, places: np.ndarray, size: np.ndarray) -> None:
        """Write the numbers of as many cameras as have room: the marked ones, the first and the last, then those between."""
        font = ImageFont.load_default(_DIGITS * _OVERSAMPLING)
        taken = np.zeros((0, 4))
        for i in [*self.marked, *(i for i in _spread(len(places)) if i not in self.marked)]:
            half = np.array([font.getlength(str(i)) / 2 / _OVERSAMPLING + 3, _DIGITS / 2 + 1])
            free = []
            for centre in _beside(places[i], half):
                box = np.concatenate([centre - half, centre + half])
                inside = (box[:2] >= 0).all() and (box[2:] <= size).all()
                if inside and not ((taken[:, :2] < box[2:]) & (taken[:, 2:] > box[:2])).all(1).any():
                    covered = ((places > box[:2]) & (places < box[2:])).all(2).sum()
                    free.append((int(covered), len(free), centre, box))
            if free:
                _, _, centre, box = min(free, key=lambda found: found[:2])
                taken = np.vstack([taken, box])
                colour = MARK_COLOUR if i in self.marked else _INK
                place = tuple((centre * _OVERSAMPLING).tolist())
                halo = 2 * _OVERSAMPLING
                draw.text(place, str(i), fill=colour, font=font, anchor="mm", stroke_width=halo, stroke_fill=(255, 255, 255))
            if len(taken) >= _MOST_NUMBERS + len(self.marked):
                return


def axis_name(axis: np.ndarray) -> str:
    """Return the name of a world axis (3,) with its sign: `x`, `-z`."""
    name = int(np.abs(axis).argmax())
    return ("-" if axis[name] < 0 else "") + "xyz"[name]


def _plot_axes(up: np.ndarray) -> np.ndarray:
    """Return rows (3, 3): world axes drawn to the right, away from the viewer of the side view, and upwards."""
    rows = np.eye(3)
    upwards = int(np.abs(up).argmax())
    vertical = rows[upwards] * (1 if up[upwards] >= 0 else -1)
    right = rows[1 if upwards == 0 else 0]
    return np.stack([right, np.cross(vertical, right), vertical])


def _pyramids(c2w: np.ndarray, fxfycxcy: np.ndarray, image_size: tuple[int, int], depth: float) -> np.ndarray:
    """Return (v, 5, 3) the camera centre and the four corners of the image in front of it, in the world."""
    h, w = image_size
    fx, fy, cx, cy = fxfycxcy.T
    corners = [(x, y) for x, y in ((0, 0), (w, 0), (w, h), (0, h))]
    local = np.stack([np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(fx)], axis=-1) for x, y in corners], axis=1)
    centre = c2w[:, None, :3, 3]
    return np.concatenate([centre, centre + depth * local @ c2w[:, :3, :3].transpose(0, 2, 1)], axis=1)


def _spacing(centres: np.ndarray) -> float:
    """Return the median distance (v, 3) of a camera from the nearest one at another place; 0 if all are at one place."""
    nearest = []
    for start in range(0, len(centres), _BLOCK):
        apart = np.linalg.norm(centres[start : start + _BLOCK, None] - centres, axis=2)
        nearest.append(np.where(apart > 0, apart, np.inf).min(1))
    found = np.concatenate(nearest)
    return float(np.median(found)) if np.isfinite(found).all() else 0.0


def _looked_at(c2w: np.ndarray) -> np.ndarray | None:
    """Return the point (3,) nearest to all optical axes, if it is in front of the cameras and most axes pass close to it."""
    centres, forward = c2w[:, :3, 3], c2w[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None]
    total = across.sum(0)
    if len(c2w) < 3 or np.linalg.cond(total) > 1e4:
        return None
    point = np.linalg.solve(total, (across @ centres[:, :, None]).sum(0))[:, 0]
    towards = point - centres
    depth = (towards * forward).sum(1)
    off = np.linalg.norm(towards - depth[:, None] * forward, axis=1)
    meet = (depth > 0).mean() > 0.8 and np.median(off) <= _OFF_AXIS * np.median(np.linalg.norm(towards, axis=1))
    # A point far away would leave little room for the cameras.
    near = np.abs(point - centres.mean(0)).max() <= 0.8 * np.ptp(centres, axis=0).max()
    return point if meet and near else None


def _spread(count: int) -> Iterator[int]:
    """Yield numbers below a count: the first, the last, then always those in the middle of what is left between."""
    seen: set[int] = set()
    parts = 1
    while len(seen) < count:
        for part in range(parts + 1):
            number = round(part * (count - 1) / parts)
            if number not in seen:
                seen.add(number)
                yield number
        parts *= 2


def _beside(pyramid: np.ndarray, half: np.ndarray) -> Iterator[np.ndarray]:
    """Yield places for the number of a pyramid (5, 2), best first: behind the camera, then around it; `half` is half its size."""
    behind = pyramid[0] - pyramid[1:].mean(0)
    behind = behind / np.linalg.norm(behind) if np.linalg.norm(behind) > 1e-9 else np.array([0.0, -1.0])
    for angle in (0, 45, -45, 90, -90, 135, -135):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        direction = np.array([cos * behind[0] - sin * behind[1], sin * behind[0] + cos * behind[1]])
        yield pyramid[0] + direction * (3 + half @ np.abs(direction))


def _paler(share: float) -> tuple[int, int, int]:
    """Return the colour of the camera that comes after a share of the list."""
    strength = _PALEST + (1 - _PALEST) * share
    red, green, blue = (round(255 + strength * (level - 255)) for level in CAMERA_COLOUR)
    return red, green, blue


def _cross(draw: ImageDraw.ImageDraw, place: np.ndarray) -> None:
    (x, y), arm = place.tolist(), 9 * _OVERSAMPLING
    for line in ([(x - arm, y), (x + arm, y)], [(x, y - arm), (x, y + arm)]):
        draw.line(line, fill=_FAINT, width=_OVERSAMPLING)


def _pyramid(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    centre, *corners = [tuple(point) for point in points.tolist()]
    draw.polygon(corners, fill=(*colour, 40))
    width = round((1.5 if math.dist(centre, corners[0]) > 25 * _OVERSAMPLING else 1) * _OVERSAMPLING)
    for start, end in [*((centre, corner) for corner in corners), *zip(corners, corners[1:] + corners[:1], strict=True)]:
        draw.line([start, end], fill=colour, width=width)
