"""Visible part of a GLB: its default scene at rest, without hidden nodes.

Blender's importer also shows nodes that no scene has, and hidden ones; it shows an animated object at the first moment of its
animation and discards its rest pose. So a GLB with any of these is imported from an edited copy.
"""

import json
import os
import struct
from pathlib import Path
from urllib.parse import quote, unquote

_VISIBILITY = "KHR_node_visibility"


def without_hidden(glb: Path, folder: Path) -> Path:
    """Return a GLB that holds nothing but what the given one shows: itself, or an edited copy in `folder`."""
    content = glb.read_bytes()
    if len(content) < 20 or content[:4] != b"glTF":
        return glb
    version, _, length, kind = struct.unpack_from("<4I", content, 4)
    try:
        tree = json.loads(content[20 : 20 + length])
        if not remove_hidden(tree):
            return glb
        make_absolute(tree, glb.parent)
        text = json.dumps(tree).encode()
    except Exception:  # the importer reports what is wrong
        return glb
    text += b" " * (-len(text) % 4)
    binary = content[20 + length :]
    header = struct.pack("<4s4I", b"glTF", version, 20 + len(text) + len(binary), len(text), kind)
    copy = folder / "shown.glb"
    copy.write_bytes(header + text + binary)
    return copy


def remove_hidden(tree: dict) -> bool:
    """Remove animations, other scenes, and the meshes of nodes that are not shown, in place; return whether there were any."""
    animated = tree.pop("animations", None) is not None
    scenes, nodes = tree.get("scenes", []), tree.get("nodes", [])
    if scenes:
        tree["scenes"], tree["scene"] = [scenes[tree.get("scene", 0)]], 0
        roots = tree["scenes"][0].get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", ())}
        roots = [i for i in range(len(nodes)) if i not in children]
    shown = _below(nodes, roots)
    hidden = [node for i, node in enumerate(nodes) if "mesh" in node and i not in shown]
    for node in hidden:
        # The node itself stays: it may be a joint.
        del node["mesh"]
    required = tree.get("extensionsRequired", [])
    if _VISIBILITY in required:
        required.remove(_VISIBILITY)
        hidden.append({})
    return animated or len(scenes) > 1 or bool(hidden)


def _below(nodes: list[dict], roots: list[int]) -> set[int]:
    """Return the indices of visible nodes below and including `roots`."""
    shown: set[int] = set()
    left = list(roots)
    while left:
        i = left.pop()
        if i in shown or not nodes[i].get("extensions", {}).get(_VISIBILITY, {}).get("visible", True):
            continue
        shown.add(i)
        left += nodes[i].get("children", ())
    return shown


def make_absolute(tree: dict, folder: Path) -> None:
    """Replace relative addresses of images and buffers, which lie in `folder`, by absolute ones, in place."""
    for item in (*tree.get("images", ()), *tree.get("buffers", ())):
        if "uri" in item and not item["uri"].startswith("data:"):
            item["uri"] = quote(os.path.abspath(folder / unquote(item["uri"].replace("\\", "/"))))
