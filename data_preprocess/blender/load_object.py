"""Import of an object into Blender: its visible surfaces, with whole textures, centred and scaled. Letters: k vertices.

The world is Blender's, z up: the importer maps glTF's (x, y, z) to (x, -z, y).

*Precision*: Blender and Cycles compute in float32, too coarse for a small object far from the origin, as in georeferenced
meshes. So each mesh is moved to its own origin, and matrices are multiplied in float64; those of the centred object are float32.
"""

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from data_preprocess.blender.shown_nodes import without_hidden
from data_preprocess.blender.unusable import UnusableError

# Largest extent of a centred object along an axis, and from the origin: as large as in the published renders of GSO, and
# entirely visible in views of 50 degrees from a radius of 2.01 on.
HALF_EXTENT, RADIUS = 0.75, 0.85
# The importer's labels of textures that are colours.
COLOUR_LABELS = ("BASE COLOR", "DIFFUSE", "EMISSIVE", "SPECULAR COLOR", "SHEEN COLOR")


@dataclass(frozen=True)
class Surface:
    """A mesh, and the matrix (4, 4) float64 that places it in the world; several may share a mesh."""

    mesh: bpy.types.Mesh
    matrix: np.ndarray

    def points(self) -> np.ndarray:
        """Return the corners of its faces in the world: (k, 3) float64. Loose vertices and edges are not rendered."""
        return corners(self.mesh) @ self.matrix[:3, :3].T + self.matrix[:3, 3]


def load_object(glb: Path) -> None:
    """Import what a GLB shows, without its cameras and lights; centre its bounding box and scale it by `HALF_EXTENT` and `RADIUS`.

    Raises:
        RuntimeError: it cannot be imported.
        UnusableError: it has no visible surface, one that is not finite or has no size, or a texture that cannot be read.
    """
    imported = import_objects(glb)
    surfaces = find_surfaces(imported)
    for mesh in dict.fromkeys(surface.mesh for surface in surfaces):
        check_textures(mesh, glb.parent)
        separate_colours(mesh)
    scale, centre = frame(surfaces)
    place(surfaces, scale, centre)
    bpy.data.batch_remove(imported)


def import_objects(glb: Path) -> list[bpy.types.Object]:
    """Import a GLB; return its objects.

    Raises:
        RuntimeError: it cannot be imported.
        UnusableError: the importer skipped a part.
    """
    before = set(bpy.data.objects)
    problems = _Problems()
    log = logging.getLogger("glTFImporter_errors")
    log.addHandler(problems)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = without_hidden(glb, Path(folder))
            bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True, import_webp_texture=True)
    finally:
        log.removeHandler(problems)
    skipped = [line for line in problems.lines if "Skipping" in line]
    if skipped:
        raise UnusableError(f"cannot be imported whole ({skipped[0]})", "a GLB that Blender imports")
    return [item for item in bpy.data.objects if item not in before]


class _Problems(logging.Handler):
    """Collects what the importer logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def find_surfaces(imported: list[bpy.types.Object]) -> list[Surface]:
    """Return the objects' surfaces, posed and morphed; meshes are centred and scaled to half-extent 1 in place.

    Raises:
        UnusableError: there is none, or one that is not finite.
    """
    bpy.context.view_layer.update()
    graph = bpy.context.evaluated_depsgraph_get()
    units: dict[bpy.types.Mesh, np.ndarray] = {}
    surfaces = []
    for item in imported:
        if item.type != "MESH":
            continue
        mesh = item.data
        if item.modifiers or mesh.shape_keys is not None:
            mesh = bpy.data.meshes.new_from_object(item.evaluated_get(graph), preserve_all_data_layers=True, depsgraph=graph)
        if not len(mesh.polygons):
            continue
        if mesh not in units:
            units[mesh] = to_unit(mesh)
        surfaces.append(Surface(mesh, world_matrix(item) @ units[mesh]))
    if not surfaces:
        raise UnusableError("shows no surface", "a mesh with faces")
    return surfaces


def positions(mesh: bpy.types.Mesh) -> np.ndarray:
    """Return all vertices (k, 3) float64."""
    position = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", position)
    return position.reshape(-1, 3).astype(np.float64)


def corners(mesh: bpy.types.Mesh) -> np.ndarray:
    """Return the vertices of faces (k, 3) float64."""
    corner = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corner)
    return positions(mesh)[np.unique(corner)]


def to_unit(mesh: bpy.types.Mesh) -> np.ndarray:
    """Centre a mesh and scale it to half-extent 1 in place; return the matrix (4, 4) float64 that undoes it.

    Raises:
        UnusableError: it is not finite.
    """
    points = corners(mesh)
    check_finite(points)
    low, high = points.min(0), points.max(0)
    centre, half_extent = (low + high) / 2, float((high - low).max() / 2) or 1.0
    moved = (positions(mesh) - centre) / half_extent
    mesh.vertices.foreach_set("co", moved.astype(np.float32).ravel())
    mesh.update()
    matrix = np.diag([half_extent, half_extent, half_extent, 1.0])
    matrix[:3, 3] = centre
    return matrix


def check_finite(points: np.ndarray) -> None:
    """Check vertices (k, 3).

    Raises:
        UnusableError: one is infinite or not a number.
    """
    if not np.isfinite(points).all():
        raise UnusableError("has vertices that are not finite", "a mesh")


def world_matrix(item: bpy.types.Object) -> np.ndarray:
    """Return an object's matrix_world (4, 4), multiplied in float64."""
    local = np.array(item.matrix_parent_inverse, np.float64) @ np.array(item.matrix_basis, np.float64)
    if item.parent is None:
        return local
    if item.parent_type == "BONE":
        bone = item.parent.pose.bones[item.parent_bone]
        # Children of a bone are placed relative to its tail.
        tail = np.eye(4)
        tail[1, 3] = bone.bone.length
        local = np.array(bone.matrix, np.float64) @ tail @ local
    return world_matrix(item.parent) @ local


