"""GLB files for tests."""

import json
import struct
from collections.abc import Callable, Sequence

import numpy as np
import trimesh


def unpack(glb: bytes) -> tuple[dict, bytes]:
    """Return the JSON and the buffer of a GLB."""
    length = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + length]), glb[28 + length :]


def rewrite(glb: bytes, edit: Callable[[dict, int], None], extra: bytes = b"") -> bytes:
    """Return a GLB with its JSON edited, and bytes appended to its buffer at the offset passed to `edit`."""
    tree, binary = unpack(glb)
    edit(tree, len(binary))
    binary += extra
    return pack(tree, binary)


def unlit(tree: dict, materials: range | None = None) -> None:
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    for i in materials or range(len(tree["materials"])):
        tree["materials"][i]["extensions"] = {"KHR_materials_unlit": {}}


def material(**what: object) -> trimesh.visual.TextureVisuals:
    uv = what.pop("uv", None)
    what = {"metallicFactor": 0.0, "roughnessFactor": 1.0, **what}
    return trimesh.visual.TextureVisuals(uv, material=trimesh.visual.material.PBRMaterial(**what))


def pack(tree: dict, binary: bytes) -> bytes:
    """Return a GLB of this JSON and buffer."""
    tree["buffers"][0]["byteLength"] = len(binary)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


class Cube:
    """An unlit cube of half-side 1 under construction: `tree` is its JSON, with one node, mesh and material.

    Args:
        colour: linear base colour.
        image: file of its texture, if any.
        dtype: of its vertices.
    """

    def __init__(self, colour: Sequence[float] = (1, 1, 1), image: bytes | None = None, dtype: type = np.float32) -> None:
        box = trimesh.creation.box((2, 2, 2))
        self._binary = b""
        self.tree: dict = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "buffers": [{}], "bufferViews": [], "accessors": [], "meshes": [{}],
            "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1], "metallicFactor": 0}, "doubleSided": True}],
            "extensionsUsed": [], "extensionsRequired": [],
        }  # fmt: skip
        unlit(self.tree)
        attributes = {"POSITION": self.add(box.vertices.astype(dtype)), "TEXCOORD_0": self.add(np.full((8, 2), 0.3, np.float32))}
        self.primitive: dict = {"attributes": attributes, "indices": self.add(box.faces.astype(np.uint16).ravel()), "material": 0}
        self.tree["meshes"][0]["primitives"] = [self.primitive]
        self.texture: dict = {"index": 0}
        if image is not None:
            self.tree["images"], self.tree["textures"] = [{"bufferView": self._add_bytes(image)}], [{"source": 0}]
            self.tree["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] = self.texture

    def add(self, array: np.ndarray) -> int:
        """Return the index of a new accessor of numbers (k,) or vectors (k, 2), (k, 3) or (k, 4)."""
        codes = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "float32": 5126}
        kind = "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}"
        accessor = {"componentType": codes[array.dtype.name], "count": len(array), "type": kind}
        if kind == "VEC3":
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        # Vertices start at multiples of four bytes.
        rows = np.pad(array, ((0, 0), (0, -array.shape[1] * array.itemsize % 4 // array.itemsize))) if array.ndim == 2 else array
        self.tree["accessors"].append({"bufferView": self._add_bytes(rows.tobytes()), **accessor})
        if array.ndim == 2 and rows.shape != array.shape:
            self.tree["bufferViews"][-1]["byteStride"] = rows.shape[1] * rows.itemsize
        return len(self.tree["accessors"]) - 1

    def _add_bytes(self, content: bytes) -> int:
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(content)})
        self._binary += content + bytes(-len(content) % 4)
        return len(self.tree["bufferViews"]) - 1

    def use(self, extension: str, where: dict, content: dict, required: bool = False) -> None:
        """Add an extension to a part of the JSON."""
        where.setdefault("extensions", {})[extension] = content
        self.tree["extensionsUsed"].append(extension)
        self.tree["extensionsRequired"] += [extension] if required else []

    def glb(self) -> bytes:
        return pack({key: value for key, value in self.tree.items() if value}, self._binary)
