"""Separate process for structure from motion by pycolmap, whose copy of zlib breaks Pillow's PNGs in the same process.

`structure_from_motion.py` starts it as `PYTHON worker.py FOLDER THREADS`. The folder holds `photos/` and `job.json`,
`{"photos": [names], "pairs": [[i, j]], "camera_model", "seed"}`. Progress is written as lines of JSON, `{"stage", "done",
"total"}`, and a failure as a last line `{"error"}`. COLMAP's own output goes to standard error. The result is `model/`, the
largest reconstruction, with `others.json`: the photos of each of the others.

Every stage continues from what an earlier run left in `database.db`.
"""

import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pycolmap

DATABASE, PHOTOS, MODEL = Path("database.db"), Path("photos"), Path("model")
# Longer side in pixels for feature detection, and number of strongest features kept: more cost time and change little.
LARGEST_SIDE, MOST_FEATURES = 1600, 4096
# Photos, and pairs, per progress report.
PHOTOS_AT_ONCE, PAIRS_AT_ONCE = 8, 100
SMALLEST_MODEL = 3
# A lens's centre is refined if at least this many photos share it, with at least this much roll (root mean square); a result
# farther from the middle than this share of the photo is rejected.
CENTRE_PHOTOS, CENTRE_ROLL_DEG, CENTRE_SHARE = 20, 5.0, 0.1
Result = TypeVar("Result")


class ColmapError(Exception):
    """COLMAP's message about photos, or files of an earlier run, that it cannot use."""


def ask(call: Callable[..., Result], *arguments: object, **options: object) -> Result:
    """Call COLMAP, whose package raises any exception of its C++ code.

    Raises:
        ColmapError: the call failed.
    """
    try:
        return call(*arguments, **options)
    except MemoryError:
        raise
    except Exception as error:
        raise ColmapError(str(error)) from error


def main() -> None:
    """Run the stages."""
    # COLMAP prints to both descriptors: keep the first for our answers, and redirect COLMAP to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def say(**values: object) -> None:
        answers.write(json.dumps(values) + "\n")

    os.chdir(sys.argv[1])
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    threads = int(sys.argv[2])
    pycolmap.set_random_seed(job["seed"])
    try:
        extract(job, threads, say)
        match(job, threads, say)
        reconstruct(job, threads, say)
    except (ColmapError, OSError, MemoryError) as error:
        say(error=str(error) or type(error).__name__)


def extract(job: dict, threads: int, say: Callable[..., None]) -> None:
    """Find features; photos of the same size and focal length share a camera."""
    options = pycolmap.ImageReaderOptions(camera_model=job["camera_model"])
    extraction = pycolmap.FeatureExtractionOptions(num_threads=threads, max_image_size=LARGEST_SIDE)
    extraction.sift.max_num_features = MOST_FEATURES
    photos_of_camera = defaultdict(list)
    with ask(pycolmap.Database.open, DATABASE) as database:
        cameras = {_lens(camera): camera.camera_id for camera in ask(database.read_all_cameras)}
        for name in job["photos"]:
            if database.exists_image(name):
                camera_id = database.read_image_with_name(name).camera_id
            else:
                camera = ask(pycolmap.infer_camera_from_image, PHOTOS / name, options)
                camera_id = cameras.setdefault(_lens(camera), None) or database.write_camera(camera)
                cameras[_lens(camera)] = camera_id
                # Written here in the order of names; the extraction would write in the order its threads finish.
                database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
            photos_of_camera[camera_id].append(name)
    done = 0
    for camera_id, names in photos_of_camera.items():
        options.existing_camera_id = camera_id
        for start in range(0, len(names), PHOTOS_AT_ONCE):
            some = names[start : start + PHOTOS_AT_ONCE]
            say(stage="features", done=done, total=len(job["photos"]))
            ask(
                pycolmap.extract_features,
                DATABASE,
                PHOTOS,
                image_names=some,
                reader_options=options,
                extraction_options=extraction,
            )
            done += len(some)