def frame(surfaces: list[Surface]) -> tuple[float, np.ndarray]:
    """Return the scale and the centre (3,) float64 of the bounding box, for an object of `HALF_EXTENT` and `RADIUS`.

    Raises:
        UnusableError: the object is not finite or has no size.
    """
    low, high, radius = np.full(3, np.inf), np.full(3, -np.inf), 0.0
    for surface in surfaces:
        points = surface.points()
        check_finite(points)
        low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
    centre = (low + high) / 2
    for surface in surfaces:
        radius = max(radius, float(np.linalg.norm(surface.points() - centre, axis=1).max()))
    if not radius > 0:
        raise UnusableError("is a single point", "an object with a size")
    return min(HALF_EXTENT / float((high - low).max() / 2), RADIUS / radius), centre


def place(surfaces: list[Surface], scale: float, centre: np.ndarray) -> None:
    """Add an object to the scene for each surface, moved by -centre (3,) and then scaled."""
    root = bpy.data.objects.new("object", None)
    bpy.context.scene.collection.objects.link(root)
    for surface in surfaces:
        matrix = surface.matrix.copy()
        matrix[:3, 3] -= centre
        matrix[:3] *= scale
        item = bpy.data.objects.new("surface", surface.mesh)
        bpy.context.scene.collection.objects.link(item)
        # Unlike an object's own matrix, this one may shear.
        item.parent, item.matrix_parent_inverse = root, Matrix(matrix)


def texture_nodes(mesh: bpy.types.Mesh) -> list[bpy.types.ShaderNodeTexImage]:
    """Return the nodes with a texture in the materials on a mesh's faces."""
    used = np.empty(len(mesh.polygons), np.int32)
    mesh.polygons.foreach_get("material_index", used)
    materials = [mesh.materials[i] for i in np.unique(used) if i < len(mesh.materials)]
    return [node for material in materials if material for node in material.node_tree.nodes if node.type == "TEX_IMAGE"]


def check_textures(mesh: bpy.types.Mesh, folder: Path) -> None:
    """Check that Blender has read all textures on a mesh's faces: it renders a missing one in magenta.

    Args:
        mesh: a mesh.
        folder: of the GLB.

    Raises:
        UnusableError: one was not read.
    """
    for node in texture_nodes(mesh):
        if not is_whole(node.image):
            name = "no image that Blender knows" if node.image is None else texture_name(node.image, folder)
            found = f"has a texture that cannot be read: {node.label.lower()} ({name})"
            raise UnusableError(found, "a whole PNG, JPEG or WebP image for each")


def separate_colours(mesh: bpy.types.Mesh) -> None:
    """Give colour textures on a mesh's faces an image of their own, where it is also one of data, such as normals.

    The importer has one image for both and reads it as linear, so that the colours would be too bright.
    """
    for node in texture_nodes(mesh):
        if node.label in COLOUR_LABELS and node.image.colorspace_settings.is_data:
            node.image = node.image.copy()
            node.image.colorspace_settings.name = "sRGB"


def is_whole(image: bpy.types.Image | None) -> bool:
    """Return whether Blender has read an image, and all of it."""
    # Asking for the size loads the image; 0 if that fails.
    if image is None or not min(image.size) or not image.has_data:
        return False
    data = image.packed_file.data if image.packed_file is not None else b""
    if image.file_format == "JPEG":
        # Blender fills the missing part with grey. Every scan starts with FFDA and the last one is followed by FFD9.
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if image.file_format == "WEBP":
        # Blender leaves a file that is cut short black.
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def texture_name(image: bpy.types.Image, folder: Path) -> str:
    """Return the file of a texture relative to a folder, or the name of one inside the GLB."""
    return os.path.relpath(image.filepath_raw, folder) if image.filepath_raw else image.name
