"""Blender renders of cubes with all that glTF allows and much that it does not: textures, nodes, places, sizes.

All are rendered at once. Letters: k boxes, h w pixels.
"""

import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trimesh.transformations import compose_matrix, scale_matrix, translation_matrix

from config.errors import InputError
from data.scene_format import View, read_scene
from data.scene_list import read_data_path
from data_preprocess.blender.pool import BlenderPool
from data_preprocess.objaverse_render import main
from tests.support.glb import Cube
from tests.support.images import deep_png

pytestmark = pytest.mark.slow

RED = (1, 0, 0)
BRICK = (200, 60, 40)
FAR = (691600.3, 5334768.7, -512.1)
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
UNIT = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size, BRICK).convert(mode)


def noise(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encode(Image.fromarray(pixels), kind)


PNG = encode(plain())
KTX2 = b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(80)
HALVES = encode(Image.fromarray(np.uint8([[BRICK] * 8 + [(0, 0, 255)] * 8] * 16)))


def with_images() -> dict[str, bytes]:
    """Return GLBs with a texture of a plain brick red, stored in every way that is allowed, and in some others."""
    images = {
        "png": PNG, "one_pixel": encode(plain((1, 1))), "wide": encode(plain((20000, 2))),
        "large": encode(plain((8192, 4096)), compress_level=1), "palette": encode(plain(mode="RGBA").quantize(8)),
        "jpeg": encode(plain(), "JPEG", quality=95), "progressive": encode(plain(), "JPEG", quality=95, progressive=True),
        "cmyk": encode(plain(mode="CMYK"), "JPEG", quality=95), "sixteen_bits": deep_png(np.asarray(plain()) * np.uint16(257), 2),
        "webp": encode(plain(), "WEBP", lossless=True),
    }  # fmt: skip
    cubes = {name: Cube(image=content) for name, content in images.items()}
    for name, cube in cubes.items():
        # Most lie about their kind.
        cube.tree["images"][0]["mimeType"] = "image/jpeg" if name == "png" else "image/png"

    cubes["webp_extension"] = Cube(image=images["webp"])
    texture = cubes["webp_extension"].tree["textures"][0]
    cubes["webp_extension"].use("EXT_texture_webp", texture, {"source": texture.pop("source")}, required=True)
    cubes["basisu_with_fallback"] = Cube(image=PNG)
    cubes["basisu_with_fallback"].tree["images"].append({"uri": "none.ktx2"})
    cubes["basisu_with_fallback"].use("KHR_texture_basisu", cubes["basisu_with_fallback"].tree["textures"][0], {"source": 1})
    data = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    for name, uri in (("data", data), ("file", "my%20brick.png"), ("animated", "my%20brick.png")):
        cubes[name] = Cube(image=PNG)
        cubes[name].tree["images"] = [{"uri": uri}]
    cubes["animated"].tree["animations"] = [{"channels": [], "samplers": []}]
    cubes["unused_images"] = Cube(image=PNG)
    cubes["unused_images"].tree["images"].append({"uri": "none.png"})
    cubes["unused_images"].tree["textures"].append({"source": 1})
    cubes["unused_images"].tree["materials"].append({"normalTexture": {"index": 1}})
    # The image of the visible cube is also the normal map of one inside it.
    shared = cubes["shared_with_data"] = Cube(image=PNG)
    shared.tree["materials"].append({"normalTexture": {"index": 0}})
    shared.tree["meshes"].append({"primitives": [{**shared.primitive, "material": 1}]})
    shared.tree["nodes"].append({"mesh": 1, "scale": [0.5] * 3})
    shared.tree["scenes"][0]["nodes"] = [0, 1]
    cubes["without_uv"] = Cube(image=PNG)
    del cubes["without_uv"].primitive["attributes"]["TEXCOORD_0"]
    return {name: cube.glb() for name, cube in cubes.items()}


def with_coordinates() -> dict[str, bytes]:
    """Return GLBs that show the blue half of a texture, by a second set of coordinates and by their transform."""
    second = Cube(image=HALVES)
    second.primitive["attributes"]["TEXCOORD_1"] = second.add(np.full((8, 2), 0.75, np.float32))
    second.texture["texCoord"] = 1
    moved = Cube(image=HALVES)
    moved.use("KHR_texture_transform", moved.texture, {"offset": [0.5, 0]}, required=True)
    return {"second_coordinates": second.glb(), "moved_coordinates": moved.glb()}


def two_nodes() -> Cube:
    """Return a red cube, and a green one 10 to the right of it, whose texture is missing."""
    cube = Cube(RED)
    green = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, "extensions": {"KHR_materials_unlit": {}}}
    cube.tree["materials"].append(green)
    cube.tree["images"], cube.tree["textures"] = [{"uri": "none.png"}], [{"source": 0}]
    cube.tree["meshes"].append({"primitives": [{**cube.primitive, "material": 1}]})
    cube.tree["nodes"].append({"mesh": 1, "translation": [10, 0, 0]})
    return cube


