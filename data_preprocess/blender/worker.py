"""Process that renders GLB files with Blender as a Python module (Cycles), in the environment of `objaverse_requirement.txt`.

`pool.py` starts it as `PYTHON worker.py DEVICE THREADS NUMBER` and exchanges lines of JSON with it. It first answers
`{"ready": VERSION}` or `{"error", "wanted"}`; then every job on standard input,
`{"glb", "size": [h, w], "samples", "denoise", "views": [{"png", "fxfycxcy", "c2w", "seed"}]}`, is answered by `{"view": PNG}` after
each picture and `{"done": true}` or `{"error", "wanted"}` at the end. Blender's own output goes to standard error.

Letters: h w pixels.
"""

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.files import replace_when_finished
from data_preprocess.blender.unusable import UnusableError

# A uniform sky and three fixed suns around the object: (azimuth, elevation) in degrees, and irradiance in W/m². With the sky's
# radiance of 0.5, a white wall in full sun reaches 0.95 of pure white.
SKY = 0.5
SUNS = (((-60, 50), 1.2), ((50, 20), 0.6), ((180, -30), 0.4))
SUN_DIAMETER_DEG = 15
SENSOR_WIDTH_MM = 36.0


def main() -> None:
    """Answer jobs until standard input ends."""
    # Blender and its libraries write to descriptor 1: keep it for our answers, and redirect them to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    device, threads, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        import bpy

        from data_preprocess.blender.load_object import load_object

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
            load_object(Path(job["glb"]))
            for png in render_views(job):
                answer(answers, view=png)
        except UnusableError as error:
            answer(answers, error=error.found, wanted=error.wanted)
        except Exception as error:  # Blender and its importer may raise anything at a damaged file
            answer(answers, error=f"cannot be rendered ({explain(error)})", wanted="a GLB that Blender imports")
        else:
            answer(answers, done=True)


def answer(answers: TextIO, **message: object) -> None:
    answers.write(json.dumps(message) + "\n")


def explain(error: Exception) -> str:
    """Return an error's message; that of an operator of Blender is an entire traceback, followed by its place in Blender."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Location: ")]
    if isinstance(error, RuntimeError) and lines:
        return lines[-1].removeprefix("Error: ")
    return ": ".join([type(error).__name__, *lines[-1:]])


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
