"""State dicts as other programs save them: found among a file's other content, their names freed from wrappers.

Wrapped modules add a segment to the names below them: `module.`, `_orig_mod.`. Training frameworks put the network into a module
or a dict of their own, often next to averaged weights and counters.
"""

import re
from collections import Counter

from torch import Tensor

from config.errors import InputError
from config.messages import left_out, shown, with_article

STATE_DICT = "a state dict, or {'model': state dict}"
# Keys of a file under which programs save a network's state dict, and the same of averaged weights.
PLAIN = ("model", "state_dict", "model_state_dict", "net", "network", "params", "weights", "module")
AVERAGED = re.compile(r"(.*_)?(ema|average|averaged|avg|swa|shadow)(_.*)?")
# Segments that wrappers put into names: of data-parallel and averaged modules, torch.compile, activation checkpointing, FSDP.
WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_fpw_module)\.")
# The network's first tensor: what stands before its name is the place of the network in a larger module.
FIRST = "input_linear.weight"
MOST_DEPTH = 4
# Names in a note: those of tensors are long.
FEW = 3


def is_averaged(name: str) -> bool:
    """Return whether a key, or a segment of a name, is one of averaged weights, such as `model_ema`, `modelEMA` or `avg-model`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return AVERAGED.fullmatch(words) is not None


def find_state_dict(content: object, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict in what a torch file holds, and notes on what else was found.

    Where a file has a network's weights and their average, the former are taken. Numbers and texts between
    the tensors are left out.

    Raises:
        InputError: there is none, or several among which nothing decides.
    """
    notes: list[str] = []
    for _ in range(MOST_DEPTH):
        if not isinstance(content, dict) or not content:
            raise InputError(where, f"holds {_kind(content)}", STATE_DICT)
        key = _key_of_state_dict(content, where, notes)
        if key is None:
            break
        content = content[key]
    if not isinstance(content, dict) or not content:
        raise InputError(where, f"holds {_kind(content)}", STATE_DICT)
    beside = [key for key, value in content.items() if isinstance(key, str) and _is_plain(value)] if _is_network(content) else []
    if beside:
        notes.append(left_out("values between the tensors", beside, most=FEW))
    state = {key: value for key, value in content.items() if key not in set(beside)}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{where}, {shown(key, 80)}", f"is {_kind(value)}", STATE_DICT)
    return state, notes


def unwrap(state: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the network's tensors by the names that the network gives them, and notes on what is left out.

    Segments of wrappers are removed wherever they stand, then the prefix of the network in a larger module. Counters (one whole
    number), averaged weights next to the network's own, and tensors outside the network are left out. Where no tensor has a
    name of the network, all keep theirs.

    Raises:
        InputError: there are several networks, or two tensors would get one name.
    """
    counters = [name for name, x in state.items() if _is_counter(x)]
    notes = [left_out("counters", counters, most=FEW)] if counters else []
    freed = {name: WRAPPER.sub("", name) for name in state if name not in set(counters)}
    prefixes = {name.removesuffix(FIRST) for name in freed.values() if _is_first(name)}
    prefix = _prefix_of_network(prefixes, where) if prefixes else ""
    others = sorted(prefixes - {prefix}, key=len, reverse=True)
    taken = {}
    for name, short in freed.items():
        # The longest prefix is that of the innermost module.
        inside = next((other for other in [*others, prefix] if len(other) > len(prefix) and short.startswith(other)), prefix)
        own = short.removeprefix(prefix)
        # The network has no tensor outside of its modules, unlike wrappers: their decay, their mean colour.
        if inside == prefix and short.startswith(prefix) and ("." in own or not prefixes):
            taken[name] = own
    outside = [name for name in freed if name not in taken]
    if outside:
        notes.append(left_out(f"tensors outside of {prefix.removesuffix('.') or 'the network'}", outside, most=FEW))
    return _renamed(state, taken, where), notes


def _key_of_state_dict(content: dict, where: str, notes: list[str]) -> str | None:
    """Return the key under which `content` has the state dict; None if it is one itself."""
    holding = [key for key, value in content.items() if isinstance(key, str) and _holds_network(value)]
    candidates = holding or [key for key in PLAIN if _has_tensors(content.get(key))]  # other networks, such as those of LPIPS
    if not candidates:
        return "model" if "model" in content else None
    known = [key for key in PLAIN if key in candidates]
    eligible = known or [key for key in candidates if not is_averaged(key)] or candidates
    if len(eligible) > 1 and "model" not in eligible:
        raise InputError(where, f"holds several state dicts: {', '.join(eligible)}", STATE_DICT)
    key = "model" if "model" in eligible else eligible[0]
    averaged = [other for other in candidates if other != key and is_averaged(other)]
    others = [other for other in candidates if other != key and not is_averaged(other)]
    for what, keys in (("averaged weights", averaged), ("other weights", others)):
        if keys:
            notes.append(left_out(f"{what} beside {key}", keys, most=FEW))
    return key


def _prefix_of_network(prefixes: set[str], where: str) -> str:
    """Return the prefix of the network among those of one or several; averaged ones come last."""
    plain = sorted(prefix for prefix in prefixes if not any(map(is_averaged, prefix.split("."))))
    candidates = plain or sorted(prefixes)
    if len(candidates) > 1:
        found = f"holds several networks, under {', '.join(prefix or 'no prefix' for prefix in candidates)}"
        raise InputError(where, found, "the weights of one")
    return candidates[0]


def _renamed(state: dict[str, Tensor], names: dict[str, str], where: str) -> dict[str, Tensor]:
    """Return the tensors of `names` under their new names."""
    counts = Counter(names.values())
    twice = [name for name, short in names.items() if counts[short] > 1]
    if twice:
        same = [name for name in twice if names[name] == names[twice[0]]]
        raise InputError(f"{where}, {same[0]} and {same[1]}", f"are both {names[same[0]]} without wrappers", "different names")
    return {short: state[name] for name, short in names.items()}


def _is_counter(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.is_quantized) and x.numel() == 1


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_first(name: object) -> bool:
    return isinstance(name, str) and (name == FIRST or name.endswith(f".{FIRST}"))


def _is_network(value: dict) -> bool:
    """Return whether a dict is the state dict of a network, or of a module around one."""
    return any(_is_first(WRAPPER.sub("", key)) and isinstance(x, Tensor) for key, x in value.items() if isinstance(key, str))


def _holds_network(value: object, depth: int = MOST_DEPTH) -> bool:
    """Return whether a value is such a dict, or has one in it."""
    if not isinstance(value, dict) or depth == 0:
        return False
    return _is_network(value) or any(_holds_network(item, depth - 1) for item in value.values())


def _has_tensors(value: object, depth: int = MOST_DEPTH) -> bool:
    """Return whether a value is a dict with tensors in it, or in dicts in it."""
    if not isinstance(value, dict) or depth == 0:
        return False
    return any(isinstance(item, Tensor) or _has_tensors(item, depth - 1) for item in value.values())


def _kind(value: object) -> str:
    return "nothing" if isinstance(value, dict) and not value else with_article(type(value))