def with_hidden_nodes() -> dict[str, bytes]:
    """Return GLBs that show only their red cube."""
    cubes = {name: two_nodes() for name in ("orphan", "first_scene", "second_scene", "hidden", "hidden_below")}
    cubes["first_scene"].tree["scenes"].append({"nodes": [1]})
    del cubes["first_scene"].tree["scene"]
    cubes["second_scene"].tree |= {"scenes": [{"nodes": [1]}, {"nodes": [0]}], "scene": 1}
    for name, required in (("hidden", True), ("hidden_below", False)):
        tree = cubes[name].tree
        tree["scenes"][0]["nodes"] = [0, 1]
        cubes[name].use("KHR_node_visibility", tree["nodes"][1], {"visible": False}, required)
    tree["nodes"].append(tree["nodes"][1] | {"extensions": {}})
    tree["nodes"][1] = {"children": [2], "extensions": {"KHR_node_visibility": {"visible": False}}}
    return {name: cube.glb() for name, cube in cubes.items()}


def placed() -> dict[str, tuple[bytes, list[np.ndarray]]]:
    """Return GLBs of red cubes, and the matrices (4, 4) of glTF's world that make each of their boxes from that of half-side 1."""
    found = {}
    for name, matrix in (
        ("far_node", translation_matrix(FAR)), ("farther", translation_matrix((1e9, -2e9, 3e9))),
        ("turned", compose_matrix(translate=(1, 2, 3), angles=(0.3, 0.5, 0.7), scale=(1, 2, -3))),
    ):  # fmt: skip
        found[name] = Cube(RED), [matrix]
        found[name][0].tree["nodes"][0]["matrix"] = matrix.T.ravel().tolist()
    for name, scale in (("tiny", 1e-20), ("enormous", 1e30)):
        found[name] = Cube(RED), [scale_matrix(scale)]
        found[name][0].tree["nodes"][0]["scale"] = [scale] * 3

    for name, centre in (("far_vertices", np.array([691600.0, 5334768, -512])), ("big_vertices", np.zeros(3))):
        half_side = 4.0 if centre.any() else 1e25
        found[name] = Cube(RED), [translation_matrix(centre) @ scale_matrix(half_side)]
        vertices = (UNIT * half_side + centre).astype(np.float32)
        found[name][0].primitive["attributes"]["POSITION"] = found[name][0].add(vertices)

    # A turned and stretched node far away with two children: the second is sheared.
    cube = Cube(RED)
    root = compose_matrix(translate=np.multiply(FAR, 10), angles=(0.3, 0.2, 0.1), scale=(1, 2, 1))
    children = [translation_matrix((-1.25, 0, 0)), compose_matrix(translate=(2, 0.5, 1), angles=(0.4, 0.5, 0.6))]
    matrices = [root, *children]
    cube.tree["nodes"] = [{"matrix": matrix.T.ravel().tolist(), "mesh": 0} for matrix in matrices]
    del cube.tree["nodes"][0]["mesh"]
    cube.tree["nodes"][0]["children"] = [1, 2]
    found["far_children"] = cube, [root @ child for child in children]

    cube = Cube(RED)
    cube.use("EXT_mesh_gpu_instancing", cube.tree["nodes"][0], {
        "attributes": {"TRANSLATION": cube.add(np.float32([[6e6, 0, 0], [6e6 + 4, 1, 0], [6e6 + 8, 0, 0]]))}
    })  # fmt: skip
    found["instances"] = cube, [translation_matrix(at) for at in ([6e6, 0, 0], [6e6 + 4, 1, 0], [6e6 + 8, 0, 0])]

    for name, far in (("skin", 0.0), ("far_skin", 4e6)):
        # The node of a skinned mesh does not place it, its joint does.
        cube = Cube(RED)
        cube.primitive["attributes"] |= {
            "JOINTS_0": cube.add(np.zeros((8, 4), np.uint8)), "WEIGHTS_0": cube.add(np.float32([[1, 0, 0, 0]] * 8)),
        }  # fmt: skip
        plain_mesh = {key: value for key, value in cube.primitive["attributes"].items() if key[:5] not in ("JOINT", "WEIGH")}
        cube.tree["meshes"].append({"primitives": [{**cube.primitive, "attributes": plain_mesh}]})
        cube.tree["skins"] = [{"joints": [1]}]
        cube.tree["nodes"] = [
            {"mesh": 0, "skin": 0, "translation": [1000, 0, 0]},
            {"translation": [far + 3, 1, 0], "scale": [0.5] * 3, "children": [3]},
            {"mesh": 1, "translation": [far, 0, 0]},
            {"mesh": 1, "translation": [0, 5, 2], "rotation": [0.6, 0, 0, 0.8]},
        ]  # fmt: skip
        cube.tree["scenes"][0]["nodes"] = [0, 1, 2]
        joint = translation_matrix((far + 3, 1, 0)) @ scale_matrix(0.5)
        # The third one hangs from the joint, turned by 73.7 degrees about x.
        child = compose_matrix(translate=(0, 5, 2), angles=(2 * np.arctan2(0.6, 0.8), 0, 0))
        found[name] = cube, [translation_matrix((far, 0, 0)), joint, joint @ child]

    cube = Cube(RED)
    cube.primitive["targets"] = [{"POSITION": cube.add(np.float32(np.where(UNIT[:, :1] > 0, (4, 0, 0), (0, 0, 0))))}]
    cube.tree["meshes"][0]["weights"] = [0.5]
    found["morph"] = cube, [compose_matrix(translate=(1, 0, 0), scale=(2, 1, 1))]

    cube = Cube(RED, dtype=np.int8)
    cube.tree["extensionsUsed"] += ["KHR_mesh_quantization"]
    cube.tree["extensionsRequired"] += ["KHR_mesh_quantization"]
    points = {"attributes": {"POSITION": cube.add(np.float32([[50, 0, 0], [60, 0, 0]]))}, "mode": 0, "material": 0}
    cube.tree["meshes"][0]["primitives"].append(points)
    found["quantised_with_points"] = cube, [np.eye(4)]
    return {name: (cube.glb(), boxes) for name, (cube, boxes) in found.items()}


