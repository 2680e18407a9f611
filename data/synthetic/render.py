"""Renderer of packed scenes: traced rays, textures, light, the mean of each pixel's samples.

Every sample of a pixel sees its own point of the lamp and its own patch of sky, the same ones in all pixels and views, so that
soft shadows and occlusion are functions of the position on a surface, free of noise.

Letters: b scenes, v views, h w pixels, s samples per pixel, t tiles of 8×8 pixels, g groups (tiles of all views),
m = 64 s rays of a group in the order (s, row, column), p solids per scene, k hits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from config.errors import InputError
from data.synthetic.primitives import dot
from data.synthetic.tables import Batch, Lights
from data.synthetic.textures import noise, rough_noise, unroll, weights
from data.synthetic.trace import Rays, Solids, apply, apply_transposed, blocked, extents, nearest, points, unit

TILE = 8
# On a GPU, enough that launching the kernels, some 20000 at any size, takes no longer than running them.
RAYS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
BYTES_A_RAY = 600
SKY_DISTANCE = 30.0
SURFACE_OFFSET = 4e-3
SHADOW_END = 1 - 2e-4


@dataclass(frozen=True, eq=False)
class Lamps:
    """The points that light the samples, one pencil of shadow rays each: b·s of them, in the order (b, s).

    Args:
        position: (b·s, 3).
        view_from_world: (b·s, 3, 4) a frame that looks at the scene's centre.
        extent: (b·s, p, 4) of the solids in that frame.
    """

    position: Tensor
    view_from_world: Tensor
    extent: Tensor


@torch.no_grad()
def render(
    batch: Batch,
    c2w: Tensor,
    fxfycxcy: Tensor,
    image_size: tuple[int, int],
    samples: int = 4,
    check: Callable[[], None] | None = None,
) -> dict[str, Tensor]:
    """Render the views of every scene.

    Args:
        batch: b scenes.
        c2w: (b, v, 4, 4) world from camera, OpenCV axes.
        fxfycxcy: (b, v, 4) in pixels.
        image_size: (h, w), any.
        samples: rays per pixel, a power of two; a single one goes through the pixel's centre.
        check: called between parts of the work; what it raises ends the rendering.

    Returns:
        `image` (b, v, 3, h, w) 0..1, in display (gamma 2) colours, on white; `alpha` (b, v, 1, h, w) the share of samples
        that hit something; `depth` (b, v, 1, h, w) along the optical axis, of the nearest sample, infinite where nothing
        is hit. In the dtype and on the device of the batch.

    Precision: the batch's dtype; no matrix product, so neither TF32 nor autocast affects it.
    Cost: memory of 200 (objects) to 600 bytes (scenes) times `_rays_at_once`, in addition to the result.

    Raises:
        InputError: samples is not a power of two.
    """
    if samples < 1 or samples.bit_count() != 1:
        raise InputError("--samples", f"is {samples}", "a power of two")
    b, v = c2w.shape[:2]
    h, w = image_size
    dtype, device = batch.lights.position.dtype, batch.lights.position.device
    c2w, fxfycxcy = c2w.to(device, dtype).flatten(0, 1), fxfycxcy.to(device, dtype).flatten(0, 1)
    scene = torch.arange(b, device=device).repeat_interleave(v)
    turn = c2w[:, :3, :3].mT
    view_from_world = torch.cat([turn, -(turn * c2w[:, None, :3, 3]).sum(2, keepdim=True)], dim=2)
    extent = extents(batch.solids, scene, view_from_world)
    lamps = [_lamp(batch, samples), _sky_points(batch, samples)]

    rows, columns = -(-h // TILE), -(-w // TILE)
    tiles = rows * columns
    inside = _inside_tile(samples, dtype, device)
    m = inside.shape[1]
    step = max(1, _rays_at_once(device) // m)
    result = torch.empty(b * v * tiles, 5, TILE * TILE, dtype=dtype, device=device)
    for start in range(0, b * v * tiles, step):
        if check is not None:
            check()
        group = torch.arange(start, min(start + step, b * v * tiles), device=device)
        pencil, tile = group // tiles, group % tiles
        corner = TILE * torch.stack([tile % columns, tile // columns]).to(dtype)
        focal, centre = fxfycxcy[pencil, :2].T[..., None], fxfycxcy[pencil, 2:].T[..., None]
        plane = (corner[..., None] + inside[:, None] - centre) / focal
        rectangle = torch.cat([plane.amin(2), plane.amax(2)]).T
        axes = c2w[pencil, :3, :3].permute(1, 2, 0)[..., None]
        direction = axes[:, 0] * plane[0] + axes[:, 1] * plane[1] + axes[:, 2]
        rays = Rays(scene, c2w[:, :3, 3], extent, pencil, rectangle, direction)
        result[start : start + len(group)] = _render_groups(batch, rays, lamps, samples)
    pixels = result.view(b, v, rows, columns, 5, TILE, TILE).permute(0, 1, 4, 2, 5, 3, 6)
    pixels = pixels.reshape(b, v, 5, rows * TILE, columns * TILE)[..., :h, :w]
    return {"image": pixels[:, :, :3].contiguous(), "alpha": pixels[:, :, 3:4].contiguous(), "depth": pixels[:, :, 4:].contiguous()}


def _rays_at_once(device: torch.device) -> int:
    """Return how many rays to trace at once: on a GPU, what fits a quarter of its free memory, since training needs the rest."""
    if device.type != "cuda":
        return RAYS_AT_ONCE["cpu"]
    return min(RAYS_AT_ONCE["cuda"], torch.cuda.mem_get_info(device)[0] // (4 * BYTES_A_RAY))


def _inside_tile(samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return x and y (2, m) of a tile's rays: in each pixel a pattern with one sample in each of s rows and s columns."""
    bits = samples.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(samples)]
    offset = torch.tensor([range(samples), order], dtype=dtype, device=device).add(0.5).div(samples)
    pixel = torch.arange(TILE, dtype=dtype, device=device)
    x = offset[0, :, None, None] + pixel[None, None, :]
    y = offset[1, :, None, None] + pixel[None, :, None]
    return torch.stack([x.expand(-1, TILE, -1).flatten(), y.expand(-1, -1, TILE).flatten()])


