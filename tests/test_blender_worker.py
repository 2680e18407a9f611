"""Blender renders of GLB files written here. Letters: k points, h w pixels."""

import gzip
import json
import shutil
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.transformations import compose_matrix

from data.scene_format import Scene, View, read_scene
from data.scene_list import read_data_path
from data_preprocess.blender.pool import BlenderPool
from data_preprocess.objaverse_render import main
from tests.support.glb import material, rewrite, unlit

pytestmark = pytest.mark.slow

SIZE = (150, 204)
# glTF is y up; the written world is z up.
Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], np.uint8)
TEXTURE = np.array([[[230, 60, 50], [40, 200, 90]], [[60, 90, 220], [240, 220, 120]]], np.uint8)


@pytest.fixture(scope="session")
def rendered(blender_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Render a folder of good and bad GLB files; return the outcome."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "in").mkdir()
    glb, markers = marker_glb()
    for name, content in (
        ("markers", glb), ("materials", material_glb()), ("ball", ball_glb()), ("points", point_glb()),
        ("cut", glb[: len(glb) // 2]), ("text", b"no GLB at all"), ("speck", scaled_glb(0.0)), ("endless", scaled_glb(1e300)),
    ):  # fmt: skip
        (folder / "in" / f"{name}.glb").write_bytes(content)
    h, w = SIZE
    code = main(["--input", str(folder / "in"), "--output", str(folder / "out"), "--blender_python", str(blender_python),
                 "--image_size", str(h), str(w), "--num_views", "8", "--workers", "2"])  # fmt: skip
    scenes = [read_scene(path) for path in read_data_path(folder / "out" / "objaverse_data_path.json")]
    failed = json.loads((folder / "out" / "objaverse_failed.json").read_text())
    return {"code": code, "folder": folder, "scenes": {scene.name: scene for scene in scenes}, "failed": failed, "markers": markers}


def marker_glb() -> tuple[bytes, dict]:
    """Return a GLB of small spheres and cubes of plain colours, in a tree of moved, turned and stretched nodes.

    Its nodes have a camera, a lamp and an animation, all to be ignored, and two nodes share a shape.

    Returns:
        the file; `points`, (k, 3) of the markers' centres in glTF's world, `colours`, (k,), and `corners`, all vertices.
    """
    scene = trimesh.Scene()
    arm = compose_matrix(translate=(0.9, 0.2, -0.3), angles=(0.3, 0.7, -0.4))
    hand = arm @ compose_matrix(translate=(0.3, 0.5, 0.2), angles=(-0.8, 0.2, 0.5), scale=(0.5, 1.6, 0.8))
    scene.graph.update("arm", "world", matrix=arm)
    scene.graph.update("hand", "arm", matrix=np.linalg.inv(arm) @ hand)
    places = [
        ("world", (-1.1, 0.0, 0.4), 0), ("world", (0.2, 1.3, -0.6), 1), ("arm", (0.5, -0.4, 0.6), 2),
        ("arm", (-0.6, -0.9, -0.2), 3), ("hand", (0.4, 0.3, -0.5), 4), ("hand", (-0.3, -0.5, 0.9), 5), ("hand", (0.2, 0.6, 0.4), 1),
    ]  # fmt: skip
    shapes = [trimesh.creation.icosphere(2, 0.04) if i % 2 else trimesh.creation.box((0.06, 0.06, 0.06)) for i in range(6)]
    frames = {"world": np.eye(4), "arm": arm, "hand": hand}
    points, corners = [], []
    for number, (frame, place, i) in enumerate(places):
        shapes[i].visual = material(baseColorFactor=[*COLOURS[i].tolist(), 255])
        at = compose_matrix(translate=place)
        scene.add_geometry(shapes[i], node_name=f"marker {number}", geom_name=f"shape {i}", parent_node_name=frame, transform=at)
        matrix = frames[frame] @ at
        points.append(matrix[:3, 3])
        corners.append(trimesh.transform_points(shapes[i].vertices, matrix))

    def edit(tree: dict, offset: int) -> None:
        unlit(tree)
        names = [node.get("name") for node in tree["nodes"]]
        tree["nodes"][names.index("marker 6")]["mesh"] = tree["nodes"][names.index("marker 1")]["mesh"]
        # `arm` carries a camera, and below it hangs a strong lamp.
        tree["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}]
        tree["nodes"][names.index("arm")]["camera"] = 0
        tree["extensionsUsed"].append("KHR_lights_punctual")
        tree["extensions"] = {"KHR_lights_punctual": {"lights": [{"type": "point", "intensity": 1e6}]}}
        tree["nodes"].append({"extensions": {"KHR_lights_punctual": {"light": 0}}, "translation": [0, 9, 0]})
        tree["nodes"][names.index("arm")]["children"].append(len(names))
        # The animation holds marker 0 three units away throughout. A node with a matrix cannot be animated.
        node = tree["nodes"][names.index("marker 0")]
        node["translation"] = np.array(node.pop("matrix")).reshape(4, 4)[3, :3].tolist()
        views, accessors = tree["bufferViews"], tree["accessors"]
        views += [{"buffer": 0, "byteOffset": offset, "byteLength": 8}, {"buffer": 0, "byteOffset": offset + 8, "byteLength": 24}]
        accessors += [
            {"bufferView": len(views) - 2, "componentType": 5126, "count": 2, "type": "SCALAR", "min": [0], "max": [1]},
            {"bufferView": len(views) - 1, "componentType": 5126, "count": 2, "type": "VEC3"},
        ]
        tree["animations"] = [{
            "channels": [{"sampler": 0, "target": {"node": names.index("marker 0"), "path": "translation"}}],
            "samplers": [{"input": len(accessors) - 2, "output": len(accessors) - 1}],
        }]  # fmt: skip

    glb = rewrite(scene.export(file_type="glb"), edit, struct.pack("<8f", 0, 1, 3, 0, 0, 3, 0, 0))
    return glb, {"points": np.array(points), "colours": [i for _, _, i in places], "corners": np.concatenate(corners)}


def material_glb() -> bytes:
    """Return a GLB of an upright picture 2 × 1.2, a half-transparent pane to its right, and a ball coloured by its vertices."""
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    corners = np.array([[-1, -0.6, 0], [1, -0.6, 0], [1, 0.6, 0], [-1, 0.6, 0]])
    texture = Image.fromarray(TEXTURE).resize((64, 64), Image.Resampling.NEAREST)
    picture = material(uv=uv, baseColorTexture=texture, doubleSided=True)
    pane = material(uv=uv, baseColorFactor=[60, 160, 220, 128], alphaMode="BLEND", doubleSided=True)
    ball = trimesh.creation.icosphere(3, 0.35)
    ball.visual = trimesh.visual.ColorVisuals(ball, vertex_colors=np.tile([40, 200, 40, 255], (len(ball.vertices), 1)))
    ball.apply_translation((-0.5, 1.1, 0))
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False, visual=picture))
    scene.add_geometry(trimesh.Trimesh(corners * (0.4, 0.6, 1) + (1.6, 0, 0), [[0, 1, 2], [0, 2, 3]], process=False, visual=pane))
    scene.add_geometry(ball)
    return rewrite(scene.export(file_type="glb"), lambda tree, offset: unlit(tree, range(2)))


def ball_glb() -> bytes:
    """Return a GLB of a white ball with a strong lamp near it, which must be ignored."""
    ball = trimesh.creation.icosphere(5, 3.0)
    ball.visual = material(baseColorFactor=[0.8, 0.8, 0.8, 1.0])
    ball.apply_translation((10, 20, 30))

    def edit(tree: dict, offset: int) -> None:
        tree["extensionsUsed"] = ["KHR_lights_punctual"]
        tree["extensions"] = {"KHR_lights_punctual": {"lights": [{"type": "point", "intensity": 1e5}]}}
        tree["nodes"].append({"extensions": {"KHR_lights_punctual": {"light": 0}}, "translation": [10, 20, 35]})
        tree["scenes"][0]["nodes"].append(len(tree["nodes"]) - 1)

    return rewrite(trimesh.Scene(ball).export(file_type="glb"), edit)


def point_glb() -> bytes:
    return trimesh.Scene(trimesh.PointCloud([[0.0, 0, 0], [1, 2, 3]])).export(file_type="glb")


def scaled_glb(scale: float) -> bytes:
    def edit(tree: dict, offset: int) -> None:
        del tree["nodes"][0]["matrix"]
        tree["nodes"][0]["scale"] = [scale, scale, scale]

    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box(), transform=compose_matrix(translate=(1, 2, 3)))
    return rewrite(scene.export(file_type="glb"), edit)


def normalised(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return points (k, 3) of glTF's world at the renderer's expected positions."""
    points, corners = points @ Z_UP.T, corners @ Z_UP.T
    centre = (corners.min(0) + corners.max(0)) / 2
    half_extent, radius = np.abs(corners - centre).max(), np.linalg.norm(corners - centre, axis=1).max()
    return (points - centre) * min(0.75 / half_extent, 0.85 / radius)


def project(view: View, points: np.ndarray) -> np.ndarray:
    """Return pixels (k, 2), x before y, and depths (k, 1): (k, 3)."""
    camera = points @ view.w2c[:3, :3].T + view.w2c[:3, 3]
    pixels = camera[:, :2] / camera[:, 2:] * (view.fx, view.fy) + (view.cx, view.cy)
    return np.concatenate([pixels, camera[:, 2:]], axis=1)


def read(view: View) -> np.ndarray:
    """Return (h, w, 4) uint8, not composited on white."""
    with Image.open(view.file_path) as image:
        assert (image.mode, image.size) == ("RGBA", (view.w, view.h))
        return np.asarray(image)


def marker_errors(image: np.ndarray, view: View, points: np.ndarray, colours: list[int]) -> list[float]:
    """Return the distances in pixels of isolated markers from their expected positions."""
    errors = []
    pixels = project(view, points)[:, :2]
    for i, pixel in enumerate(pixels):
        others = np.linalg.norm(np.delete(pixels, i, axis=0) - pixel, axis=1)
        rows, columns = np.mgrid[: view.h, : view.w] + 0.5
        near = np.hypot(columns - pixel[0], rows - pixel[1]) < 7
        if others.min() < 14 or not 7 < pixel[0] < view.w - 7 or not 7 < pixel[1] < view.h - 7:
            continue
        weight = image[..., 3] * near / 255.0
        assert weight.sum() > 2
        assert ((image[near & (image[..., 3] > 128)][:, :3] > 127) == (COLOURS[colours[i]] > 127)).all()
        centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        errors.append(float(np.linalg.norm(centre - pixel)))
    return errors


def test_markers_land_where_the_cameras_say(rendered):
    markers = rendered["markers"]
    points = normalised(markers["points"], markers["corners"])
    errors = []
    for view in rendered["scenes"]["markers"].views:
        errors += marker_errors(read(view), view, points, markers["colours"])
    assert len(errors) > 30
    # Measured: 0.05 at most, from the few samples of an edge.
    assert max(errors) < 0.15


def test_an_off_centre_camera_is_exact(rendered, blender_python, tmp_path):
    h, w = 170, 150
    view = rendered["scenes"]["markers"].views[2]
    camera = [190.0, 190.0, 60.3, 99.9]
    off = View(tmp_path / "view.png", w, h, *camera, view.w2c)
    job = {
        "size": [h, w], "samples": 32, "denoise": False,
        "views": [{"png": str(off.file_path), "fxfycxcy": camera, "c2w": view.c2w.tolist(), "seed": 0}],
    }  # fmt: skip
    with BlenderPool(str(blender_python), 1, 1, "cpu", 120) as pool:
        pool.render(rendered["folder"] / "in" / "markers.glb", job, lambda count: None)
    markers = rendered["markers"]
    errors = marker_errors(read(off), off, normalised(markers["points"], markers["corners"]), markers["colours"])
    assert len(errors) > 2
    assert max(errors) < 0.15


def facing(scene: Scene) -> list[View]:
    """Return the views that look at the plane y = 0 of the written world, from the front or back, and not from far above."""
    return [view for view in scene.views if abs(view.c2w[1, 3]) > 0.6 * np.linalg.norm(view.c2w[:3, 3])]


def test_textures_are_upright_unmirrored_and_keep_their_colours(rendered):
    places = np.array([[[-0.5, 0.2, 0], [0.5, 0.2, 0]], [[-0.5, -0.3, 0], [0.5, -0.3, 0]]]).reshape(4, 3)
    views = facing(rendered["scenes"]["materials"])
    assert len(views) >= 2
    for view in views:
        pixels = np.floor(project(view, normalised(places, material_corners()))).astype(int)
        found = read(view)[pixels[:, 1], pixels[:, 0]]
        assert (found[:, 3] == 255).all()
        # Denoising changes a plain colour by a step or two.
        assert np.abs(found[:, :3].astype(int) - TEXTURE.reshape(4, 3)).max() <= 4


def test_transparency_and_vertex_colours_survive(rendered):
    places = normalised(np.array([[1.6, 0, 0], [-0.5, 1.1, 0]]), material_corners())
    # Factors are linear, pixels are not.
    colour = np.array([60, 160, 220]) / 255
    colour = 255 * (1.055 * colour ** (1 / 2.4) - 0.055)
    for view in facing(rendered["scenes"]["materials"]):
        image = read(view)
        pane, ball = (image[int(y), int(x)].astype(int) for x, y, _ in project(view, places))
        assert np.abs(pane - (*colour, 128)).max() <= 4
        assert ball[3] == 255
        assert ball[1] > 1.5 * ball[[0, 2]].max()
    corners = np.stack([read(view)[[0, 0, -1, -1], [0, -1, 0, -1], 3] for view in rendered["scenes"]["ball"].views])
    assert (corners == 0).all()


def material_corners() -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 721)
    ball = np.concatenate([
        np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1), np.stack([0 * angles, np.cos(angles), np.sin(angles)], 1)
    ])  # fmt: skip
    return np.concatenate([[[-1, -0.6, 0], [2.0, 0.6, 0]], 0.35 * ball + (-0.5, 1.1, 0)])


def test_light_stands_still_around_the_object(rendered):
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(200, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # A white wall of albedo 0.8 under a uniform sky and three suns at azimuth and elevation, computed by hand.
    expected = np.full(200, 0.5)
    for azimuth, elevation, irradiance in ((-60, 50, 1.2), (50, 20, 0.6), (180, -30, 0.4)):
        a, e = np.radians((azimuth, elevation))
        sun = (np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e))
        expected += irradiance / np.pi * np.clip(normals @ sun, 0, None)
    found: list[float] = []
    wanted: list[float] = []
    for view in rendered["scenes"]["ball"].views:
        image = read(view)
        points = 0.75 * normals
        towards = view.c2w[:3, 3] - points
        seen = (towards * normals).sum(1) > 0.6 * np.linalg.norm(towards, axis=1)
        pixels = np.floor(project(view, points[seen])[:, :2]).astype(int)
        inside = ((pixels >= 0) & (pixels < (view.w, view.h))).all(1)
        colours = image[pixels[inside, 1], pixels[inside, 0], :3] / 255.0
        assert np.ptp(colours, axis=1).max() <= 2 / 255
        grey = colours.mean(1)
        found += np.where(grey <= 0.04045, grey / 12.92, ((grey + 0.055) / 1.055) ** 2.4).tolist()
        wanted += (0.8 * expected[seen][inside]).tolist()
    assert len(found) > 100
    # Measured: -0.007 to 0.012, from the gloss, which the sum omits, and the suns' width.
    assert np.abs(np.subtract(found, wanted)).max() < 0.03


def test_broken_files_are_reported_and_the_others_are_finished(rendered, capsys):
    assert rendered["code"] == 2
    assert sorted(rendered["scenes"]) == ["ball", "markers", "materials"]
    assert sorted(rendered["failed"]) == ["cut", "endless", "points", "speck", "text"]
    assert "speck.glb: is a single point; wanted an object with a size" in rendered["failed"]["speck"]
    assert "endless.glb: has vertices that are not finite; wanted a mesh" in rendered["failed"]["endless"]
    assert "points.glb: shows no surface; wanted a mesh with faces" in rendered["failed"]["points"]
    assert "Bad glTF" in rendered["failed"]["text"]
    out = rendered["folder"] / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    good = rendered["folder"] / "good"
    good.mkdir()
    for name in rendered["scenes"]:
        shutil.copy(rendered["folder"] / "in" / f"{name}.glb", good)
    h, w = SIZE
    assert main(["--input", str(good), "--output", str(out), "--image_size", str(h), str(w), "--num_views", "8"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before


class Hub(BaseHTTPRequestHandler):
    """Stand-in for the server of Objaverse."""

    def do_GET(self) -> None:
        uid = Path(self.path).stem
        status, content = self.server.files.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if uid == self.server.cut else content)

    def log_message(self, *what: object) -> None:
        pass


def test_objects_are_downloaded_with_the_objaverse_package(blender_python, tmp_path, monkeypatch, capsys):
    good, cut, forbidden, lost, unknown = (f"{i:032x}" for i in range(5))
    start = "/datasets/allenai/objaverse/resolve/main"
    places = {uid: f"glbs/000-001/{uid}.glb" for uid in (good, cut, forbidden, lost)}
    files = {f"{start}/{places[uid]}": (200, ball_glb()) for uid in (good, cut)}
    files[f"{start}/object-paths.json.gz"] = (200, gzip.compress(json.dumps(places).encode()))
    files[f"{start}/{places[forbidden]}"] = (403, b"")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, urllib.request\n"
        "real = urllib.request.urlretrieve\n"
        "def urlretrieve(url, *more):\n"
        "    return real(url.replace('https://huggingface.co', os.environ['TEST_HUB']), *more)\n"
        "urllib.request.urlretrieve = urlretrieve\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{blender_python}" "$@"\n')
    python.chmod(0o755)
    arguments = ["--uids", good, cut, forbidden, lost, unknown, "--output", str(tmp_path / "out"), "--image_size", "16", "24",
                 "--num_views", "1", "--samples", "1", "--blender_python", str(python)]  # fmt: skip
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.cut = files, cut
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("TEST_HUB", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert main(arguments) == 2
        failed = json.loads((tmp_path / "out" / "objaverse_failed.json").read_text())
        assert list(failed) == [cut, forbidden, lost, unknown]
        for uid, text in (
            (cut, "ContentTooShortError"), (forbidden, "403: Forbidden"), (lost, "404: Not Found"),
            (unknown, "is not in Objaverse; wanted a uid in its list"),
        ):  # fmt: skip
            assert text in failed[uid]
        assert len(read_data_path(tmp_path / "out" / "objaverse_data_path.json")) == 1

        server.cut = None
        index = tmp_path / ".objaverse" / "hf-objaverse-v1" / "object-paths.json.gz"
        whole = index.read_bytes()
        index.write_bytes(whole[:-9])
        assert main(arguments) == 2
        assert "the list of objects cannot be read (EOFError" in capsys.readouterr().err
        index.write_bytes(whole)
        assert main([*arguments[:3], *arguments[6:]]) == 0
        server.shutdown()


def test_a_device_that_is_not_there_is_refused(rendered, blender_python, tmp_path, capsys):
    device = "optix" if shutil.which("nvidia-smi") is None else "hip"
    arguments = ["--input", str(rendered["folder"] / "in"), "--output", str(tmp_path), "--blender_python", str(blender_python)]
    for kind, message in (
        (device, f"is {device}, which this machine does not have; wanted cpu"),
        ("metal", "is metal, which this Blender was"),
    ):
        assert main([*arguments, "--device", kind]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"objaverse_render.py: --device: {message}")