def with_bad_textures() -> dict[str, tuple[bytes, str]]:
    """Return GLBs with an unreadable texture, and what is said about it."""
    base, label = {}, "base color (Image_0)"
    for name, content in (
        ("cut_png", noise("PNG")[:-3000]), ("cut_jpeg", noise("JPEG")[:-900]), ("cut_webp", noise("WEBP")[:-500]),
        ("gif", encode(plain(), "GIF")), ("ktx2", KTX2), ("empty", b""), ("text", b"no picture"),
    ):  # fmt: skip
        base[name] = Cube(image=content), label
    for name, image, what in (
        ("no_file", {"uri": "textures/oak.png"}, "base color (textures/oak.png)"),
        ("web", {"uri": "http://localhost/oak.png"}, "base color (http:/localhost/oak.png)"),
        ("text_file", {"uri": "text.png"}, "base color (text.png)"), ("folder", {"uri": "."}, "base color (.)"),
        ("cut_data", {"uri": f"data:image/png;base64,{base64.b64encode(PNG[:50]).decode()}"}, label),
        ("bad_data", {"uri": "data:image/png,@"}, "base color (no image that Blender knows)"),
        ("named", {"uri": "oak.png", "name": "Oak"}, "base color (oak.png)"),
    ):  # fmt: skip
        base[name] = Cube(image=PNG), what
        base[name][0].tree["images"] = [image]
    base["basisu"] = Cube(image=KTX2), "base color (no image that Blender knows)"
    texture = base["basisu"][0].tree["textures"][0]
    base["basisu"][0].use("KHR_texture_basisu", texture, {"source": texture.pop("source")})
    base["sourceless"] = Cube(image=PNG), "base color (no image that Blender knows)"
    base["sourceless"][0].tree["textures"] = [{}]
    for place in ("metallicRoughness", "normal", "occlusion", "emissive"):
        cube = base[place] = lit_with_missing_texture(), None
        material = cube[0].tree["materials"][0]
        (material["pbrMetallicRoughness"] if place == "metallicRoughness" else material)[f"{place}Texture"] = {"index": 1}
    for place in (
        "specular.specular", "specular.specularColor", "clearcoat.clearcoat", "clearcoat.clearcoatRoughness",
        "clearcoat.clearcoatNormal", "transmission.transmission", "sheen.sheenColor", "sheen.sheenRoughness",
        "volume.thickness", "anisotropy.anisotropy",
    ):  # fmt: skip
        extension, key = place.split(".")
        base[place] = lit_with_missing_texture(), None
        factors = {"clearcoatFactor": 1, "transmissionFactor": 1, "thicknessFactor": 1, "sheenColorFactor": [1, 1, 1]}
        content = {f"{key}Texture": {"index": 1}, **factors}
        base[place][0].use(f"KHR_materials_{extension}", base[place][0].tree["materials"][0], content)
    return {name: (cube.glb(), f"cannot be read: {text or ''}") for name, (cube, text) in base.items()}


