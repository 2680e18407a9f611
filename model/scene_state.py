"""Scene state: what the input views wrote, from which any number of views is rendered."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from config.errors import InputError, missing_file
from config.messages import counted, shown
from model.layers.address import focus_of
from model.layers.block import Shapes, shapes_of
from model.posed_images import kind_of
from model.weights.file import read_tensors, save_tensors
from model.weights.values import check_values

FORMAT = "lact_nvs scene state 1"
WANTED = "a scene state written by --save_state"
KEEPS_SUMS = "a state of reconstruct(…, keep_sums=True) or reconstruct_stream"
NAME = re.compile(r"(layers|sums)\.(0|[1-9]\d{0,8})\.([^.]+)")
MOST_PIXELS = 1 << 15
# Relative error of a rotation in a file.
ROUNDING = 1e-3


@dataclass(repr=False)
class SceneState:
    """The state of every layer that mixes views, and where it came from.

    Attributes:
        layers: per such layer, in the network's order, its named tensors.
        fxfycxcy: (b, v, 4) intrinsics of the input views, in pixels.
        c2w: (b, v, 4, 4) poses of the input views, in the frame they were given in; poses of new views are in the same frame.
        image_size: (height, width) of the input views.
        model: fingerprint of the weights that wrote it; only they can read it.
        focus: (b, 3) the point where the input views look, in the same frame; None for a network that does not use it.
        normalised: whether that frame is of poses normalised as for scenes; None where nobody has said so.
        from_capture: (b, 4, 4) the similarity that moves points of the capture's frame into that frame; None if it is the same.
        network: the model that wrote it, which `render_video` and `show` use; None for a state from a file. It is not saved.
        sums: per layer, as `layers`, what it needs to take up more views, float32; None where it was not kept.
    """

    layers: list[dict[str, Tensor]]
    fxfycxcy: Tensor
    c2w: Tensor
    image_size: tuple[int, int]
    model: str
    focus: Tensor | None = None
    normalised: bool | None = None
    from_capture: Tensor | None = None
    network: nn.Module | None = field(default=None, compare=False)
    sums: list[dict[str, Tensor]] | None = None

    def __repr__(self) -> str:
        b, v = self.fxfycxcy.shape[:2]
        h, w = self.image_size
        scenes = f"{b} scenes of " if b != 1 else ""
        return f"SceneState({scenes}{counted(v, 'view')} of {h}×{w}, {kind_of(self.normalised)}, {self.nbytes / 1e6:.1f} MB)"

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' tensors, sums included."""
        return sum(tensor.nbytes for layer in [*self.layers, *(self.sums or [])] for tensor in layer.values())

    @property
    def focus_drift(self) -> Tensor | None:
        """How far the point where all input views look now is from `focus`, in mean distances of the cameras from it: (b) float32.

        None for a network that does not use it. `extend` keeps the focus of the first views.
        """
        if self.focus is None:
            return None
        focus = self.focus.to(self.c2w)
        distance = (self.c2w[..., :3, 3] - focus[:, None]).norm(dim=-1).mean(dim=1)
        return (focus_of(self.c2w) - focus).norm(dim=-1) / distance.clamp_min(torch.finfo(torch.float32).tiny)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "SceneState":
        """Return the state with its layers on `device` and, if given, in `dtype`; its sums stay as and where they are."""
        layers = [{name: tensor.to(device, dtype) for name, tensor in layer.items()} for layer in self.layers]
        return dataclasses.replace(self, layers=layers)

    def check_layers(self, wanted: list[Shapes]) -> None:
        """Refuse layers with other tensors than a network writes.

        Args:
            wanted: per layer, the shapes of its tensors.

        Raises:
            InputError: another number of layers, or a layer with other names or shapes.
        """
        if len(self.layers) != len(wanted):
            raise InputError("scene state", f"holds {counted(len(self.layers), 'layer')}", f"{len(wanted)}, as this network writes")
        _check_shapes(self.layers, wanted, "layer")

    def kept_sums(self, wanted: list[Shapes]) -> list[dict[str, Tensor]]:
        """Return the sums, once they are those that a network needs; arguments as of `check_layers`.

        Raises:
            InputError: there are none, or others.
        """
        sums = self.sums or [{} for _ in wanted]
        if not self.sums and any(wanted):
            raise InputError("scene state", "holds no sums, so views can be neither added nor taken out", KEEPS_SUMS)
        _check_shapes(sums, wanted, "the sums of layer")
        return sums

    def save(self, path: str | os.PathLike) -> None:
        """Write the state as safetensors, atomically.

        Raises:
            InputError: it holds numbers that are not finite, which `load` would refuse.
        """
        parts = {"layers": self.layers, "sums": self.sums or []}
        tensors = {
            f"{part}.{i}.{name}": x for part, layers in parts.items() for i, layer in enumerate(layers) for name, x in layer.items()
        }
        tensors |= {"fxfycxcy": self.fxfycxcy, "c2w": self.c2w}
        if self.focus is not None:
            tensors["focus"] = self.focus
        if self.from_capture is not None:
            tensors["from_capture"] = self.from_capture
        about = {"format": FORMAT, "model": self.model, "image_size": json.dumps(list(self.image_size))}
        if self.normalised is not None:
            about["normalised"] = json.dumps(self.normalised)
        for name, tensor in tensors.items():
            check_values(tensor, f"{path}, {name}")
        # Copied: sums of several processes are parts of one tensor, which safetensors refuses.
        copies = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
        save_tensors(copies, path, about)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> "SceneState":
        """Read a state that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it is not a safetensors file, is damaged, or holds something else, or numbers that are not finite. Whether
                its layers are those of a network is checked where it is rendered.
        """
        if not Path(path).is_file():
            raise missing_file(path, WANTED)
        tensors, about = read_tensors(path, WANTED, "is not a safetensors file")
        if about.get("format") != FORMAT:
            raise InputError(f"{path}, format", f"is {shown(about.get('format'), 80)}", repr(FORMAT))
        for name, tensor in tensors.items():
            is_sum = name.startswith("sums.")
            check_values(tensor, f"{path}, {name}", torch.float32 if is_sum else None)
            tensors[name] = tensor.float() if is_sum else tensor
        b = _count_scenes(tensors, path)
        fxfycxcy, c2w, focus = tensors.pop("fxfycxcy"), tensors.pop("c2w"), tensors.pop("focus", None)
        if focus is not None and focus.shape != (b, 3):
            raise InputError(f"{path}, focus", f"is {tuple(focus.shape)}", f"{(b, 3)}, for {counted(b, 'scene')}")
        from_capture = tensors.pop("from_capture", None)
        if from_capture is not None:
            _check_similarity(from_capture, b, f"{path}, from_capture")
        if "model" not in about:
            raise InputError(f"{path}, model", "is missing", "the fingerprint of the weights that wrote it")
        layers, sums = ([{name: x.to(device) for name, x in layer.items()} for layer in part] for part in _layers(tensors, path))
        if about.get("normalised") not in (None, "true", "false"):
            raise InputError(f"{path}, normalised", f"is {shown(about['normalised'], 40)}", "true or false")
        normalised = json.loads(about.get("normalised", "null"))
        return cls(
            layers, fxfycxcy, c2w, _image_size(about, path), about["model"], focus, normalised, from_capture, sums=sums or None
        )


