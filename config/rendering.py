"""Settings of inference.py: its flags by subject."""

from dataclasses import dataclass
from typing import Any

from config.flags import flag
from config.paths import ROOT
from config.recipe import COMPILE_MODES

# The bundled models.
DEFAULT_WEIGHTS = ROOT / "weight" / "lact_objects_64.safetensors"
DEFAULT_SCENE_WEIGHTS = ROOT / "weight" / "lact_scenes_64.safetensors"
DEFAULT_OBJECTS = ROOT / "data_example" / "objects_data_path.json"
DEFAULT_SCENES = ROOT / "data_example" / "scene_data_path.json"
VIDEO_PATHS = ("turntable", "published", "orbit", "flight")
STREAM_ORDERS = ("spread", "given")
VIEW_SELECTIONS = ("uniform", "spread", "random", "kmeans")
PRECISIONS = ("float32", "bfloat16")
FAST_WEIGHT_OPS = ("auto", "naive", "compiled", "autotuned")
# Evaluation protocols: the settings that each consists of. A view index takes the place of those that choose views.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "dl3dv140": {
        "scene_inference": True,
        "image_size": (536, 960),
        "target_every": 8,
        "view_selection": "kmeans",
        "pose_reference": "inputs",
    },
}
OF_INDEX = ("target_every", "view_selection")


@dataclass(frozen=True)
class Network:
    load: str | None = flag(
        None, "weights: a file, or a published name such as weight/obj_res256.pt, downloaded if missing",
        group="network", unset="the bundled model of objects, or of scenes",
    )  # fmt: skip
    config: str | None = flag(None, "network config, a YAML file", unset="the one that belongs to the weights")

    @property
    def weights(self) -> str:
        """The weights; `main` fills in the default, which depends on the kind of scene."""
        assert self.load is not None
        return self.load


@dataclass(frozen=True)
class Scenes:
    data_path: str | None = flag(
        None,
        "list of scenes (JSON, or .txt with a path on each line), or one scene's opencv_cameras.json",
        group="scenes",
        unset="the examples in data_example/",
    )
    output_dir: str = flag("output", "folder for the results")
    image_size: tuple[int, int] | None = flag(None, "height and width", least=1, unset="what the weights were trained at")
    scene_inference: bool | None = flag(
        None, "scenes, not objects: normalised poses, video along the input cameras", unset="as the weights were trained"
    )

    @property
    def normalised(self) -> bool:
        return bool(self.scene_inference)

    @property
    def source(self) -> str:
        return self.data_path or str(DEFAULT_SCENES if self.scene_inference else DEFAULT_OBJECTS)


@dataclass(frozen=True)
class Views:
    num_all_views: int | None = flag(None, "first subsample the scene to this many views", group="views", least=1, unset="all")
    num_input_views: tuple[int, ...] | None = flag(
        None,
        "number of inputs; several numbers are compared on the same targets, those that the largest leaves",
        least=1,
        metavar="N",
        unset="what the weights were trained with, or as many as leave a target; with --stream all that are not targets",
    )
    num_target_views: int | None = flag(None, "number of targets", least=0, unset="all views that are not inputs")
    view_selection: str | None = flag(
        None, "how inputs are chosen", choices=VIEW_SELECTIONS, unset="spread for objects, uniform for scenes"
    )
    target_every: int | None = flag(None, "targets are views 0, N, 2N, …; inputs are chosen from the others", least=1, metavar="N")
    protocol: str | None = flag(
        None,
        "all settings of a published evaluation but the number of inputs; dl3dv140: targets 0, 8, 16, …, k-means inputs, poses "
        "normalised over the inputs, 536×960",
        choices=tuple(PROTOCOLS),
    )
    view_index: str | None = flag(
        None, "JSON with the inputs and targets of each scene, of this program or of Long-LRM", metavar="FILE"
    )
    write_view_index: str | None = flag(None, "write the chosen inputs and targets of each scene to a JSON", metavar="FILE")
    seed: int = flag(0, "seed of random and kmeans selection", least=0)
    pose_reference: str = flag("all", "scenes: views that define frame and scale", choices=("all", "inputs"))
    scene_scale: float = flag(
        1.0,
        "scenes, S: camera positions are scaled into [-1/S, 1/S]; 1.0 for LaCT weights, 1.35 for LVSM and Long-LRM weights",
        above=0,
    )

    @property
    def swept(self) -> bool:
        """Whether several numbers of inputs are compared."""
        return self.num_input_views is not None and len(self.num_input_views) > 1


