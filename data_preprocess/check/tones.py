"""Brightness and colours of photos next to those of the photos beside them.

Two photos are shifted to where they look most alike, and compared place by place. Where photos have a white background, nothing
white is compared; in others white is where they are clipped, and only what is clipped in both is left out.

Letters: v views, k neighbours, s places per side.
"""

from collections.abc import Sequence

import numpy as np

from data_preprocess.capture.copies import SIDE

# s; levels at which a channel is clipped, or a pixel is black.
PLACES, _WHITE, _BLACK = 24, 250.0, 4.0
# Share of white pixels, median over the photos, from which on white is background.
_BACKGROUND = 0.15
# Largest shift, least common share of the places, and least correlation of what is common; places that must be left at last.
_FARTHEST, _LEAST_COMMON, _LEAST_CORRELATION, _LEAST_PLACES = 8, 0.35, 0.6, 100
# Neighbours that must show the same things: more than half of them, and this many. Of so many more, one may differ.
_LEAST_NEIGHBOURS, _ONE_MAY_DIFFER = 3, 5


def tones(colours: Sequence[np.ndarray]) -> np.ndarray:
    """Return the tones of photos.

    Args:
        colours: v photos (SIDE, SIDE, 3) in 0..255, sRGB.

    Returns:
        (v, s, s, 4) float32: logarithms of linear red, green and blue, NaN where there is nothing to compare; 1 where white.
    """
    on_white = np.median([(photo >= _WHITE).all(2).mean() for photo in colours]) > _BACKGROUND
    return np.stack([_tones(photo, bool(on_white)) for photo in colours])


def tone_jumps(nearest: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Return how far each photo's tones are from those of its neighbours: the least of them, as far as they agree.

    A neighbour may contradict the others if its own tones jump as well: two photos in a row may be alike and unlike the others.

    Args:
        nearest: (v, k) numbers, nearest first.
        photos: (v, s, s, 4) of `tones`.

    Returns:
        (v, 3): brightness, red over green, blue over green, in logarithms; NaN for photos without neighbours that show the same.
    """
    jumps = np.full((len(photos), 3), np.nan)
    contradicted = np.full((len(photos), 3), -1)
    enough = max(_LEAST_NEIGHBOURS, nearest.shape[1] // 2 + 1)
    for i, others in enumerate(nearest):
        found = {int(j): jump for j in others if (jump := _jump(photos[i], photos[j])) is not None}
        if len(found) < enough:
            continue
        values, numbers = np.stack(list(found.values())), np.array(list(found))
        sign = np.sign(np.median(values, axis=0))
        order = (values * sign).argsort(axis=0)
        chosen = order[1 if len(found) >= _ONE_MAY_DIFFER else 0]
        jumps[i] = sign * np.take_along_axis(values * sign, chosen[None], 0)[0].clip(min=0)
        least = np.take_along_axis(values * sign, order[:1], 0)[0].clip(min=0)
        differs = least < np.abs(jumps[i]) / 2
        contradicted[i] = np.where(differs, numbers[order[0]], -1)
    for i, channel in np.argwhere(contradicted >= 0):
        other = jumps[contradicted[i, channel], channel]
        if not other * np.sign(jumps[i, channel]) >= np.abs(jumps[i, channel]) / 2:
            jumps[i, channel] = 0
    return jumps


def _tones(photo: np.ndarray, on_white: bool) -> np.ndarray:
    part = SIDE // PLACES

    def mean(values: np.ndarray) -> np.ndarray:
        return values.reshape(PLACES, part, PLACES, part, -1).mean((1, 3))

    white = (photo >= _WHITE).any(2, keepdims=True)
    unseen = (photo <= _BLACK).all(2, keepdims=True) | (white & on_white)
    encoded = photo / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    share = mean(1.0 - unseen)
    light = np.log((mean(linear * ~unseen) / np.maximum(share, 1e-6)).clip(1e-4))
    return np.concatenate([np.where(share > 0.5, light, np.nan), mean(white * 1.0) > 0.5], axis=2).astype(np.float32)


def _jump(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    shift = _shift(first[..., :3].mean(2), second[..., :3].mean(2))
    if shift is None:
        return None
    rows, columns = ((slice(max(0, by), PLACES + min(0, by)), slice(max(0, -by), PLACES + min(0, -by))) for by in shift)
    a, b = first[rows[0], columns[0]].reshape(-1, 4), second[rows[1], columns[1]].reshape(-1, 4)
    apart = (a - b)[:, :3]
    compared = np.isfinite(apart).all(1) & ~((a[:, 3] > 0) & (b[:, 3] > 0))
    if compared.sum() < _LEAST_PLACES:
        return None
    apart = apart[compared]
    return np.median(np.stack([apart.mean(1), apart[:, 0] - apart[:, 1], apart[:, 2] - apart[:, 1]]), axis=1)


def _shift(first: np.ndarray, second: np.ndarray) -> tuple[int, int] | None:
    """Return the shift, in rows and columns, at which two photos (s, s) correlate most where both are not NaN; None if little."""
    n = 2 * PLACES
    seen_a, seen_b = np.isfinite(first), np.isfinite(second)
    a, b = np.where(seen_a, first, 0), np.where(seen_b, second, 0)
    spectra = [np.fft.rfft2(values, (n, n)) for values in (seen_a, a, a * a, seen_b, b, b * b)]

    def sums(x: int, y: int) -> np.ndarray:
        """Return, for every shift, the sum of products of two of the arrays."""
        return np.fft.irfft2(spectra[x] * spectra[y].conj(), (n, n))

    count = np.maximum(sums(0, 3), 1)
    covariance = sums(1, 4) - sums(1, 3) * sums(0, 4) / count
    variances = sums(2, 3) - sums(1, 3) ** 2 / count, sums(0, 5) - sums(0, 4) ** 2 / count
    allowed = (count >= _LEAST_COMMON * PLACES**2) & (np.minimum(*variances) > 1e-2)
    near = np.abs(np.fft.fftfreq(n, 1 / n)) <= _FARTHEST
    allowed &= near[:, None] & near
    correlation = np.where(allowed, covariance / np.sqrt(np.maximum(variances[0] * variances[1], 1e-9)), -1)
    best = np.unravel_index(correlation.argmax(), correlation.shape)
    if correlation[best] < _LEAST_CORRELATION:
        return None
    down, across = (int(by) - n * (by > PLACES) for by in best)
    return down, across