def _count_scenes(tensors: dict[str, Tensor], path: str | os.PathLike) -> int:
    """Return b, once intrinsics and poses of b scenes are there and fit each other."""
    for name in ("fxfycxcy", "c2w"):
        if name not in tensors:
            raise InputError(f"{path}, {name}", "is missing", WANTED)
    shape, poses = tuple(tensors["fxfycxcy"].shape), tuple(tensors["c2w"].shape)
    if len(shape) != 3 or 0 in shape or shape[2] != 4 or poses != (*shape[:2], 4, 4):
        raise InputError(f"{path}, fxfycxcy and c2w", f"are {shape} and {poses}", "(b, v, 4) and (b, v, 4, 4)")
    if not (tensors["fxfycxcy"][..., :2] > 0).all():
        raise InputError(f"{path}, fxfycxcy", "holds a focal length that is not above 0", WANTED)
    return shape[0]


def _check_similarity(matrix: Tensor, b: int, where: str) -> None:
    """Refuse anything but b matrices of rotation, positive scale and translation."""
    if matrix.shape != (b, 4, 4):
        raise InputError(where, f"is {tuple(matrix.shape)}", f"{(b, 4, 4)}, for {counted(b, 'scene')}")
    linear = matrix[:, :3, :3].double()
    scale = torch.linalg.det(linear).clamp_min(0) ** (1 / 3)
    error = (linear @ linear.mT - scale[:, None, None] ** 2 * torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    if not ((scale > 0) & (error < ROUNDING * scale**2)).all():
        raise InputError(where, "is not a rotation times a scale", WANTED)


def _check_shapes(layers: list[dict[str, Tensor]], wanted: list[Shapes], what: str) -> None:
    for i, (layer, shapes) in enumerate(zip(layers, wanted, strict=True)):
        if shapes_of(layer) != shapes:
            raise InputError("scene state", f"holds {shapes_of(layer)} for {what} {i}", f"{shapes}, as this network writes")


def _layers(tensors: dict[str, Tensor], path: str | os.PathLike) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Return the tensors of layers and of their sums, named `layers.I.NAME` and `sums.I.NAME`, layer by layer; or no sums."""
    found: dict[str, dict[int, dict[str, Tensor]]] = {"layers": {}, "sums": {}}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        if match is None:
            known = "fxfycxcy, c2w, focus, from_capture, layers.I.NAME and sums.I.NAME"
            raise InputError(f"{path}, {name}", "is unknown", known)
        found[match[1]].setdefault(int(match[2]), {})[match[3]] = tensor
    layers, sums = found.values()
    for i in range(len(layers)):
        if i not in layers:
            raise InputError(f"{path}, layers.{i}", "is missing", f"{counted(len(layers), 'layer')}, numbered from 0")
    for i in sums:
        if i not in layers:
            raise InputError(f"{path}, sums.{i}", f"is of no layer of {len(layers)}", WANTED)
    numbers = range(len(layers))
    return [layers[i] for i in numbers], [sums.get(i, {}) for i in numbers] if sums else []


def _image_size(about: dict[str, str], path: str | os.PathLike) -> tuple[int, int]:
    try:
        size = json.loads(about.get("image_size", ""))
    except (ValueError, RecursionError):
        size = None
    if not isinstance(size, list) or [type(side) for side in size] != [int, int] or not 0 < min(size) <= max(size) <= MOST_PIXELS:
        found = f"is {shown(about['image_size'], 40)}" if "image_size" in about else "is missing"
        raise InputError(f"{path}, image_size", found, f"[height, width], {MOST_PIXELS} pixels at most each")
    return size[0], size[1]
