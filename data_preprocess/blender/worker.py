"""Process that renders GLB files with Blender as a Python module (Cycles), in the environment of `objaverse_requirement.txt`.

`pool.py` starts it as `PYTHON worker.py DEVICE THREADS NUMBER` and exchanges lines of JSON with it. It first answers
`{"ready": VERSION}` or `{"error", "wanted"}`; then every job on standard input,
`{"glb", "size": [h, w], "samples", "denoise", "views": [{"png", "fxfycxcy", "c2w", "seed"}]}`, is answered by `{"view": PNG}` after
each picture and `{"done": true}` or `{"error", "wanted"}` at the end. Blender's own output goes to standard error.

The world is Blender's, z up: the importer maps glTF's (x, y, z) to (x, -z, y). Letters: k vertices, h w pixels.
"""

import json
import math
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.files import replace_when_finished

# Largest extent of a centred object along an axis, and from the origin: as large as in the published renders of GSO, and
# entirely visible in views of 50 degrees from a radius of 2.01 on.
HALF_EXTENT, RADIUS = 0.75, 0.85
# A uniform sky and three fixed suns around the object: (azimuth, elevation) in degrees, and irradiance in W/m². With the sky's
# radiance of 0.5, a white wall in full sun reaches 0.95 of pure white.
SKY = 0.5
SUNS = (((-60, 50), 1.2), ((50, 20), 0.6), ((180, -30), 0.4))
SUN_DIAMETER_DEG = 15
SENSOR_WIDTH_MM = 36.0


class UnusableError(Exception):
    """Unusable object or device. Blender's environment lacks the packages that `config.errors` imports.

    Args:
        found: the problem.
        wanted: what would have been right.
    """

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(found, wanted)
        self.found, self.wanted = found, wanted


def main() -> None:
    """Answer jobs until standard input ends."""
    # Blender and its libraries write to descriptor 1: keep it for our answers, and redirect them to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    device, threads, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        import bpy

        new_scene(device, threads, number)
    except ImportError as error:
        answer(answers, error=str(error))
        return
    except UnusableError as error:
        answer(answers, error=error.found, wanted=error.wanted)
        return
    answer(answers, ready=bpy.app.version_string)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            new_scene(device, threads, number)
            load_object(job["glb"])
            for png in render_views(job):
                answer(answers, view=png)
        except UnusableError as error:
            answer(answers, error=error.found, wanted=error.wanted)
        except (RuntimeError, OSError, MemoryError) as error:
            # The text of a RuntimeError from a Blender operator is an entire traceback; its last line is the message.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            answer(answers, error=f"cannot be rendered ({lines[-1]})", wanted="a GLB that Blender imports")
        else:
            answer(answers, done=True)


def answer(answers: TextIO, **message: object) -> None:
    answers.write(json.dumps(message) + "\n")


def new_scene(device: str, threads: int, number: int) -> None:
    """Clear Blender and set what all renders share: Cycles, device, lights, transparent background, plain sRGB.

    Raises:
        UnusableError: this machine has no such device.
    """
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    # Geometry and textures stay on the device from view to view.
    scene.render.use_persistent_data = True
    scene.render.film_transparent = True
    scene.cycles.film_transparent_glass = True
    scene.cycles.transparent_max_bounces = 32
    scene.cycles.max_bounces, scene.cycles.diffuse_bounces, scene.cycles.glossy_bounces = 6, 2, 2
    scene.cycles.sample_clamp_indirect = 4.0
    scene.display_settings.display_device = "sRGB"
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    scene.render.dither_intensity = 0
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode, scene.render.image_settings.color_depth = "RGBA", "8"
    choose_device(device, number)
    light()


def choose_device(device: str, number: int) -> None:
    """Select the CPU, or one of the GPUs of a kind known to Cycles, by the worker's number in turn.

    Raises:
        UnusableError: Blender or the machine has no such device.
    """
    import bpy

    if device == "cpu":
        bpy.context.scene.cycles.device = "CPU"
        return
    preferences = bpy.context.preferences.addons["cycles"].preferences
    kind = device.upper()
    try:
        preferences.compute_device_type = kind
    except TypeError:
        raise UnusableError(f"is {device}, which this Blender was built without", "another") from None
    preferences.refresh_devices()
    found = [item for item in preferences.devices if item.type == kind]
    if not found:
        raise UnusableError(f"is {device}, which this machine does not have", "cpu, or a machine that has one")
    for item in preferences.devices:
        item.use = item == found[number % len(found)]
    bpy.context.scene.cycles.device = "GPU"


def light() -> None:
    """Light the scene with a uniform sky and suns, the same for all views of all objects."""
    import bpy
    from mathutils import Euler

    scene = bpy.context.scene
    world = bpy.data.worlds.new("sky")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = SKY
    scene.world = world
    for (azimuth, elevation), strength in SUNS:
        sun = bpy.data.lights.new("sun", "SUN")
        sun.energy, sun.angle = strength, math.radians(SUN_DIAMETER_DEG)
        lamp = bpy.data.objects.new("sun", sun)
        # Without rotation, a sun shines down from the zenith.
        lamp.rotation_euler = Euler((0, math.radians(90 - elevation), math.radians(azimuth)))
        scene.collection.objects.link(lamp)


