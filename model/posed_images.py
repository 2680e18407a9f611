"""Photos of a scene with their cameras, as a network reads them. Letters: v views, h w pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from config.errors import InputError
from config.messages import counted

# Relative error of a similarity that was saved and loaded.
SAME_FRAME = 1e-4


def kind_of(normalised: bool | None) -> str:
    """Return what a frame is of, in words: an object's as it is, or a scene's, normalised."""
    return "unknown frame" if normalised is None else ("object", "scene")[normalised]


@dataclass(frozen=True, eq=False, repr=False)
class PosedImages:
    """Photos of one object or scene, with cameras in the frame that the network sees.

    Attributes:
        image: (v, 3, h, w) float32 in 0..1.
        fxfycxcy: (v, 4) float32 in pixels of these images.
        c2w: (v, 4, 4) float32, world from camera, OpenCV axes.
        name: the scene's.
        views: v positions of these views in the scene.
        normalised: whether poses are normalised, as for scenes; None where nobody has said so.
        from_capture: (4, 4) float64, the similarity that moves points of the scene file's frame into that of `c2w`; None if it is
            the same.
    """

    image: Tensor
    fxfycxcy: Tensor
    c2w: Tensor
    name: str = ""
    views: Sequence[int] = ()
    normalised: bool | None = None
    from_capture: Tensor | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w)."""
        h, w = self.image.shape[-2:]
        return h, w

    def check_frame(self, normalised: bool | None, from_capture: Tensor | None) -> None:
        """Check that these views are in the frame of a state, as far as both say; arguments as of `SceneState`, of one scene.

        Raises:
            InputError: they are not.
        """
        if None not in (normalised, self.normalised) and normalised != self.normalised:
            found = "have normalised poses, as of scenes" if self.normalised else "have poses as given, as of objects"
            raise InputError("views", found, f"poses as of the state: load_scene(…, normalise={normalised})")
        if self.from_capture is not None and from_capture is not None:
            own = self.from_capture.double().cpu()
            if not (from_capture.double().cpu() - own).abs().max() <= SAME_FRAME * own.abs().max():
                raise InputError("views", "are in another frame than the state", 'both of one scene, with pose_reference="all"')

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        h, w = self.image_size
        name = f"{self.name}: " if self.name else ""
        return f"PosedImages({name}{counted(len(self), 'view')} of {h}×{w}, {kind_of(self.normalised)})"
