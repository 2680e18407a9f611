"""Combinations of the flags of inference.py that are refused, before anything is loaded."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from config.errors import InputError
from config.flags import refuse_without_effect, show
from config.rendering import OF_INDEX, PROTOCOLS, Results, Video

# Flags of Video and Results that the viewer takes too.
OF_VIEWER = ("load_state", "camera_path", "camera_path_frame")
# Flags of Video that shape a circle, and a flight.
CIRCLES, FLIGHTS = ("video_radius", "video_elevation", "video_fov"), ("path_order", "path_smoothing")


def check_flags(given: Mapping[str, Any], world: int) -> None:
    """Refuse flags that would have no effect and runs that would do nothing, before anything is loaded.

    Args:
        given: the flags on the command line.
        world: number of processes.

    Raises:
        InputError: there are such flags.
    """
    context = given.get("context_parallel", 1)
    if world % context:
        raise InputError("--context_parallel", f"is {context} with {world} processes", "a divisor of their number")
    no_targets, no_video = given.get("num_target_views") == 0, given.get("video_format") == "none"
    seeded = given.get("view_selection") in ("random", "kmeans")
    choice = ["num_all_views", "num_target_views", "view_selection", "target_every", "seed"]
    choosing = ["num_input_views", *choice, "protocol", "view_index", "write_view_index"]
    all_inputs = "stream" in given and not given.keys() & set(choosing) - {"view_selection", "seed"}
    photos = ["data_path", *choosing, "pose_reference", "scene_scale", "num_workers", "context_parallel", "stream"]
    of_targets = ["save_images", "no_lpips"]
    of_photos = [*of_targets, "save_state", "newton_schulz_dtype"]
    viewer, written = "viewer" in given, [field.name for kind in (Video, Results) for field in fields(kind)]
    for when, applies, flags in (
        ("with --viewer", viewer, [name for name in written if name not in OF_VIEWER]),
        ("with --viewer", viewer, ["context_parallel", "write_view_index", "stream"]),
        ("without --stream", "stream" not in given, ["stream_order", "passes", "wait"]),
        ("with --wait, which takes all views as they come", "wait" in given, [*choosing, "context_parallel", "stream_order"]),
        ("with --stream of all views", all_inputs, of_targets),
        ("without --viewer", not viewer, ["host", "port"]),
        ("under torchrun, where one process serves the viewer", world != 1, ["viewer"]),
        ("with --load_state", "load_state" in given, [*photos, "side_by_side", *of_photos]),
        ("with --load_state and --video_size", {"load_state", "video_size"} <= given.keys(), ["image_size"]),
        ("with --load_state and --camera_path", {"load_state", "camera_path"} <= given.keys() and not viewer, ["image_size"]),
        ("with --view_index", "view_index" in given, choice),
        ("with --target_every", "target_every" in given, ["num_all_views", "num_target_views"]),
        ("with --num_target_views 0", no_targets, of_targets),
        ("without --view_selection random or kmeans", not seeded, ["seed"]),
        ("without --compile", "compile" not in given, ["compile_mode"]),
        ("with --video_format none", no_video, ["load_state", *(field.name for field in fields(Video)[1:])]),
        ("with --camera_path", "camera_path" in given, ["video_frames", "video_path", *CIRCLES, *FLIGHTS]),
        ("without --camera_path", "camera_path" not in given and not viewer, ["camera_path_frame"]),
        ("under torchrun, where one process renders one video", world != 1, ["load_state", "wait"]),
    ):
        if applies:
            refuse_without_effect(given, when, flags)
    if len(given.get("camera_path_frame", ())) > 2:
        found = f"names {len(given['camera_path_frame'])} files"
        raise InputError("--camera_path_frame", found, "dataparser_transforms.json, and transforms.json where it is needed")
    counts = given.get("num_input_views", ())
    if viewer and len(counts) > 1:
        raise InputError("--num_input_views", f"has {len(counts)} values with --viewer", "one, or none")
    if len(set(counts)) < len(counts):
        raise InputError("--num_input_views", f"is {' '.join(map(str, counts))}", "each number once")
    if all_inputs and no_video and "save_state" not in given:
        found = "is none with --stream of all views, which leaves nothing to do"
        raise InputError("--video_format", found, "a video, --save_state, or targets: --target_every N")
    if no_targets and no_video and "save_state" not in given:
        found = "is 0 with --video_format none, which leaves nothing to do"
        raise InputError("--num_target_views", found, "a video, or --save_state")


def with_protocol(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags on the command line, and the settings of `--protocol`, if there is one.

    Raises:
        InputError: a flag contradicts the protocol.
    """
    if "protocol" not in given:
        return dict(given)
    determined = PROTOCOLS[given["protocol"]]
    if "view_index" in given:
        determined = {name: value for name, value in determined.items() if name not in OF_INDEX}
    refuse_without_effect(given, f"with --protocol {given['protocol']}", ["num_all_views", "num_target_views"])
    for name, value in determined.items():
        if given.get(name, value) != value:
            raise InputError(f"--{name}", f"is {show(given[name])}", f"{show(value)} with --protocol {given['protocol']}, or none")
    return {**given, **determined}


def check_kind(given: Mapping[str, Any], normalised: bool) -> None:
    """Refuse flags that have no effect on scenes, or on objects, as soon as it is known which of them a run is about.

    Args:
        given: the flags on the command line.
        normalised: whether poses are normalised, as for scenes.

    Raises:
        InputError: there are such flags, or a turntable around the origin of a scene's frame.
    """
    if not normalised:
        refuse_without_effect(given, "without --scene_inference", ["pose_reference", "scene_scale"])
    if given.get("video_format") == "none" or "camera_path" in given:
        return
    kind = Video(video_path=given.get("video_path")).kind(normalised)
    if normalised and kind in ("turntable", "published"):
        raise InputError("--video_path", f"is {kind} with --scene_inference, which moves the scene's frame", "orbit or flight")
    if kind != "flight":
        refuse_without_effect(given, f"with --video_path {kind}", FLIGHTS)
    if kind not in ("turntable", "orbit"):
        refuse_without_effect(given, f"with --video_path {kind}", CIRCLES)