def _render_groups(batch: Batch, rays: Rays, lamps: list[Lamps], samples: int) -> Tensor:
    """Return colour, alpha and depth (g, 5, 64) of groups of rays."""
    groups, m = rays.direction.shape[1:]
    hits = nearest(batch.solids, rays)
    point = points(rays, hits.ray, hits.depth)
    colour, normal = _surface(batch, hits.solid, point, hits.normal)
    colour = _light(batch, rays, hits.ray, hits.solid, point, normal, hits.normal, colour, lamps, samples)
    layers = torch.zeros(5, groups * m, dtype=point.dtype, device=point.device)
    layers[4] = torch.inf
    if not batch.skies.all_white:
        _paint_sky(batch, rays, layers[:3])
    layers[:3, hits.ray] = colour
    layers[3, hits.ray] = 1
    layers[4, hits.ray] = hits.depth
    layers = layers.view(5, groups, samples, TILE * TILE)
    depth = layers[4:].amin(2)
    *colour, alpha = layers[:4].mean(2)
    # Linear light is averaged over a pixel's hits; the result is composited on white in display colours, as images with alpha are.
    white = batch.skies.white[rays.scene[rays.pencil]][:, None]
    cover = torch.where(white, alpha, 1)
    colour = (torch.stack(colour) / cover.clamp_min(0.5 / samples)).clamp(0, 1).sqrt() * cover + (1 - cover)
    return torch.cat([colour, alpha[None], depth]).transpose(0, 1)


