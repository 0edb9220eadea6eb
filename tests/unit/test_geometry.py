"""Projection, visibility and lifting, against hand-made cameras and analytic feature maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bifusion.geometry import (
    LiftingConfig,
    agrees_with_depth,
    bilinear_cells,
    find_sightings,
    inside_image,
    lift_features,
    mean_over_views,
    project,
)
from bifusion.types import BatchView

HEIGHT, WIDTH = 48, 64
WALL_M = 3.0


def camera(cx: float = 37.0, cy: float = 20.0, f: float = 50.0) -> torch.Tensor:
    """An off-centre pinhole camera for 64 × 48 images."""
    return torch.tensor([[f, 0, cx], [0, f, cy], [0, 0, 1.0]])


def pose_looking_along_y(x: float = 1.0, y: float = -2.0, z: float = 1.5) -> torch.Tensor:
    """cam2world of a camera at (x, y, z) that looks along world +y, upright (z up)."""
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    pose[:3, 3] = torch.tensor([x, y, z])
    return pose


def make_view(scene: int = 0, K: torch.Tensor | None = None, **changes) -> BatchView:
    """A view of a wall 3 m in front of the camera; `changes` replace fields."""
    K = camera() if K is None else K
    world2cam = torch.linalg.inv(pose_looking_along_y())
    fields = {
        "scene": scene,
        "name": "view",
        "image": torch.zeros(3, HEIGHT, WIDTH),
        "image_depth_m": torch.full((1, HEIGHT, WIDTH), WALL_M),
        "K": K,
        "world2cam": world2cam,
        "depth_m": torch.full((HEIGHT, WIDTH), WALL_M),
        "depth_K": K,
        "depth_world2cam": world2cam,
    }
    return BatchView(**{**fields, **changes})


def wall_points(pixels: torch.Tensor, K: torch.Tensor, depth_m: float = WALL_M) -> torch.Tensor:
    """World points seen at `pixels` (P, 2) at `depth_m`: unprojection, the inverse of `project`."""
    rays = torch.cat([pixels, torch.ones(len(pixels), 1)], dim=1) @ torch.linalg.inv(K).T
    pose = pose_looking_along_y()
    return (rays * depth_m) @ pose[:3, :3].T + pose[:3, 3]


def all_pixels(step: int = 4) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(0, HEIGHT, step), torch.arange(0, WIDTH, step), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2).float()


def sight(points: torch.Tensor, views: list[BatchView], scene: torch.Tensor | None = None):
    scene = torch.zeros(len(points), dtype=torch.int64) if scene is None else scene
    return find_sightings(points, scene, views, LiftingConfig())


def test_project_by_hand() -> None:
    # 1 m right of the camera, 2 m ahead of it, 0.5 m below it.
    pixel, depth_m = project(
        torch.tensor([[2.0, 0.0, 1.0]]), torch.linalg.inv(pose_looking_along_y()), camera()
    )
    assert torch.allclose(pixel, torch.tensor([[37 + 50 * 0.5, 20 + 50 * 0.25]]))
    assert torch.allclose(depth_m, torch.tensor([2.0]))


def test_off_centre_principal_point_keeps_every_point() -> None:
    view = make_view()
    points = wall_points(all_pixels(), view.K)
    sightings = sight(points, [view])
    assert sightings.seen.all()
    assert torch.allclose(sightings.pixel, all_pixels(), atol=1e-3)
    centred = make_view(K=camera(cx=(WIDTH - 1) / 2, cy=(HEIGHT - 1) / 2))
    assert not sight(points, [centred]).seen.all()


def test_resized_image_moves_pixels_by_the_half_pixel_rule() -> None:
    view, scale = make_view(), 0.5
    small_K = view.K.clone()
    small_K[:2] *= scale
    small_K[:2, 2] = (view.K[:2, 2] + 0.5) * scale - 0.5
    small = make_view(K=small_K, image=torch.zeros(3, HEIGHT // 2, WIDTH // 2), depth_K=view.K)
    points = wall_points(all_pixels(), view.K)
    sightings = sight(points, [small])
    assert sightings.seen.all()
    assert torch.allclose(sightings.pixel, (all_pixels() + 0.5) * scale - 0.5, atol=1e-3)


def test_unscaled_intrinsics_lose_points() -> None:
    view = make_view()
    wrong = make_view(image=torch.zeros(3, HEIGHT // 2, WIDTH // 2))
    seen = sight(wall_points(all_pixels(), view.K), [wrong]).seen
    assert seen.float().mean() < 0.4


def test_inverted_pose_gives_few_valid_points() -> None:
    view = make_view()
    inverted = make_view(world2cam=pose_looking_along_y(), depth_world2cam=pose_looking_along_y())
    seen = sight(wall_points(all_pixels(), view.K), [inverted]).seen
    assert seen.float().mean() < 0.02


def test_point_behind_the_camera_is_not_seen() -> None:
    behind = wall_points(all_pixels(), camera(), depth_m=-WALL_M)
    view = make_view(depth_m=torch.full((HEIGHT, WIDTH), 0.001))
    assert not sight(behind, [view]).seen.any()


@pytest.mark.parametrize(
    ("x", "inside"), [(-0.5, True), (-0.51, False), (WIDTH - 0.51, True), (WIDTH - 0.5, False)]
)
def test_image_border(x: float, inside: bool) -> None:
    result = inside_image(torch.tensor([[x, 3.0]]), torch.tensor([1.0]), HEIGHT, WIDTH)
    assert bool(result) is inside


def test_occluder_hides_the_wall_behind_it() -> None:
    depth_m = torch.full((HEIGHT, WIDTH), WALL_M)
    depth_m[:, : WIDTH // 2] = 1.0
    view = make_view(depth_m=depth_m)
    seen = sight(wall_points(all_pixels(), view.K), [view]).seen
    assert torch.equal(seen, all_pixels()[:, 0] >= WIDTH // 2)


def test_tolerance_grows_with_depth_and_unmeasured_is_invalid() -> None:
    def agrees(depth_m: float, off_m: float, measured: bool = True) -> bool:
        point = wall_points(torch.tensor([[30.0, 20.0]]), camera(), depth_m + off_m)
        depth_map = torch.full((HEIGHT, WIDTH), depth_m if measured else 0.0)
        view = make_view()
        return bool(
            agrees_with_depth(point, depth_map, view.world2cam, view.K, LiftingConfig(0.05, 0.02))
        )

    assert agrees(1.0, 0.06) and not agrees(1.0, 0.09)
    assert agrees(4.0, 0.12) and not agrees(4.0, 0.15)
    assert not agrees(1.0, -0.09), "in front of the measured surface disagrees too"
    assert not agrees(1.0, 0.0, measured=False)


def test_colour_and_depth_camera_apart() -> None:
    """The depth camera stands 1 m to the left, with its own size and intrinsics."""
    depth_K = torch.tensor([[30.0, 0, 20], [0, 30.0, 15], [0, 0, 1]])
    depth_world2cam = torch.linalg.inv(pose_looking_along_y(x=0.0))
    view = make_view(
        depth_m=torch.full((32, 40), WALL_M),
        depth_K=depth_K,
        depth_world2cam=depth_world2cam,
    )
    points = wall_points(all_pixels(), view.K)
    pixel, _ = project(points, view.depth_world2cam, depth_K)
    in_depth_image = (pixel > -0.5).all(1) & (pixel[:, 0] < 39.5) & (pixel[:, 1] < 31.5)
    assert 0 < in_depth_image.sum() < len(points)
    assert torch.equal(sight(points, [view]).seen, in_depth_image)


def test_views_see_only_their_own_scene() -> None:
    view = make_view(scene=1)
    points = wall_points(all_pixels(), view.K)
    scene = torch.arange(len(points)) % 2
    assert torch.equal(sight(points, [view], scene).seen, scene == 1)


def test_no_views_and_no_voxels() -> None:
    nothing = sight(torch.zeros(5, 3), [])
    assert len(nothing.voxel) == 0 and not nothing.seen.any() and nothing.count.shape == (5,)
    assert sight(torch.zeros(0, 3), [make_view()]).count.shape == (0,)


@pytest.mark.parametrize("grid", [(3, 4), (6, 8), (12, 16)])
def test_linear_map_is_sampled_without_half_pixel_drift(grid: tuple[int, int]) -> None:
    """Cells that hold their own centre's pixel coordinate must give back every inner pixel."""
    patch = HEIGHT // grid[0]
    centres = [(torch.arange(n) + 0.5) * patch - 0.5 for n in grid]
    y, x = torch.meshgrid(*centres, indexing="ij")
    view = make_view()
    pixels = all_pixels(3)
    lifted = lift_features(
        [torch.stack([x, y], dim=-1)], [view], sight(wall_points(pixels, view.K), [view])
    )
    low = (patch - 1) / 2
    expected = torch.stack(
        [pixels[:, 0].clamp(low, WIDTH - 1 - low), pixels[:, 1].clamp(low, HEIGHT - 1 - low)], dim=1
    )
    assert torch.allclose(lifted, expected, atol=1e-3)