def load_object(glb: str) -> None:
    """Import a GLB at rest, without its cameras and lights; centre its bounding box and scale it by `HALF_EXTENT` and `RADIUS`.

    Raises:
        RuntimeError: it cannot be imported.
        UnusableError: it has no visible surface, or one that is not finite or has no size.
    """
    import bpy
    import numpy as np
    from mathutils import Matrix

    before = set(bpy.data.objects)
    with tempfile.TemporaryDirectory() as folder:
        path = without_animations(Path(glb), Path(folder))
        bpy.ops.import_scene.gltf(filepath=str(path), disable_bone_shape=True, import_webp_texture=True)
    # The node of a camera or lamp may have meshes below it: hiding it, instead of removing it, keeps them in place.
    imported = [item for item in bpy.data.objects if item not in before]
    for item in imported:
        if item.type in ("CAMERA", "LIGHT"):
            item.hide_render = True
    low, high, _ = bounds(np.zeros(3))
    centre = (low + high) / 2
    half_extent = (high - low).max() / 2
    radius = bounds(centre)[2]
    if not radius > 0:
        raise UnusableError("is a single point", "an object with a size")
    scale = min(HALF_EXTENT / half_extent, RADIUS / radius)
    frame = bpy.data.objects.new("frame", None)
    bpy.context.scene.collection.objects.link(frame)
    frame.matrix_world = Matrix.Diagonal((scale, scale, scale, 1)) @ Matrix.Translation(-centre)
    for item in imported:
        if item.parent is None:
            item.parent = frame
            item.matrix_parent_inverse = Matrix.Identity(4)
    low, high, _ = bounds(np.zeros(3))
    assert np.abs(low + high).max() < 1e-3, f"after centring, the object reaches from {low} to {high}"


def without_animations(glb: Path, folder: Path) -> Path:
    """Return a GLB without animations: the given one, or if that is animated a copy in `folder`.

    Blender shows an animated object at the first moment of its animation and discards its rest pose.
    """
    content = glb.read_bytes()
    if len(content) < 20 or content[:4] != b"glTF":
        return glb
    version, _, length, kind = struct.unpack_from("<4I", content, 4)
    try:
        tree = json.loads(content[20 : 20 + length])
    except Exception:  # the importer reports what is wrong
        return glb
    if not isinstance(tree, dict) or "animations" not in tree:
        return glb
    del tree["animations"]
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary = content[20 + length :]
    header = struct.pack("<4s4I", b"glTF", version, 20 + len(text) + len(binary), len(text), kind)
    copy = folder / "at_rest.glb"
    copy.write_bytes(header + text + binary)
    return copy


def bounds(centre):
    """Measure all rendered surfaces, with modifiers, in all their instances.

    Args:
        centre: (3,) in the world.

    Returns:
        low, high: (3,) corners of the bounding box; the largest distance of a vertex from the centre.

    Raises:
        UnusableError: there is no surface, or it is not finite.
    """
    import bpy
    import numpy as np

    bpy.context.view_layer.update()
    graph = bpy.context.evaluated_depsgraph_get()
    low, high, radius = np.full(3, np.inf), np.full(3, -np.inf), 0.0
    for instance in graph.object_instances:
        item = instance.object
        if item.type != "MESH" or item.hide_render or not instance.show_self:
            continue
        mesh = item.to_mesh()
        position = np.empty(3 * len(mesh.vertices), np.float32)
        mesh.vertices.foreach_get("co", position)
        corner = np.empty(len(mesh.loops), np.int32)
        mesh.loops.foreach_get("vertex_index", corner)
        item.to_mesh_clear()
        if not len(corner):
            continue
        # Only corners of faces: loose vertices and edges are not rendered.
        k = np.unique(corner)
        matrix = np.array(instance.matrix_world)
        world = position.reshape(-1, 3)[k].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        if not np.isfinite(world).all():
            raise UnusableError("has vertices that are not finite", "a mesh")
        low, high = np.minimum(low, world.min(0)), np.maximum(high, world.max(0))
        radius = max(radius, float(np.linalg.norm(world - centre, axis=1).max()))
    if not np.isfinite(low).all():
        raise UnusableError("shows no surface", "a mesh with faces")
    return low, high, radius


def render_views(job: dict) -> Iterator[str]:
    """Render the views of a job in order; yield the path of each when it is written."""
    import bpy
    from mathutils import Matrix

    scene = bpy.context.scene
    h, w = job["size"]
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = w, h, 100
    scene.cycles.samples = job["samples"]
    # Stops early where a pixel is already clean, as in all of the background. At most 64 samples, with denoising, took 3.0 s of CPU
    # time for 512² and came within 53 dB of 1024 samples; 32 everywhere took 4.2 s for the same.
    scene.cycles.use_adaptive_sampling = True
    scene.cycles.adaptive_threshold, scene.cycles.adaptive_min_samples = 0.02, 8
    scene.cycles.use_denoising, scene.cycles.denoiser = job["denoise"], "OPENIMAGEDENOISE"
    # ACCURATE denoises albedo and normals first: 3 s more, and no better at this many samples.
    scene.cycles.denoising_prefilter = "FAST"
    scene.cycles.denoising_use_gpu = scene.cycles.device == "GPU"
    data = bpy.data.cameras.new("camera")
    data.sensor_fit, data.sensor_width = "HORIZONTAL", SENSOR_WIDTH_MM
    data.clip_start, data.clip_end = 0.01, 100
    scene.camera = bpy.data.objects.new("camera", data)
    scene.collection.objects.link(scene.camera)
    for view in job["views"]:
        fx, _, cx, cy = view["fxfycxcy"]
        data.lens = fx * SENSOR_WIDTH_MM / w
        data.shift_x, data.shift_y = (w / 2 - cx) / w, (cy - h / 2) / w
        # OpenCV's camera looks along z with y down, Blender's along -z with y up.
        scene.camera.matrix_world = Matrix(view["c2w"]) @ Matrix.Diagonal((1, -1, -1, 1))
        scene.cycles.seed = view["seed"]
        with replace_when_finished(view["png"]) as temporary:
            scene.render.filepath = str(temporary)
            bpy.ops.render.render(write_still=True)
        yield view["png"]


if __name__ == "__main__":
    main()
