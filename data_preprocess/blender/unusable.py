"""The error of Blender's processes, whose environment lacks the packages that `config.errors` imports."""


class UnusableError(Exception):
    """Unusable object or device.

    Args:
        found: the problem.
        wanted: what would have been right.
    """

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(found, wanted)
        self.found, self.wanted = found, wanted
