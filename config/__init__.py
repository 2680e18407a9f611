"""Network configs: YAML in this project's spelling or in the published one, checked before a network is built from it."""

import config.startup  # noqa: F401 (first: it refuses an old Python)  # isort: skip

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import InputError, check_file, missing_file
from config.messages import shown, shown_key, some, with_article
from config.paths import find_path

CONFIG_DIR = Path(__file__).parent

PUBLISHED_KEYS = {"block_config": "block"}
PUBLISHED_TYPES = {
    "model.SelfAttention": "self_attention",
    "lact_ttt.FastWeightGluMLPMultihead": "fast_weight",
    "model.MLP": "mlp",
}

# Phases that an address can have, and sites of a fast-weight layer that it can rotate: see `model.layers.address`.
PHASES = ("image", "line", "foot")
SITES = ("qk", "hidden", "vo")

# Bounds of a network, far above any that is trained, within which its sizes can be computed and its modules be built in seconds.
MOST_PATCH, MOST_DIM, MOST_LAYERS = 1024, 1 << 16, 4096
# Bounds of the frequencies of an address: their products with positions stay finite in float32.
LEAST_FREQUENCY, MOST_FREQUENCY = 1e-9, 1e9
# Settings take a few thousand bytes; the parser reads this many in about a second.
MOST_YAML_BYTES = 1 << 17
# Known names in a message.
MOST_KNOWN = 12


@dataclass(frozen=True)
class AddressConfig:
    """Rotation of the tokens of a fast-weight layer by where they look.

    Attributes:
        phases: `image`: column and row of the patch; `line`: the six Plücker numbers of its ray; `foot`: the point of the ray
            that is nearest to the point where the inputs look.
        sites: what is rotated: `qk`, queries and keys; `hidden`, the hidden numbers of the fast weights' MLP; `vo`, values and
            outputs, by the camera's rotation, independent of `phases`.
        lowest, highest: ends of the geometric ladder of angular frequencies, in radians per unit of length of the poses (`line`,
            `foot`) or per height of the image (`image`).
        frequencies: largest number of them; None: as many as fit a head. 0 rotates neither queries and keys nor hidden numbers.
    """

    phases: str
    sites: tuple[str, ...]
    lowest: float
    highest: float
    frequencies: int | None = None


