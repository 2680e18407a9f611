"""GLB files for tests."""

import json
import struct
from collections.abc import Callable

import trimesh


def rewrite(glb: bytes, edit: Callable[[dict, int], None], extra: bytes = b"") -> bytes:
    """Return a GLB with its JSON edited, and bytes appended to its buffer at the offset passed to `edit`."""
    length = struct.unpack_from("<I", glb, 12)[0]
    tree, binary = json.loads(glb[20 : 20 + length]), glb[28 + length :]
    edit(tree, len(binary))
    binary += extra
    tree["buffers"][0]["byteLength"] = len(binary)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def unlit(tree: dict, materials: range | None = None) -> None:
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
    for i in materials or range(len(tree["materials"])):
        tree["materials"][i]["extensions"] = {"KHR_materials_unlit": {}}


def material(**what: object) -> trimesh.visual.TextureVisuals:
    uv = what.pop("uv", None)
    what = {"metallicFactor": 0.0, "roughnessFactor": 1.0, **what}
    return trimesh.visual.TextureVisuals(uv, material=trimesh.visual.material.PBRMaterial(**what))