def test_bilinear_equals_grid_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.randn(6, 8, 5, generator=generator)
    size = torch.tensor([WIDTH, HEIGHT])
    pixel = torch.rand(200, 2, generator=generator) * size - 0.5
    cell, weight = bilinear_cells(pixel, (HEIGHT, WIDTH), (6, 8))
    ours = (feature_map.reshape(-1, 5)[cell] * weight[..., None]).sum(1)
    grid = ((2 * pixel + 1) / size - 1)[None, None]
    theirs = F.grid_sample(
        feature_map.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border"
    )
    assert torch.allclose(ours, theirs[0, :, 0].T, atol=1e-5)


def test_lifting_averages_over_valid_views_only() -> None:
    depth_m = torch.full((HEIGHT, WIDTH), WALL_M)
    depth_m[:, : WIDTH // 2] = 1.0
    views = [make_view(), make_view(depth_m=depth_m), make_view(scene=1)]
    points = torch.cat([wall_points(all_pixels(), camera()), torch.full((1, 3), 50.0)])
    sightings = sight(points, views)
    maps = [torch.full((3, 4, 2), 1.0), torch.full((6, 8, 2), 3.0), torch.full((3, 4, 2), 100.0)]
    lifted = lift_features(maps, views, sightings)
    right = all_pixels()[:, 0] >= WIDTH // 2
    assert torch.allclose(lifted[:-1][right], torch.tensor(2.0))
    assert torch.allclose(lifted[:-1][~right], torch.tensor(1.0))
    assert torch.equal(lifted[-1], torch.zeros(2))
    assert torch.equal(sightings.count, torch.cat([1 + right.long(), torch.zeros(1, dtype=torch.int64)]))
    means = mean_over_views(torch.tensor([[1.0], [3.0], [100.0]]), sightings)
    assert torch.allclose(means[:, 0], lifted[:, 0])


def test_lifting_gradient_is_right_and_repeatable() -> None:
    view = make_view()
    sightings = sight(wall_points(all_pixels(2), view.K), [view, view])
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(6, 8, 16, generator=generator, requires_grad=True) for _ in range(2)]
    target = torch.randn(len(sightings.count), 16, generator=generator)

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((lift_features(maps, [view, view], sightings) * target).sum(), maps)

    first, second = gradients(), gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    cell, weight = bilinear_cells(sightings.pixel[::2], (HEIGHT, WIDTH), (6, 8))
    expected = torch.zeros(48, 16)
    for corner in range(4):
        expected.index_add_(0, cell[:, corner], weight[:, corner, None] * target / 2)
    assert torch.allclose(first[0].reshape(48, 16), expected, atol=1e-4)


def test_geometry_ignores_autocast() -> None:
    view = make_view()
    points = wall_points(all_pixels(), view.K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sightings = sight(points, [view])
    assert torch.allclose(sightings.pixel, all_pixels(), atol=1e-3)
