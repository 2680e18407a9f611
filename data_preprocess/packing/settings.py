"""Settings of packs: what is packed, and how."""

from dataclasses import dataclass
from pathlib import Path

from config.flags import flag
from data.scene_format import MOST_VIEWS
from data_preprocess.command import LARGEST_SIDE, MOST_WORKERS
from data_preprocess.shards import shard_flag

FORMATS = ("jpeg", "webp", "png")
DEFAULT_FORMAT = "jpeg"


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Flags: what to pack, and how."""

    data_path: Path = flag(..., "list of scenes, or of packs to pack anew", group="scenes")
    output: Path = flag(..., "folder for the packs and the list of them")
    name: str | None = flag(None, "NAME in NAME_00000.zip and NAME_data_path.json", unset="that of the list")
    image_size: tuple[int, int] | None = flag(
        None, "height and width to bring images to", least=1, most=LARGEST_SIDE, group="images", unset="as they are"
    )
    margin: float = flag(0.0, "share by which images are larger, for training with this crop_margin", least=0, most=1)
    format: str | None = flag(
        None,
        "format of the images: jpeg is decoded fastest, webp is smallest, png loses nothing",
        choices=FORMATS,
        unset=f"{DEFAULT_FORMAT}; without --image_size: copied",
    )
    quality: int = flag(95, "quality of jpeg and webp", least=1, most=100)
    views_per_file: int = flag(4096, "views at most in a pack of several scenes", least=1, most=MOST_VIEWS, group="packs")
    workers: int | None = flag(None, "threads", least=1, most=MOST_WORKERS, unset="one per core")
    shard: str | None = shard_flag()
