"""One browser: its camera, what it shows of the scene's cameras, its own part of the panel, and the pictures sent to it."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import viser
from viser import transforms

from model.keyframes import KeyframePath
from model.viewer.contract import ViewerParts
from model.viewer.photo_panel import PhotoPanel
from model.viewer.render_loop import Picture
from model.viewer.view_panel import ViewPanel
from model.viewer.window import Pose, fit_into_window, window_fov

FLIGHT_S, FLIGHT_STEPS_PER_S = 0.5, 30
# Beyond this many spreads from the nearest input, or this angle to where the nearest of a scene looks, a line says so.
FAR_FROM_INPUTS, AWAY_FROM_INPUTS_DEG = 1.0, 40.0
STATUS_EVERY_S = 0.25
# A camera that is rolled by more, in radians, keeps its roll.
ROLLED = 1e-3
KEYFRAME, KEYFRAME_CHOSEN = (222, 120, 20), (200, 30, 60)
# Points of the drawn curve for every piece between keyframes.
CURVE_POINTS = 24
# A camera nearer to the eye than this, in units of its size, is hidden: it would cover the picture. Viser draws it 2.3 sizes long.
NEAR_EYE = 3.0
# Part of the window's height, around its middle, in which cameras behind an object are hidden.
BEHIND = 0.75


class Browser:
    """A browser that is connected.

    Args:
        viewer: what it belongs to.
        client: viser's handle.
    """

    def __init__(self, viewer: ViewerParts, client: viser.ClientHandle) -> None:
        self.viewer, self.client = viewer, client
        self.sent = 0
        self._sent_s: deque[float] = deque(maxlen=120)
        self._status_s = -math.inf
        self._picture: Picture | None = None
        self._frusta: dict[int, viser.CameraFrustumHandle] = {}
        self._keys: list[viser.CameraFrustumHandle] = []
        self._curve: list[viser.SceneNodeHandle] = []
        # Cameras are drawn by the threads of several panels, and hidden by the one that receives poses.
        self._drawing = threading.RLock()
        # One thread: pictures are encoded in the order in which they were rendered.
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._flights = ThreadPoolExecutor(1, "fly")
        self._flight = 0
        self._gone = False
        self.status = client.gui.add_markdown("", order=-2)
        self.view_panel = ViewPanel(self)
        self.photo_panel = PhotoPanel(self)
        client.camera.on_update(self._moved)

    def start(self) -> None:
        """Show the scene from where its first input is."""
        self.draw_cameras()
        self.viewer.path_panel.draw(self)
        self.view_panel.reset()

    def leave(self) -> None:
        """Free what this browser held; it has gone."""
        self._gone = True
        self._flight += 1
        self.viewer.loop.forget(self.client.client_id)
        self._encoder.shutdown(wait=False, cancel_futures=True)
        self._flights.shutdown(wait=False, cancel_futures=True)

    # The camera

    @property
    def pose(self) -> Pose:
        """What it looks at."""
        camera = self.client.camera
        c2w = np.eye(4)
        c2w[:3, :3] = transforms.SO3(camera.wxyz).as_matrix()
        c2w[:3, 3] = camera.position / self.viewer.scene.shown_scale
        return Pose(c2w, camera.fov, camera.image_width / max(1, camera.image_height))

    async def _moved(self, _: viser.CameraHandle) -> None:
        pose = self.pose
        self.viewer.loop.ask(self.client.client_id, pose)
        self._hide_cameras(pose)

    def ask(self) -> None:
        """Have the picture rendered once more."""
        self.viewer.loop.ask(self.client.client_id, self.pose)

    def place(self, c2w: np.ndarray, fov: float | None = None) -> None:
        """Put the camera at a pose (4, 4), with a vertical field of view in radians."""
        camera, scene = self.client.camera, self.viewer.scene
        forward, position = c2w[:3, 2], c2w[:3, 3]
        up, own_up = self.view_panel.up, -c2w[:3, 1]
        # The scene's own up, so that dragging turns about it, unless the camera is rolled against it.
        level = up - forward * (up @ forward)
        rolled = np.linalg.norm(level) < 1e-3 or level @ own_up < np.linalg.norm(level) * math.cos(ROLLED)
        depth = self.view_panel.turning_distance(c2w)
        scale = scene.shown_scale
        with self.client.atomic():
            camera.up_direction = own_up if rolled else up
            camera.position = position * scale
            camera.look_at = (position + forward * depth) * scale
            if fov is not None:
                camera.fov = fov
                self.view_panel.show_fov(fov)

    def fly(self, c2w: np.ndarray, fov: float | None = None) -> None:
        """Move the camera to a pose smoothly; a flight that is on its way is abandoned."""
        self._flight += 1
        number = self._flight

        def travel() -> None:
            start, fov_before = self.pose.c2w, self.client.camera.fov
            turn = transforms.SO3.from_matrix(start[:3, :3])
            whole = (turn.inverse() @ transforms.SO3.from_matrix(c2w[:3, :3])).log()
            steps = round(FLIGHT_S * FLIGHT_STEPS_PER_S)
            for step in range(1, steps + 1):
                if self._flight != number or self._gone:
                    return
                part = step / steps
                part = part * part * (3 - 2 * part)
                between = np.eye(4)
                between[:3, :3] = (turn @ transforms.SO3.exp(whole * part)).as_matrix()
                between[:3, 3] = start[:3, 3] + (c2w[:3, 3] - start[:3, 3]) * part
                self.place(c2w if step == steps else between, None if fov is None else fov_before + (fov - fov_before) * part)
                time.sleep(1 / FLIGHT_STEPS_PER_S)

        self._flights.submit(travel)

    def fly_to_view(self, view: int) -> None:
        """Fly to the camera of one of the scene's photos, and show the photo beside its rendering."""
        scene = self.viewer.scene
        fov, aspect = scene.field_of_view(view)
        self.fly(scene.c2w[view], window_fov(fov, self.pose.aspect, aspect))
        self.photo_panel.show(view)

    # Pictures

    def deliver(self, picture: Picture) -> None:
        """Send a picture; called by the render thread, the work is done by the encoder."""
        self._picture = picture
        if not self._gone:
            self._encoder.submit(self._send, picture)

    def _send(self, picture: Picture) -> None:
        if picture is not self._picture or self._gone:  # a newer one is already waiting
            return
        viewer = self.viewer
        image = fit_into_window(picture.pixels, viewer.aspect(picture.pose), picture.pose.aspect, viewer.scene.normalised)
        self.client.scene.set_background_image(image, "jpeg", jpeg_quality=viewer.quality_panel.jpeg_quality)
        self.client.flush()
        self.sent += 1
        now = time.monotonic()
        self._sent_s.append(now)
        if picture.fine:
            self.view_panel.recentre()
        if picture.fine or now - self._status_s > STATUS_EVERY_S:
            self._status_s = now
            self.tell(picture)

    def tell(self, picture: Picture) -> None:
        """Write the lines about the picture on the screen."""
        now = time.monotonic()
        rate = sum(now - sent < 1 for sent in self._sent_s)
        h, w = picture.pixels.shape[:2]
        q = self.viewer.loop.quality
        # Always two lines, so that the panel does not jump.
        lines = [f"**{h}×{w}** · {1e3 * picture.seconds:.0f} ms" + ("" if picture.fine else f" · {rate} frames/s")]
        lines.append("at rest" if picture.fine else f"moving; {q.fine} rows at rest")
        scene = self.viewer.scene
        far = scene.distance_to_inputs(picture.pose.c2w[:3, 3])
        if far > FAR_FROM_INPUTS:
            lines.append(f"⚠ {far:.1f} spreads of the inputs away from the nearest one: expect blur.")
        angle = math.degrees(scene.angle_to_inputs(picture.pose.c2w))
        if scene.normalised and angle > AWAY_FROM_INPUTS_DEG:
            lines.append(f"⚠ {angle:.0f}° away from where any input looks: nothing is known there.")
        self.status.content = "  \n".join(lines)

    def fail(self, line: str) -> None:
        """Show a problem."""
        self.client.add_notification("Problem", line, color="red", auto_close_seconds=10)

    # Cameras

    def draw_cameras(self) -> None:
        """Draw the scene's cameras, the inputs with their photos."""
        thumbnails = {view: self.viewer.scene_panel.thumbnail(view) for view in self.viewer.scene_panel.drawn_views}
        with self._drawing:
            for frustum in self._frusta.values():
                frustum.remove()
            self._frusta = {view: self._draw_camera(view, thumbnail) for view, thumbnail in thumbnails.items()}
            self._hide_cameras(self.pose)

    def _draw_camera(self, view: int, thumbnail: np.ndarray | None) -> viser.CameraFrustumHandle:
        scene, panel = self.viewer.scene, self.viewer.scene_panel
        fov, aspect = scene.field_of_view(view)
        frustum = self.client.scene.add_camera_frustum(
            f"/cameras/{view}",
            fov,
            aspect,
            scale=panel.camera_size * scene.shown_scale,
            thickness=2.0,
            thickness_units="screen",
            color=panel.colour(view, self.photo_panel.view),
            image=thumbnail,
            jpeg_quality=80,
            wxyz=transforms.SO3.from_matrix(scene.c2w[view, :3, :3]).wxyz,
            position=scene.c2w[view, :3, 3] * scene.shown_scale,
            cast_shadow=False,
            receive_shadow=False,
        )
        frustum.on_click(lambda _: self.fly_to_view(view))
        return frustum

    def draw_path(self, path: KeyframePath | None, chosen: int, size: float) -> None:
        """Draw a camera path, its keyframes as cameras of a size."""
        with self._drawing:
            for node in (*self._keys, *self._curve):
                node.remove()
            self._keys, self._curve = [], []
            if path is None:
                return
            self._keys = [
                self._draw_key(path, i, KEYFRAME_CHOSEN if i == chosen else KEYFRAME, size) for i in range(len(path.keyframes))
            ]
            if len(path.keyframes) > 1:
                at = path.at(np.linspace(0, path.seconds, CURVE_POINTS * len(path.keyframes)))[0][:, :3, 3].astype(np.float32)
                pieces = np.stack([at[:-1], at[1:]], axis=1) * self.viewer.scene.shown_scale
                curve = self.client.scene.add_line_segments(
                    "/path/curve", pieces, KEYFRAME, thickness=3.0, thickness_units="screen"
                )
                self._curve = [curve]
            self._hide_cameras(self.pose)

    def _draw_key(self, path: KeyframePath, i: int, colour: tuple[int, int, int], size: float) -> viser.CameraFrustumHandle:
        key, (h, w), scale = path.keyframes[i], path.image_size, self.viewer.scene.shown_scale
        frustum = self.client.scene.add_camera_frustum(
            f"/path/keyframe_{i}",
            math.radians(key.fov_deg),
            w / h,
            scale=size * scale,
            thickness=3.0,
            thickness_units="screen",
            color=colour,
            wxyz=transforms.SO3.from_matrix(key.c2w[:3, :3]).wxyz,
            position=key.c2w[:3, 3] * scale,
            cast_shadow=False,
        )
        frustum.on_click(lambda _: self.viewer.path_panel.choose(i, self))
        return frustum

    def colour_cameras(self) -> None:
        """Colour the cameras by what they are."""
        with self._drawing:
            for view, frustum in self._frusta.items():
                frustum.color = self.viewer.scene_panel.colour(view, self.photo_panel.view)

    def size_cameras(self) -> None:
        """Draw the cameras at the size of the slider."""
        with self._drawing:
            for frustum in self._frusta.values():
                frustum.scale = self.viewer.scene_panel.camera_size * self.viewer.scene.shown_scale
            self._hide_cameras(self.pose)

    def _hide_cameras(self, pose: Pose) -> None:
        """Hide the cameras that are in the way: at the eye, and, of an object, behind it, where they would be drawn over it."""
        if not self._drawing.acquire(blocking=False):  # whoever draws them hides them next
            return
        try:
            self._hide_among([*self._frusta.values(), *self._keys], pose)
        finally:
            self._drawing.release()

    def _hide_among(self, frusta: Sequence[viser.CameraFrustumHandle], pose: Pose) -> None:
        scene = self.viewer.scene
        near = NEAR_EYE * self.viewer.scene_panel.camera_size
        across = BEHIND * math.tan(pose.fov / 2)
        rotation, eye = pose.c2w[:3, :3], pose.c2w[:3, 3]
        depth_of_centre = float((scene.centre - eye) @ rotation[:, 2])
        for frustum in frusta:
            x, y, depth = (frustum.position / scene.shown_scale - eye) @ rotation
            behind = not scene.normalised and depth > depth_of_centre > 0 and math.hypot(x, y) < across * depth
            visible = not behind and math.hypot(x, y, depth) > near
            if frustum.visible != visible:
                frustum.visible = visible
