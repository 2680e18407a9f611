"""Interactive viewer in the browser, on viser, which is optional: only `start_viewer` imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from config.errors import InputError
from model.viewer.path_files import PathFiles
from model.viewer.viewed_scene import Photos, ViewedScene

if TYPE_CHECKING:
    from model.viewer.viewer import Viewer

__all__ = ["PathFiles", "Photos", "ViewedScene", "serve", "start_viewer"]

INSTALL = 'pip install "viser>=1.1,<2"'


def start_viewer(
    scenes: dict[str, Callable[[], ViewedScene]],
    trained_size: tuple[int, int],
    files: PathFiles | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    few_sizes: bool = False,
) -> Viewer:
    """Start a viewer; see `Viewer` for the arguments.

    Raises:
        InputError: viser is not installed, or what `Viewer` raises.
    """
    try:
        import viser  # noqa: F401
    except ImportError as error:
        raise InputError("viewer", f"cannot start ({error})", f"viser: {INSTALL}") from error
    from model.viewer.viewer import Viewer

    return Viewer(scenes, trained_size, files, host, port, few_sizes)


def serve(
    scenes: dict[str, Callable[[], ViewedScene]],
    trained_size: tuple[int, int],
    files: PathFiles,
    host: str,
    port: int,
    few_sizes: bool,
) -> None:
    """Run a viewer until the program is interrupted; print where it is. Arguments and errors are those of `start_viewer`."""
    with start_viewer(scenes, trained_size, files, host, port, few_sizes) as viewer:
        at = viewer.server.get_port()
        print(f"viewer: {viewer.url} (Ctrl-C ends it)", flush=True)
        print(f"from another machine: ssh -L {at}:localhost:{at} THIS_MACHINE, then http://localhost:{at}", flush=True)
        viewer.wait()