@dataclass(frozen=True)
class Streaming:
    stream: int | None = flag(
        None,
        "read the inputs as a stream, K at a time, in memory that does not grow with their number. Approximate: views do not see "
        "those after them",
        group="streams",
        least=1,
        metavar="K",
        unset="all inputs at once, exactly",
    )
    stream_order: str | None = flag(
        None,
        "spread: each view between those before it, which loses least; given: as listed, which reads a video in one go",
        choices=STREAM_ORDERS,
        unset="spread, given with --wait",
    )
    passes: int = flag(
        1,
        "times the stream is read: each makes one more layer exact, and as many as layers mix views all of them",
        least=1,
        metavar="P",
    )
    wait: float = flag(
        0.0,
        "follow one scene that is still being captured: wait for photos, and for views added to the end of its list, and end once "
        "nothing has come for S seconds; all views are inputs",
        least=0,
        metavar="S",
        unset="0",
    )


@dataclass(frozen=True)
class Video:
    video_format: str = flag("mp4", "format of the video", group="video", choices=("mp4", "gif", "none"))
    video_frames: int = flag(120, "number of frames", least=1)
    video_fps: int | None = flag(None, "frames per second", least=1, most=240, unset="30, or those of --camera_path")
    video_size: tuple[int, int] | None = flag(
        None, "height and width of the video", least=1, unset="that of --camera_path, or --image_size"
    )
    video_scale: int = flag(1, "enlarge finished frames: every pixel becomes N×N equal ones", least=1, most=64, metavar="N")
    side_by_side: bool = flag(False, "set the nearest input photo beside the rendering")
    video_path: str | None = flag(
        None,
        "turntable: around the origin, the whole object in view; published: the release's turntable; orbit: around what the "
        "inputs look at; flight: past the inputs",
        choices=VIDEO_PATHS,
        unset="turntable for objects, flight for scenes",
    )
    camera_path: str | None = flag(None, "camera path in nerfstudio's format, in the frame of the cameras' file", metavar="FILE")
    camera_path_frame: tuple[str, ...] | None = flag(
        None,
        "the camera path is in the frame of nerfstudio's viewer: its dataparser_transforms.json and, where the capture was "
        "converted from a transforms.json with applied_transform, that file",
        metavar="FILE",
    )
    video_radius: float | None = flag(
        None, "turntable, orbit: distance to the centre, in units of the cameras' file", above=0, unset="by the inputs"
    )
    video_elevation: float | None = flag(
        None, "turntable, orbit: degrees above the ground", least=-90, most=90, unset="30 ± 15 for a turntable, else by the inputs"
    )
    video_fov: float | None = flag(
        None, "turntable, orbit: horizontal field of view, degrees", least=1, most=179, unset="50 for a turntable, else the inputs'"
    )
    path_order: str = flag(
        "given", "flight: pass the inputs in list order, or in nearest-neighbour order", choices=("given", "nearest")
    )
    path_smoothing: float = flag(
        0.5, "flight: width of the smoothing in mean distances between inputs; 0 passes through each", least=0, most=1000
    )

    def kind(self, normalised: bool) -> str:
        """Return the path, or its default: for scenes, whose poses are normalised, or for objects."""
        return self.video_path or ("flight" if normalised else "turntable")


@dataclass(frozen=True)
class Results:
    save_images: bool = flag(False, "write every rendered target as PNG", group="results")
    no_lpips: bool = flag(False, "do not compute LPIPS, which needs 550 MB of weights")
    save_state: bool = flag(False, "save the reconstruction: state.safetensors next to the video")
    load_state: str | None = flag(None, "render the video of a saved reconstruction, without its photos", metavar="FILE")


@dataclass(frozen=True)
class Interaction:
    viewer: bool = flag(False, "show the scenes in a browser, in place of metrics and videos", group="viewer")
    host: str = flag("127.0.0.1", "address that the viewer listens at; 0.0.0.0 lets other machines in")
    port: int = flag(8080, "its port, or the next free one", least=1, most=65535)


@dataclass(frozen=True)
class Machine:
    device: str = flag("auto", "auto, cpu, cuda or cuda:N", group="machine")
    precision: str = flag(
        "auto", "precision of the layers; auto is bfloat16 where the hardware supports it", choices=("auto", *PRECISIONS)
    )
    newton_schulz_dtype: str = flag(
        "bfloat16", "precision of Newton-Schulz; published weights were trained with bfloat16", choices=PRECISIONS
    )
    chunk_views: int | None = flag(None, "views computed at a time", least=1, unset="by free memory")
    context_parallel: int = flag(1, "processes that split the views of each scene", least=1, metavar="M")
    num_workers: int | None = flag(None, "threads that read images", least=0, unset="one per core, 8 at most")
    compile: bool = flag(False, "compile every layer with torch.compile")
    # reduce-overhead replays CUDA graphs: the next chunk of views would overwrite their results.
    compile_mode: str = flag(
        "default", "mode of torch.compile", choices=tuple(mode for mode in COMPILE_MODES if mode != "reduce-overhead")
    )
    fast_weight_ops: str = flag(
        "auto", "implementation of the fast weights' operations; auto is compiled on CUDA", choices=FAST_WEIGHT_OPS
    )


SETTINGS = (Network, Scenes, Views, Streaming, Video, Results, Interaction, Machine)
