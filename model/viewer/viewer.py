"""The viewer: a server for browsers, one thread that renders for all of them, one that reconstructs."""

import contextlib
import errno
import io
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
import viser

from config.errors import InputError, line_of
from config.threads import cores
from model.scene_state import SceneState
from model.viewer.browser import Browser
from model.viewer.path_files import PathFiles
from model.viewer.path_panel import PathPanel
from model.viewer.quality_panel import QualityPanel, first_quality
from model.viewer.reconstruction import Reconstructor
from model.viewer.render_loop import Picture, RenderLoop
from model.viewer.scene_panel import ScenePanel
from model.viewer.threads import ThreadChoice
from model.viewer.viewed_scene import ViewedScene
from model.viewer.window import Pose, picture_camera

MOST_PORT = 65535
PORTS_TRIED = 100
# Height of the viewer in a notebook.
NOTEBOOK_PX = 600


class Viewer:
    """A running viewer; `close` ends it, and so does the end of a `with` block.

    Args:
        scenes: functions that open the scenes of the menu, by name, which must differ. The first is opened at once.
        trained_size: (h, w) that the weights were trained at.
        files: where camera paths are saved; None: they are only downloaded.
        few_sizes: keep to one size in motion and one at rest, as a compiled network wants.
        host: address to listen at.
        port: of it; the next free one is taken if it is in use.
        chosen_threads: numbers of CPU threads to choose from, by measurement; None: one, and one a core.

    Raises:
        InputError: the address cannot be listened at, or the first scene cannot be read.
    """

    def __init__(
        self,
        scenes: dict[str, Callable[[], ViewedScene]],
        trained_size: tuple[int, int],
        files: PathFiles | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        few_sizes: bool = False,
        chosen_threads: tuple[int, ...] | None = None,
    ) -> None:
        self._openers = list(scenes.values())
        self._browsers: dict[int, Browser] = {}
        self._lock = threading.RLock()
        self.scene = self._openers[0]()
        self.trained_size = trained_size
        self._threads = ThreadChoice(chosen_threads or (1, cores()))
        self._closed = threading.Event()
        self.server = _serve(host, port)
        patch = self.scene.model.config.patch_size
        self.loop = RenderLoop(self._draw, self._deliver, self._failed, first_quality(trained_size[0], patch))
        self.loop.quality.automatic = not few_sizes
        self._reconstructor = Reconstructor(self._progress, self._reconstructed, self._not_reconstructed)
        self.scene_panel = ScenePanel(self, list(scenes))
        self.quality_panel = QualityPanel(self, trained_size[0])
        self.path_panel = PathPanel(self, files or PathFiles())
        self._show_scene()
        self.server.on_client_connect(self._connected)
        self.server.on_client_disconnect(self._disconnected)

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """Return the frame in which a notebook displays the viewer."""
        return f'<iframe src="{self.url}" width="100%" height="{NOTEBOOK_PX}" style="border: 0"></iframe>'

    @property
    def url(self) -> str:
        """The address to open in a browser on this machine."""
        host = self.server.get_host()
        return f"http://{'localhost' if host in ('0.0.0.0', '127.0.0.1', '::') else host}:{self.server.get_port()}"

    @property
    def browsers(self) -> list[Browser]:
        with self._lock:
            return list(self._browsers.values())

    def wait(self) -> None:
        """Wait until `close` is called, by another thread or after a signal."""
        while not self._closed.wait(1.0):
            pass

    def close(self) -> None:
        """End all threads and disconnect the browsers."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.scene_panel.close()
        self.path_panel.close()
        for browser in self.browsers:
            browser.leave()
        self._reconstructor.close()
        self.loop.close()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it stops
            self.server.stop()

    # Scenes and their inputs

    def open(self, i: int) -> None:
        """Open the i-th scene; the one before stays on the screen until its inputs are reconstructed."""
        try:
            scene = self._openers[i]()
        except (InputError, OSError) as error:
            self.fail(line_of(error))
            return
        if scene.state is None:
            self.reconstruct(scene, scene.inputs)
        else:
            self._reconstructed(scene, scene.inputs, scene.state, True)

    def reconstruct(self, scene: ViewedScene, inputs: Sequence[int]) -> None:
        """Reconstruct a scene from some of its views, in the background."""
        self._reconstructor.request(scene, inputs)

    @property
    def wanted_inputs(self) -> list[int]:
        return self._reconstructor.wanted(self.scene)

    def switch_input(self, view: int | None) -> None:
        """Take a view out of the inputs, or put it into them."""
        if view is not None:
            self.scene_panel.switch_input(view)

    def _show_scene(self) -> None:
        scene = self.scene
        self.server.scene.set_up_direction(tuple(scene.up))
        initial = self.server.initial_camera
        first = scene.c2w[scene.inputs[0]]
        initial.up = scene.up
        initial.position = first[:3, 3] * scene.shown_scale
        # As browsers place their cameras: which of the two reaches a browser last is open.
        initial.look_at = (first[:3, 3] + first[:3, 2] * scene.turning_distance(first, scene.normalised)) * scene.shown_scale
        self.scene_panel.show()
        self.path_panel.show()
        for browser in self.browsers:
            browser.photo_panel.hide()
            browser.start()
        if scene.state is None:
            self.reconstruct(scene, scene.inputs)

    def _reconstructed(self, scene: ViewedScene, inputs: list[int], state: SceneState, exact: bool) -> None:
        same_inputs = inputs == scene.inputs
        scene.use(inputs, state, exact)
        if scene is not self.scene:
            self.scene = scene
            self._show_scene()
            self.loop.refresh()
        else:
            self.loop.refresh()
            self.scene_panel.tell()
            if not same_inputs:  # cameras that are drawn anew flicker
                self.redraw_cameras()
        for browser in self.browsers:
            browser.photo_panel.update()
        if not self.browsers:
            self._reconstructor.go_on()

    def _not_reconstructed(self, line: str) -> None:
        self.scene_panel.tell(line)
        self.fail(line)

    def _progress(self, done: float | None) -> None:
        self.scene_panel.progress(done)

    # Browsers

    def _connected(self, client: viser.ClientHandle) -> None:
        browser = Browser(self, client)
        with self._lock:
            self._browsers[client.client_id] = browser
        browser.start()
        browser.ask()

    def _disconnected(self, client: viser.ClientHandle) -> None:
        with self._lock:
            browser = self._browsers.pop(client.client_id, None)
        if browser is not None:
            browser.leave()

    def _browser(self, key: Hashable) -> Browser | None:
        return next((browser for browser in self.browsers if browser.client.client_id == key), None)

    def redraw_cameras(self) -> None:
        for browser in self.browsers:
            browser.draw_cameras()

    def size_cameras(self) -> None:
        for browser in self.browsers:
            browser.size_cameras()

    def fail(self, line: str) -> None:
        """Show a problem in all browsers."""
        for browser in self.browsers:
            browser.fail(line)

    # Pictures

    def aspect(self, pose: Pose) -> float:
        """Return the aspect of pictures for a window."""
        return pose.aspect if self.quality_panel.fills_window else self.trained_size[1] / self.trained_size[0]

    def _draw(self, pose: Pose, rows: int, abandoned: Callable[[], bool]) -> np.ndarray | None:
        """Render a frame, in the render thread."""
        scene = self.scene
        if scene.state is None:
            return None
        fxfycxcy, c2w, size = picture_camera(pose, rows, self.aspect(pose), scene.model.config.patch_size)
        if scene.model.device.type != "cpu":
            return scene.render(fxfycxcy, c2w, size, abandoned)
        threads = self._threads.pick(size)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        start = time.perf_counter()
        picture = scene.render(fxfycxcy, c2w, size, abandoned)
        if picture is not None:
            self._threads.took(size, threads, time.perf_counter() - start)
        return picture

    def _deliver(self, key: Hashable, picture: Picture) -> None:
        browser = self._browser(key)
        if browser is not None:
            browser.deliver(picture)
            self._reconstructor.go_on()

    def _failed(self, key: Hashable, error: Exception) -> None:
        if not isinstance(error, (InputError, OSError)):
            traceback.print_exception(error)
        browser = self._browser(key)
        if browser is not None:
            browser.fail(line_of(error))


def free_port(host: str, port: int) -> int:
    """Return the first port from `port` on that nothing listens at; viser would look for one for ever.

    Raises:
        InputError: the host is not one of this machine, or no port is free.
    """
    problem: OSError | None = None
    for candidate in range(port, min(port + PORTS_TRIED, MOST_PORT + 1)):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return candidate
        except OSError as error:
            problem = error
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InputError(
                    f"--host {host}", f"cannot be listened at ({error.strerror})", "an address of this machine"
                ) from error
    found = "is not free, nor are those after it" + (f" ({problem.strerror})" if problem else "")
    raise InputError(f"--port {port}", found, "a free port")


def _serve(host: str, port: int) -> viser.ViserServer:
    """Start viser's server without what it prints."""
    port = free_port(host, port)
    # A browser can leave at any time; what is under way to it then is lost, and nobody needs to know.
    warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host, port, verbose=False)
    server.gui.configure_theme(control_width="medium", show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    server.gui.set_panel_label("Novel views")
    return server