@dataclass(frozen=True)
class LayerConfig:
    """One layer of a block.

    Attributes:
        type: name in `model.layers.BLOCKS`.
        length_dim: the tokens that the layer mixes: `l`, those of one image, or `vl`, those of all images of a scene.
        params: constructor arguments of the layer besides `dim` and `length_dim`: numbers, and `address`, an `AddressConfig`.
    """

    type: str
    length_dim: str
    params: dict = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class NetworkConfig:
    """The config of a network.

    Attributes:
        patch_size: side of a patch, in pixels.
        dim: width of a token.
        layers: number of blocks.
        block: the layers of every block, in order.
    """

    patch_size: int
    dim: int
    layers: int
    block: tuple[LayerConfig, ...]

    def to_dict(self) -> dict:
        """Return plain dicts, lists, numbers and strings, as `config_from_dict`, YAML and JSON take them."""
        return {**dataclasses.asdict(self), "block": [_plain(dataclasses.asdict(layer)) for layer in self.block]}


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of an error message: the nearest known name, if one is close, and the known names, or the first of many."""
    near = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {some(known, MOST_KNOWN)}"


def read_yaml(path: str | os.PathLike) -> dict:
    """Read a YAML file that holds one mapping.

    Args:
        path: absolute, or relative to the working folder or to the project's.

    Raises:
        FileNotFoundError: there is no such file; the message lists the YAML files of config/.
        InputError: the file is not YAML, not a mapping, or far too long for settings.
    """
    # Not at the top: Blender's environment has no yaml, and imports this package on the way to data/files.py.
    from config.yaml_values import parse_yaml

    path, wanted = Path(path), "a YAML file with a mapping of settings"
    try:
        check_file(found := find_path(path), wanted)
        size = found.stat().st_size
        if size > MOST_YAML_BYTES:
            raise InputError(path, f"has {size} bytes", f"{wanted}, {MOST_YAML_BYTES} bytes at most")
        content = found.read_bytes()
    except FileNotFoundError:
        known = sorted(f"config/{found.relative_to(CONFIG_DIR)}" for found in CONFIG_DIR.rglob("*.yaml"))
        raise missing_file(path, f"a YAML file; {did_you_mean(str(path), known)}") from None
    try:
        value = parse_yaml(content.decode())
    except MemoryError:
        raise
    except Exception as error:  # the parser also passes on errors of constructors, such as for dates
        raise InputError(path, f"is not YAML ({error})", wanted) from error
    if not isinstance(value, dict):
        raise InputError(path, f"holds {with_article(type(value))}", wanted)
    return value


def load_config(path: str | os.PathLike) -> NetworkConfig:
    """Read a network config from a YAML file.

    Raises:
        FileNotFoundError, InputError: see `read_yaml` and `config_from_dict`.
    """
    return config_from_dict(read_yaml(path), where=str(path))


def config_from_dict(value: Mapping, where: str = "config") -> NetworkConfig:
    """Check a network config and return it in this project's spelling; `block_config` and dotted layer names are accepted.

    Args:
        value: keys `patch_size`, `dim`, `layers`, `block`, as in `NetworkConfig`.
        where: name in error messages, such as the file's.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type or is out of range. Parameters of layers are checked
            by the layers.
    """
    value = _rename(value, PUBLISHED_KEYS)
    _check_keys(value, NetworkConfig, where)
    for key, most in (("patch_size", MOST_PATCH), ("dim", MOST_DIM), ("layers", MOST_LAYERS)):
        if type(value[key]) is not int or not 1 <= value[key] <= most:
            raise InputError(f"{where}, {key}", f"is {shown(value[key])}", f"a whole number of at least 1, {most} at most")
    if not isinstance(value["block"], (list, tuple)) or not value["block"]:
        raise InputError(f"{where}, block", f"is {shown(value['block'])}", "a list of layers")
    if len(value["block"]) * value["layers"] > MOST_LAYERS:
        found = f"has {len(value['block'])} layers, in {value['layers']} blocks"
        raise InputError(f"{where}, block", found, f"{MOST_LAYERS} layers in all blocks at most")
    block = tuple(_layer(layer, f"{where}, block[{i}]") for i, layer in enumerate(value["block"]))
    return NetworkConfig(value["patch_size"], value["dim"], value["layers"], block)


def _layer(value: object, where: str) -> LayerConfig:
    if not isinstance(value, Mapping):
        raise InputError(where, f"is {shown(value)}", "a mapping with type, length_dim and params")
    _check_keys(value, LayerConfig, where)
    if not isinstance(value["type"], str):
        raise InputError(f"{where}, type", f"is {shown(value['type'])}", "the name of a layer")
    if value["length_dim"] not in ("l", "vl"):
        raise InputError(f"{where}, length_dim", f"is {shown(value['length_dim'])}", "l (one image) or vl (all images)")
    kind = PUBLISHED_TYPES.get(value["type"], value["type"])
    params = {} if value.get("params") is None else value["params"]
    if not isinstance(params, Mapping):
        raise InputError(f"{where}, params", f"is {shown(params)}", "a mapping")
    params = {key: _param(key, param, f"{where}, params, {shown_key(key)}") for key, param in params.items()}
    return LayerConfig(kind, value["length_dim"], params)


def _param(key: str, value: object, where: str) -> bool | float | AddressConfig:
    if key == "address":
        return _address(value, where)
    if not isinstance(value, (bool, int, float)):
        raise InputError(where, f"is {shown(value)}", "a number (YAML reads 1e-4 as text: write 1.0e-4)")
    return value


def _address(value: object, where: str) -> AddressConfig:
    if not isinstance(value, Mapping):
        raise InputError(where, f"is {shown(value)}", "a mapping with phases, sites, lowest and highest")
    _check_keys(value, AddressConfig, where)
    if value["phases"] not in PHASES:
        raise InputError(f"{where}, phases", f"is {shown(value['phases'])}", ", ".join(PHASES))
    sites = value["sites"]
    known = isinstance(sites, (list, tuple)) and all(site in SITES for site in sites)
    if not known or not 0 < len(sites) == len(set(sites)):
        raise InputError(f"{where}, sites", f"is {shown(sites)}", f"a list of one or more of {', '.join(SITES)}")
    for key in ("lowest", "highest"):
        if type(value[key]) not in (int, float) or not LEAST_FREQUENCY <= value[key] <= MOST_FREQUENCY:
            wanted = f"a number above 0, {LEAST_FREQUENCY:g} to {MOST_FREQUENCY:g} (YAML reads 1e-4 as text: write 1.0e-4)"
            raise InputError(f"{where}, {key}", f"is {shown(value[key])}", wanted)
    if value["lowest"] > value["highest"]:
        raise InputError(f"{where}, lowest", f"is {value['lowest']}", f"highest, {value['highest']}, or less")
    frequencies = value.get("frequencies")
    if frequencies is not None and (type(frequencies) is not int or not 0 <= frequencies <= MOST_DIM):
        wanted = f"a whole number, or nothing for all that fit; {MOST_DIM} at most"
        raise InputError(f"{where}, frequencies", f"is {shown(frequencies)}", wanted)
    return AddressConfig(value["phases"], tuple(sites), float(value["lowest"]), float(value["highest"]), frequencies)


def _plain(value: object) -> object:
    """Return `value` with tuples replaced by lists, recursively."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _rename(value: Mapping, names: Mapping[str, str]) -> dict:
    return {names.get(key, key): item for key, item in value.items()}


def _check_keys(value: Mapping, cls: type, where: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            raise InputError(
                f"{where}, {shown_key(key)}", "is unknown", f"a known key; {did_you_mean(shown_key(key), list(fields))}"
            )
    for name, field in fields.items():
        if name not in value and field.default_factory is field.default is dataclasses.MISSING:
            raise InputError(f"{where}, {name}", "is missing", ", ".join(fields))