def match(job: dict, threads: int, say: Callable[..., None]) -> None:
    """Match the features of pairs of photos."""
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["seed"]
    pairs = Path("pairs.txt")
    for start in range(0, len(job["pairs"]), PAIRS_AT_ONCE):
        say(stage="matches", done=start, total=len(job["pairs"]))
        some = job["pairs"][start : start + PAIRS_AT_ONCE]
        pairs.write_text("".join(f"{job['photos'][i]} {job['photos'][j]}\n" for i, j in some), encoding="utf-8")
        ask(
            pycolmap.match_image_pairs,
            DATABASE,
            matching_options=matching,
            pairing_options=pycolmap.ImportedPairingOptions(match_list_path=pairs),
            verification_options=verification,
        )


def reconstruct(job: dict, threads: int, say: Callable[..., None]) -> None:
    """Find poses and points incrementally; keep the reconstruction with the most photos."""
    options = pycolmap.IncrementalPipelineOptions(
        extract_colors=False, random_seed=job["seed"], num_threads=threads, min_model_size=SMALLEST_MODEL
    )
    placed = 0

    def start() -> None:
        nonlocal placed
        placed = 2
        say(stage="cameras", done=placed, total=len(job["photos"]))

    def advance() -> None:
        nonlocal placed
        placed += 1
        say(stage="cameras", done=min(placed, len(job["photos"])), total=len(job["photos"]))

    say(stage="cameras", done=0, total=len(job["photos"]))
    working, finished = Path("working"), Path("model.finished")
    for folder in (working, finished):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    models = ask(
        pycolmap.incremental_mapping,
        DATABASE,
        PHOTOS,
        working,
        options,
        initial_image_pair_callback=start,
        next_image_callback=advance,
    )
    best, *others = sorted(models.values(), key=lambda model: -model.num_reg_images()) or [None]
    if best is not None:
        refine_centres(best, threads).write_binary(finished)
    names = [sorted(model.images[i].name for i in model.reg_image_ids()) for model in others]
    (finished / "others.json").write_text(json.dumps(names), encoding="utf-8")
    finished.rename(MODEL)
    shutil.rmtree(working)


def refine_centres(model: pycolmap.Reconstruction, threads: int) -> pycolmap.Reconstruction:
    """Return the model with the centres of frequently used lenses refined, or unchanged if that fails.

    COLMAP keeps a lens's centre in the middle of the photo; an error of a few pixels turns every camera by a good part of a
    degree. Level cameras do not determine the centre: a centre farther up looks like cameras that are tilted.
    """
    rows = defaultdict(list)
    config = pycolmap.BundleAdjustmentConfig()
    for i in model.reg_image_ids():
        image = model.images[i]
        rows[image.camera_id].append(image.cam_from_world().rotation.matrix()[0])
        config.add_image(i)
    # The x axes of level cameras are in one plane.
    known = {camera_id for camera_id, x in rows.items() if len(x) >= CENTRE_PHOTOS and _off_plane(np.array(x)) > CENTRE_ROLL_DEG}
    if not known:
        return model
    for camera_id in rows.keys() - known:
        config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions(refine_principal_point=True, print_summary=False)
    options.ceres.solver_options.num_threads = threads
    refined = pycolmap.Reconstruction(model)
    ask(pycolmap.create_default_bundle_adjuster(options, config, refined).solve)
    for camera in refined.cameras.values():
        x, y = camera.principal_point_x / camera.width - 0.5, camera.principal_point_y / camera.height - 0.5
        if not max(abs(x), abs(y)) <= CENTRE_SHARE:
            return model
    return refined


def _off_plane(directions: np.ndarray) -> float:
    """Return the root mean square of the angles, in degrees, between directions (n, 3) and the plane nearest to them."""
    share = np.linalg.eigvalsh(directions.T @ directions / len(directions))[0]
    return float(np.degrees(np.arcsin(np.sqrt(max(share, 0.0)))))


def _lens(camera: pycolmap.Camera) -> tuple:
    """Return what photos of one camera share: size and, where their files state it, focal length."""
    focal = round(camera.mean_focal_length(), 3) if camera.has_prior_focal_length else None
    return camera.width, camera.height, focal


if __name__ == "__main__":
    main()
