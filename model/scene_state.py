"""Scene state: what the input views wrote, from which any number of views is rendered."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from config.errors import InputError, missing_file
from model.weights.file import save_tensors

FORMAT = "lact_nvs scene state 1"


@dataclass
class SceneState:
    """The state of every layer that mixes views, and where it came from.

    Attributes:
        layers: per such layer, in the network's order, its named tensors.
        fxfycxcy: (b, v, 4) intrinsics of the input views, in pixels.
        c2w: (b, v, 4, 4) poses of the input views, in the frame they were given in; poses of new views are in the same frame.
        image_size: (height, width) of the input views.
        model: fingerprint of the weights that wrote it; only they can read it.
        focus: (b, 3) the point where the input views look, in the same frame; None for a network that does not use it.
    """

    layers: list[dict[str, Tensor]]
    fxfycxcy: Tensor
    c2w: Tensor
    image_size: tuple[int, int]
    model: str
    focus: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' tensors."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values())

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "SceneState":
        """Return the state with its layers on `device` and, if given, in `dtype`."""
        layers = [{name: tensor.to(device, dtype) for name, tensor in layer.items()} for layer in self.layers]
        return dataclasses.replace(self, layers=layers)

    def save(self, path: str | os.PathLike) -> None:
        """Write the state as safetensors, atomically."""
        tensors = {f"layers.{i}.{name}": x for i, layer in enumerate(self.layers) for name, x in layer.items()}
        tensors |= {"fxfycxcy": self.fxfycxcy, "c2w": self.c2w}
        if self.focus is not None:
            tensors["focus"] = self.focus
        about = {"format": FORMAT, "model": self.model, "image_size": json.dumps(list(self.image_size))}
        save_tensors({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, path, about)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> "SceneState":
        """Read a state that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it is not a safetensors file, or holds something else.
        """
        wanted = "a scene state written by --save_state"
        if not Path(path).is_file():
            raise missing_file(path, wanted)
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except SafetensorError as error:
            raise InputError(path, f"is not a safetensors file ({error})", wanted) from error
        if about.get("format") != FORMAT:
            raise InputError(f"{path}, format", f"is {about.get('format')!r}", repr(FORMAT))
        try:
            fxfycxcy, c2w, focus = tensors.pop("fxfycxcy"), tensors.pop("c2w"), tensors.pop("focus", None)
            layers: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                _, index, part = name.split(".")
                layers.setdefault(int(index), {})[part] = tensor
            ordered = [layers[i] for i in range(len(layers))]
            h, w = json.loads(about["image_size"])
            return cls(ordered, fxfycxcy, c2w, (h, w), about["model"], focus)
        except (KeyError, ValueError, TypeError) as error:  # a key that is missing or does not parse
            raise InputError(path, f"is damaged ({error})", wanted) from error