def lit_with_missing_texture() -> Cube:
    cube = Cube(image=PNG)
    del cube.tree["materials"][0]["extensions"]
    cube.tree["images"].append({"uri": "none.png"})
    cube.tree["textures"].append({"source": 1})
    return cube


def damaged() -> dict[str, tuple[bytes, str]]:
    """Return GLBs that cannot be rendered whole, and what is said about them."""
    found = {name: Cube(image=PNG) for name in ("image_index", "view_index", "meshopt", "draco", "basisu_required", "transparent")}
    found["image_index"].tree["textures"][0]["source"] = 9
    found["view_index"].tree["images"][0]["bufferView"] = 99
    found["meshopt"].use("EXT_meshopt_compression", found["meshopt"].tree["bufferViews"][0], {}, required=True)
    found["basisu_required"].use("KHR_texture_basisu", found["basisu_required"].tree["textures"][0], {"source": 0}, required=True)
    # The second primitive alone must not pass for the object.
    cube = found["draco"]
    content = {"bufferView": 0, "attributes": {"POSITION": 0}}
    sound = dict(cube.primitive)
    cube.use("KHR_draco_mesh_compression", cube.primitive, content, required=True)
    cube.tree["meshes"][0]["primitives"].append({key: value for key, value in sound.items() if key != "extensions"})
    found["transparent"].tree["materials"][0] |= {"alphaMode": "MASK", "alphaCutoff": 0.5}
    found["transparent"].tree["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = [1, 1, 1, 0.4]
    found["lines"] = Cube(RED)
    found["lines"].primitive["mode"] = 1
    said = {
        "image_index": "cannot be rendered (IndexError: list index out of range)", "view_index": "cannot be rendered (IndexError",
        "meshopt": "cannot be rendered (Extension EXT_meshopt_compression is not available",
        "basisu_required": "cannot be rendered (Extension KHR_texture_basisu is not available",
        "draco": "cannot be imported whole (Draco Decoder: Unable to decode", "lines": "shows no surface",
        "transparent": "shows nothing in any view",
    }  # fmt: skip
    return {name: (cube.glb(), said[name]) for name, cube in found.items()}


@pytest.fixture(scope="module")
def rendered(blender_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Render all of them; return the views of each, and what is said about the others."""
    folder = tmp_path_factory.mktemp("cubes")
    (folder / "in").mkdir()
    (folder / "in" / "my brick.png").write_bytes(PNG)
    (folder / "in" / "text.png").write_text("no picture")
    plain_ones = with_images() | with_coordinates() | with_hidden_nodes()
    others = {name: glb for name, (glb, _) in (placed() | with_bad_textures() | damaged()).items()}
    for name, glb in (plain_ones | others).items():
        (folder / "in" / f"{name}.glb").write_bytes(glb)
    code = main(["--input", str(folder / "in"), "--output", str(folder / "out"), "--blender_python", str(blender_python),
                 "--image_size", "48", "56", "--num_views", "2", "--samples", "8", "--no_denoise", "--workers", "2"])  # fmt: skip
    assert code == 2
    scenes = [read_scene(path) for path in read_data_path(folder / "out" / "objaverse_data_path.json")]
    failed = json.loads((folder / "out" / "objaverse_failed.json").read_text())
    return {"folder": folder, "views": {scene.name: scene.views for scene in scenes}, "failed": failed}


def read(view: View) -> np.ndarray:
    """Return (h, w, 4) uint8, not composited on white."""
    with Image.open(view.file_path) as image:
        return np.asarray(image)


def check_colour(views: list[View], colour: tuple[int, int, int]) -> None:
    """Check that all opaque pixels have one colour."""
    for view in views:
        image = read(view)
        opaque = image[image[..., 3] == 255][:, :3].astype(int)
        assert len(opaque) > 50
        # Measured: at most 1.
        assert np.abs(opaque - colour).max() <= 3


def in_box(view: View, boxes: list[np.ndarray]) -> np.ndarray:
    """Return which pixels (h, w) look at a box: the image of the cube of half-side 1 by one of the matrices (4, 4)."""
    y, x = np.mgrid[: view.h, : view.w] + 0.5
    ray = np.stack([(x - view.cx) / view.fx, (y - view.cy) / view.fy, np.ones_like(x)], axis=-1) @ view.c2w[:3, :3].T
    hit = np.zeros(x.shape, bool)
    for box in boxes:
        inverse = np.linalg.inv(box)
        start, direction = inverse[:3, :3] @ view.c2w[:3, 3] + inverse[:3, 3], ray @ inverse[:3, :3].T
        near, far = np.sort(np.stack([(-1 - start) / direction, (1 - start) / direction]), axis=0)
        hit |= near.max(-1) < far.min(-1)
    return hit


@pytest.mark.parametrize("name", with_images())
def test_a_texture_is_right_however_it_is_stored(rendered, name):
    check_colour(rendered["views"][name], BRICK)


@pytest.mark.parametrize("name", with_coordinates())
def test_texture_coordinates_are_the_chosen_ones(rendered, name):
    check_colour(rendered["views"][name], (0, 0, 255))


@pytest.mark.parametrize("name", with_hidden_nodes())
def test_only_what_the_default_scene_shows_is_rendered(rendered, name):
    check_colour(rendered["views"][name], (255, 0, 0))
    check_outline(rendered["views"][name], [np.eye(4)])


@pytest.mark.parametrize("name", placed())
def test_an_object_is_centred_and_scaled_wherever_it_is(rendered, name):
    check_outline(rendered["views"][name], placed()[name][1])


def check_outline(views: list[View], boxes: list[np.ndarray]) -> None:
    """Check that the object looks like boxes, given by matrices (4, 4) of glTF's world, centred and scaled."""
    corners = np.concatenate([UNIT @ (Z_UP @ box)[:3, :3].T + (Z_UP @ box)[:3, 3] for box in boxes])
    centre = (corners.min(0) + corners.max(0)) / 2
    scale = min(0.75 / np.abs(corners - centre).max(), 0.85 / np.linalg.norm(corners - centre, axis=1).max())
    placed_boxes = [scale_matrix(scale) @ translation_matrix(-centre) @ Z_UP @ box for box in boxes]
    for view in views:
        found, wanted = read(view)[..., 3] > 127, in_box(view, placed_boxes)
        assert wanted.sum() > 50
        # Pixels of the outline itself may fall on either side: measured, 12 at most.
        assert (found != wanted).sum() <= 20


def test_a_cube_far_away_has_the_size_of_one_at_the_origin(rendered):
    cube = [scale_matrix(0.85 / 3**0.5)]
    for view in rendered["views"]["far_vertices"]:
        assert ((read(view)[..., 3] > 127) != in_box(view, cube)).sum() <= 20


@pytest.mark.parametrize("name", with_bad_textures() | damaged())
def test_an_object_that_cannot_be_rendered_whole_fails_by_name(rendered, name):
    said = (with_bad_textures() | damaged())[name][1]
    assert f"{name}.glb: " in rendered["failed"][name]
    assert said in rendered["failed"][name]
    assert not (rendered["folder"] / "out" / name / "opencv_cameras.json").exists()


def test_whatever_a_worker_raises_is_of_the_object(rendered, blender_python, tmp_path):
    job = {"size": [8, 8], "samples": 1, "denoise": False}
    view = {"png": str(tmp_path / "a.png"), "fxfycxcy": [9, 9, 4, 4], "c2w": np.eye(4).tolist(), "seed": 0}
    glb = rendered["folder"] / "in" / "png.glb"
    with BlenderPool(str(blender_python), 1, 1, "cpu", 120) as pool:
        with pytest.raises(InputError, match=r"png.glb: cannot be rendered \(TypeError: .*\); wanted a GLB that Blender imports$"):
            pool.render(glb, {**job, "views": [{**view, "c2w": [1, 2]}]}, lambda count: None)
        pool.render(glb, {**job, "views": [view]}, lambda count: None)


def test_compressed_meshes_are_read(blender_python, tmp_path):
    (tmp_path / "in").mkdir()
    script = (
        "import bpy, sys; bpy.ops.wm.read_factory_settings(use_empty=True); bpy.ops.mesh.primitive_cube_add()\n"
        "bpy.ops.export_scene.gltf(filepath=sys.argv[1], export_draco_mesh_compression_enable=True)"
    )
    subprocess.run([blender_python, "-c", script, tmp_path / "in" / "draco.glb"], check=True, capture_output=True)
    assert b"KHR_draco_mesh_compression" in (tmp_path / "in" / "draco.glb").read_bytes()
    assert main(["--input", str(tmp_path / "in"), "--output", str(tmp_path), "--blender_python", str(blender_python), "--num_views",
                 "1", "--image_size", "48", "48", "--samples", "8", "--no_denoise"]) == 0  # fmt: skip
    check_outline(read_scene(tmp_path / "draco" / "opencv_cameras.json").views, [np.eye(4)])
