"""A client of the viewer that speaks viser's protocol without a browser: it sends poses and receives pictures."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec.msgpack
import numpy as np
import viser
import zstandard
from PIL import Image
from viser import transforms
from websockets.sync.client import connect


@dataclass(frozen=True, eq=False)
class Received:
    """A picture that arrived, (h, w, 3) uint8, and when, on the clock of `time.perf_counter`."""

    pixels: np.ndarray
    at_s: float


class ViewerClient:
    """A connected client with a window of (height, width) pixels, which the viewer has sent to its first view.

    Args:
        url: of the viewer.
        scale: the scene's `shown_scale`.
        window: (height, width).
    """

    def __init__(self, url: str, scale: float, window: tuple[int, int] = (480, 640)) -> None:
        self.window, self.scale = window, scale
        protocol = f"viser-v{viser.__version__}"
        self._socket = connect(url.replace("http", "ws"), subprotocols=[protocol], max_size=None, max_queue=None, compression=None)  # type: ignore[list-item]
        self.kinds: dict[str, int] = {}
        # The viewer counts a client as connected once it has sent a pose, and then sets another one, as it does in a browser.
        self.look(np.eye(4), 0.8)
        self.picture()

    def __enter__(self) -> "ViewerClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def look(self, c2w: np.ndarray, fov: float) -> None:
        """Send a pose (4, 4) of the scene, OpenCV axes, and a vertical field of view in radians."""
        position, forward = c2w[:3, 3] * self.scale, c2w[:3, 2]
        message = {
            "type": "ViewerCameraMessage",
            "wxyz": transforms.SO3.from_matrix(c2w[:3, :3]).wxyz.tolist(),
            "position": position.tolist(),
            "fov": fov,
            "near": 0.01,
            "far": 1000.0,
            "image_height": self.window[0],
            "image_width": self.window[1],
            "look_at": (position + forward).tolist(),
            "up_direction": (-c2w[:3, 1]).tolist(),
        }
        self._send(message)

    def set(self, handle: Any, value: object) -> None:
        """Set a control of the panel, given by the viewer's handle; True presses a button."""
        self._send({"type": "GuiUpdateMessage", "uuid": handle._impl.uuid, "updates": {"value": value}})

    def upload(self, handle: Any, name: str, content: bytes) -> None:
        """Give a file to an upload button."""
        about = {"transfer_uuid": "1", "filename": name, "mime_type": "application/json", "part_count": 1}
        where = {"source_component_uuid": handle._impl.uuid}
        self._send({"type": "FileTransferStartUpload", **where, **about, "size_bytes": len(content)})
        self._send({"type": "FileTransferPart", **where, "transfer_uuid": "1", "part_index": 0, "content": content})

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def picture(self, timeout_s: float = 20.0) -> Received:
        """Wait for the next picture.

        Raises:
            TimeoutError: none came.
        """
        end = time.monotonic() + timeout_s
        while True:
            content = self._socket.recv(max(0.0, end - time.monotonic()))
            at_s = time.perf_counter()
            assert isinstance(content, bytes)
            size, packed = (int.from_bytes(content[i : i + 8], "little") for i in (0, 8))
            batch = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(content[16 : 16 + packed], size))
            at, found = 16 + packed, None
            buffers = []
            for length in batch["binaryBufferLengths"]:
                at += -at % 8
                buffers.append(content[at : at + length])
                at += length
            for message in batch["messages"]:
                self.kinds[message["type"]] = self.kinds.get(message["type"], 0) + 1
                if message["type"] == "BackgroundImageMessage" and message["rgb_data"] is not None:
                    data = message["rgb_data"]
                    found = data if isinstance(data, bytes) else buffers[data["__binary_index"]]
            if found is not None:
                with Image.open(io.BytesIO(found)) as image:
                    return Received(np.asarray(image.convert("RGB")), at_s)

    def picture_that(self, fits: Callable[[np.ndarray], bool], timeout_s: float = 30.0) -> np.ndarray:
        """Wait for a picture that fits; if none comes in time, return the last one, which the caller's assertion then tells.

        However loaded the machine, nothing else says that a picture is the last one, or of the last pose.
        """
        end, found = time.monotonic() + timeout_s, self.picture(timeout_s)
        while not fits(found.pixels):
            try:
                found = self.picture(end - time.monotonic())
            except TimeoutError:
                break
        return found.pixels

    def last_picture(self, quiet_s: float = 0.5, timeout_s: float = 20.0) -> Received:
        """Wait for a picture, and for those after it until none comes for a while: the fine one of a camera at rest.

        On a loaded machine, where the first one takes long, the others may too.
        """
        start = time.monotonic()
        found = self.picture(timeout_s)
        quiet_s = max(quiet_s, 4 * (time.monotonic() - start))
        while True:
            try:
                found = self.picture(quiet_s)
            except TimeoutError:
                return found