def _surface(batch: Batch, solid: Tensor, point: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colour and the bump-mapped normal (3, k) of hits."""
    materials = batch.materials
    finish = materials.finish[solid].T
    own = apply(materials.solid_from_world[solid], point)
    first, second = _pattern(
        materials.kinds, materials.pattern[solid], materials.texture_from_world[solid], materials.turns[solid],
        materials.numbers[solid], point, normal,
    )  # fmt: skip
    colours = materials.colours[solid].permute(1, 2, 0)
    colour = torch.lerp(torch.lerp(colours[0], colours[1], first), colours[2], second)
    if materials.overlay_kinds:
        covered = (materials.overlay[solid] >= 0).nonzero().squeeze(1)
        some = solid[covered]
        over, _ = _pattern(
            materials.overlay_kinds, materials.overlay[some], materials.overlay_from_world[some],
            materials.overlay_turns[some], materials.overlay_numbers[some], point[:, covered], normal[:, covered],
        )  # fmt: skip
        colour[:, covered] = torch.lerp(colour[:, covered], colours[3][:, covered], over)
    colour = colour * (1 + finish[0] * noise(own * finish[1]))
    bumpy = (finish[2] > 0).nonzero().squeeze(1)
    normal = normal.clone()
    normal[:, bumpy] = _bumped(
        materials.solid_from_world[solid[bumpy]], own[:, bumpy] * finish[3, bumpy], finish[2, bumpy], normal[:, bumpy]
    )
    return colour, normal


def _pattern(
    kinds: tuple[str, ...],
    pattern: Tensor,
    texture_from_world: Tensor,
    turns: Tensor,
    numbers: Tensor,
    point: Tensor,
    normal: Tensor,
) -> tuple[Tensor, Tensor]:
    place = apply(texture_from_world, point)
    # How fast each texture coordinate changes along the normal shows which side of a box a point is on.
    facing = apply(texture_from_world, normal) - texture_from_world[:, :, 3].T
    scale = texture_from_world[..., :3].square().sum(2).rsqrt().T
    return weights(kinds, pattern, place, unroll(place, facing * scale, turns), numbers)


def _bumped(solid_from_world: Tensor, place: Tensor, strength: Tensor, normal: Tensor) -> Tensor:
    """Tilt normals as if noise at `place` were the height of the surface."""
    step = 0.05
    here = noise(place)
    slope = []
    for i in range(3):
        moved = place.clone()
        moved[i] += step
        slope.append((noise(moved) - here) * (strength / step))
    world = apply_transposed(solid_from_world, torch.stack(slope))
    along = dot(world, normal)
    return unit(normal - (world - along * normal))


def _lamp(batch: Batch, samples: int) -> Lamps:
    """Spread the samples over the disc of the first lamp (a sunflower pattern), facing the scene."""
    lights = batch.lights
    i = torch.arange(samples, dtype=lights.turn.dtype, device=lights.turn.device) + 0.5
    angle = lights.turn[:, None] + 2.399963 * i
    radius = lights.radius[:, None] * (i / samples).sqrt()
    frame = _look_from(lights.position[:, 0], lights.centre)
    offset = (radius * angle.cos())[..., None] * frame[:, None, 0] + (radius * angle.sin())[..., None] * frame[:, None, 1]
    return _as_lamps(batch, lights.position[:, :1] + offset)


def _sky_points(batch: Batch, samples: int) -> Lamps:
    """Spread the samples over the sky, and a little below the horizon."""
    lights = batch.lights
    i = torch.arange(samples, dtype=lights.turn.dtype, device=lights.turn.device) + 0.5
    angle = lights.turn[:, None] + 2.399963 * i
    z = (0.95 - 1.15 * i / samples).expand_as(angle)
    level = (1 - z * z).sqrt()
    direction = torch.stack([level * angle.cos(), level * angle.sin(), z], dim=2)
    return _as_lamps(batch, lights.centre[:, None] + SKY_DISTANCE * direction)


def _look_from(position: Tensor, centre: Tensor) -> Tensor:
    """Return frames (b, 3, 3), rows x y z, with z from position to centre."""
    z = torch.nn.functional.normalize(centre - position, dim=1)
    helper = torch.zeros_like(z).scatter_(1, z.abs().argmin(1, keepdim=True), 1)
    x = torch.nn.functional.normalize(torch.linalg.cross(helper, z), dim=1)
    return torch.stack([x, torch.linalg.cross(z, x), z], dim=1)


def _as_lamps(batch: Batch, position: Tensor) -> Lamps:
    b, s = position.shape[:2]
    position = position.flatten(0, 1)
    frame = _look_from(position, batch.lights.centre.repeat_interleave(s, 0))
    view_from_world = torch.cat([frame, -(frame * position[:, None]).sum(2, keepdim=True)], dim=2)
    scene = torch.arange(b, device=position.device).repeat_interleave(s)
    return Lamps(position, view_from_world, extents(batch.solids, scene, view_from_world))


def _light(
    batch: Batch,
    rays: Rays,
    ray: Tensor,
    solid: Tensor,
    point: Tensor,
    normal: Tensor,
    true_normal: Tensor,
    colour: Tensor,
    lamps: list[Lamps],
    samples: int,
) -> Tensor:
    """Return the colour (3, k) of lit hits: Lambert and Blinn-Phong of all lamps, occluded ambient light."""
    lights = batch.lights
    groups, m = rays.direction.shape[1:]
    scene = solid // batch.solids.per_scene
    pencil = scene * samples + ray % m // (TILE * TILE)
    to_eye = unit(-rays.direction.flatten(1).index_select(1, ray))
    specular, shininess = batch.materials.finish[solid, 4:].T

    ambient = _ambient(lights, scene, normal)
    seen = _reaches(batch.solids, rays, lamps[1], pencil, ray, point, true_normal, samples)
    facing = -dot(lamps[1].view_from_world[pencil, 2, :3].T, true_normal).clamp_max(0)
    hidden = _share_in_pixel(groups * m, samples, ray, facing, ~seen)
    total = colour * ambient * (1 - lights.occlusion[scene] * hidden)
    for i in range(lights.position.shape[1]):
        to_lamp = unit(lights.position[scene, i].T - point)
        strength = dot(to_lamp, normal).clamp_min(0)
        half = unit(to_lamp + to_eye)
        shine = specular * dot(half, normal).clamp_min(1e-4).pow(shininess) * (strength > 0)
        if i == 0:
            reached = _reaches(batch.solids, rays, lamps[0], pencil, ray, point, true_normal, samples)
            strength, shine = strength * reached, shine * reached
        total = total + lights.colour[scene, i].T * (colour * strength + shine)
    return total


def _ambient(lights: Lights, scene: Tensor, normal: Tensor) -> Tensor:
    return torch.lerp(lights.below[scene].T, lights.above[scene].T, 0.5 + 0.5 * normal[2])


def _share_in_pixel(rays: int, samples: int, ray: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """Return for each hit (k,) the chosen share of the weight of all samples of its pixel."""
    spread = torch.zeros(2, rays, dtype=weight.dtype, device=weight.device)
    spread[0, ray] = weight
    spread[1, ray] = weight * chosen
    total, part = spread.view(2, -1, samples, TILE * TILE).sum(2)
    share = part / total.clamp_min(1e-3)
    pixel = ray // (samples * TILE * TILE) * (TILE * TILE) + ray % (TILE * TILE)
    return share.flatten()[pixel]


def _reaches(
    solids: Solids,
    rays: Rays,
    lamps: Lamps,
    pencil: Tensor,
    ray: Tensor,
    point: Tensor,
    normal: Tensor,
    samples: int,
) -> Tensor:
    """Return which hits (k,) are reached by their own point of a lamp."""
    groups, m = rays.direction.shape[1:]
    start = lamps.position[pencil].T
    target = point + SURFACE_OFFSET * normal - start
    lit = dot(target, normal) < 0
    target = target * SHADOW_END
    frame = lamps.view_from_world[pencil, :, :3]
    depth = dot(frame[:, 2].unbind(1), target)
    plane = torch.stack([dot(frame[:, i].unbind(1), target) / depth for i in range(2)])
    size = (groups * samples, m // samples)
    spread = torch.full((4, groups * m), torch.inf, dtype=point.dtype, device=point.device)
    some = ray[lit]
    spread[:2, some], spread[2:, some] = plane[:, lit], -plane[:, lit]
    low = spread.view(4, *size).amin(2)
    rectangle = torch.cat([low[:2], -low[2:]]).T
    direction = torch.ones(3, groups * m, dtype=point.dtype, device=point.device)
    direction[:, ray] = target
    active = torch.zeros(groups * m, dtype=torch.bool, device=point.device)
    active[some] = True
    scene = torch.arange(len(lamps.position) // samples, device=point.device).repeat_interleave(samples)
    group_pencil = rays.scene[rays.pencil][:, None] * samples + torch.arange(samples, device=point.device)
    shadow = Rays(scene, lamps.position, lamps.extent, group_pencil.flatten(), rectangle, direction.view(3, *size))
    return lit & ~blocked(solids, shadow, active.view(size)).flatten()[ray]


def _paint_sky(batch: Batch, rays: Rays, colour: Tensor) -> None:
    """Fill (3, g·m) with the sky in linear colours, and with zeros where it is white."""
    skies = batch.skies
    scene = rays.scene[rays.pencil]
    direction = unit(rays.direction)
    height = direction[2].clamp_min(0)
    blend = height.sqrt()
    place = direction[:2] / (height + 0.25) * 2.5
    cloud = rough_noise(torch.cat([place, torch.full_like(height, 0.5)[None]]).flatten(1)).view_as(height)
    cloud = (cloud * 2).clamp(0, 1) * skies.clouds[scene][:, None]
    dark = skies.white[scene][:, None]
    for i in range(3):
        blue = torch.lerp(skies.horizon[scene, i, None], skies.zenith[scene, i, None], blend)
        colour[i] = torch.where(dark, 0, torch.lerp(blue, torch.ones_like(blue), cloud)).flatten()
