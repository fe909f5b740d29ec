"""However pictures are varied, their ground truth stays true: depth metric, normals turned along, keyframes moved."""

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.training.augmentation import Augmentation, Views, cut
from mila_ros.training.data import Batches, Pool
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.geometry import pixel_rays


def draw(pool: Pool, pairs: bool = False, **options: float) -> tuple[Batches, Augmentation]:
    augmentation = Augmentation(height=64, width=96, colour=0.0, **options)
    generator = torch.Generator().manual_seed(0)
    return Batches([(pool, 1.0)], 3, augmentation, int(pairs), generator), augmentation


def test_crops_keep_depth_metric_and_lengthen_the_focal_length(pool: Pool) -> None:
    batches, _ = draw(pool, zoom=1.6)
    full = float(pool.intrinsics[0, 0]) * 96 / 128
    focals = []
    for _ in range(5):
        batch = batches.next()
        focals.append(batch.focal)
        assert batch.image.shape == (3, 3, 64, 96)
        assert batch.truth.depth.shape == (3, 32, 48)
        known = batch.truth.depth[batch.truth.depth > 0]
        assert float(known.min()) > 0.5
        assert float(known.max()) < 4.1
        boxes = batch.truth.labels == 4
        assert boxes.any()
        assert float((batch.truth.depth[boxes] - 1.5).abs().median()) < 0.05
    focal = torch.cat(focals)
    assert float(focal.min()) >= full * 0.99
    assert float(focal.max()) <= full * 1.6 * 1.14  # the crop's aspect asks for a little zoom of its own
    assert float(focal.std()) > 1


def test_mirrored_pictures_have_mirrored_normals() -> None:
    normals = torch.zeros(1, 1, 3, 64, 96, dtype=torch.int8)
    normals[:, :, 0] = 76
    normals[:, :, 2] = -102
    rgb = torch.zeros(1, 1, 3, 64, 96, dtype=torch.uint8)
    rgb[..., :48] = 255
    plain = torch.ones(1, 1, 64, 96)
    pool = Pool(rgb, plain.half(), plain.to(torch.uint8), normals, torch.tensor([[100.0, 100, 47.5, 31.5]]))
    batches, _ = draw(pool, zoom=1.0)
    seen = set()
    for _ in range(8):
        batch = batches.next()
        for image, truth in zip(batch.image, batch.truth.normals):
            bright_left = bool(image[:, :, :40].mean() > image[:, :, -40:].mean())
            assert bool(truth[0].mean() > 0) == bright_left
            seen.add(bright_left)
    assert seen == {True, False}


def test_pairs_show_the_same_place_from_elsewhere(pool: Pool) -> None:
    batches, _ = draw(pool, pairs=True)
    batch = batches.next()
    assert batch.keyframes is not None
    difference = (batch.keyframes[:, 0] - batch.image).abs().mean()
    assert 0.005 < float(difference) < 0.3


def test_where_depth_is_not_known_the_camera_is_moved_by_what_is_assumed() -> None:
    columns = (127 + 120 * torch.sin(torch.arange(96) * 0.12)).to(torch.uint8)
    rgb = columns.expand(1, 1, 3, 64, 96).clone()
    nothing = torch.zeros(1, 1, 64, 96)
    camera = torch.tensor([[100.0, 100, 47.5, 31.5]])
    differences = []
    for metres in (3.0, 1000.0):
        pool = Pool(
            rgb,
            nothing.half(),
            nothing.to(torch.uint8),
            torch.zeros(1, 1, 3, 64, 96, dtype=torch.int8),
            camera,
            torch.full((1, 1, 64, 96), metres).half(),
            motion="driven",
        )
        batch = draw(pool, pairs=True, zoom=1.0)[0].next()
        assert batch.keyframes is not None
        differences.append(float((batch.keyframes[:, 0] - batch.image).abs().mean()))
        assert bool((batch.truth.depth == 0).all())  # a guess is nothing to learn from
    assert differences[0] > 1.3 * differences[1]  # a wall at three metres comes near, the horizon does not


def test_a_turned_camera_sees_the_same_planes_turned() -> None:
    """Points rebuilt from what the turned camera is told lie on the room's floor and wall, as its normals say."""
    camera = torch.tensor([[80.0, 80.0, 47.5, 31.5]])
    rays = pixel_rays(camera, 64, 96)
    floor, wall = 0.7 / rays[:, 1].clamp(min=1e-6), torch.full((1, 64, 96), 3.0)
    depth, on_floor = torch.minimum(floor, wall), floor < wall
    up, back = torch.tensor([0.0, -1.0, 0.0]).view(1, 3, 1, 1), torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
    normals = torch.where(on_floor[:, None], up, back)
    picture = torch.rand(1, 3, 64, 96)
    views = Views(picture, None, depth, on_floor.to(torch.uint8), normals, camera)
    turned, seen = set(), {0: 0, 1: 0}
    for seed in range(6):
        options = Augmentation(height=64, width=96, zoom=1.0, turn=8.0, truth_stride=1)
        truth = cut(views, options, g=torch.Generator().manual_seed(seed)).truth
        points = pixel_rays(camera, 64, 96) * truth.depth[:, None]
        away = (points * truth.normals).sum(dim=1).abs()
        known = truth.labels != IGNORE
        assert 0.5 < float(known.float().mean()) < 1.0  # something is out of the picture after any turn
        assert bool((truth.depth[~known] == 0).all())
        for label, distance in ((1, 0.7), (0, 3.0)):
            here = known & (truth.labels == label)
            seen[label] += bool(here.any())
            assert not here.any() or float((away[here] - distance).abs().median()) < 0.03 * distance
        turned.add(round(float(truth.normals[0, 0].abs().max()), 4))
    assert len(turned) == 6
    assert min(seen.values()) >= 4


def test_stills_are_seen_from_other_places(pool: Pool) -> None:
    batches, _ = draw(pool, moved=1.0, zoom=1.0, pairs=True)
    boxes = []
    for _ in range(4):
        batch = batches.next()
        assert batch.keyframes is not None
        assert 0.005 < float((batch.keyframes[:, 0] - batch.image).abs().mean()) < 0.3  # the keyframe moved along
        assert bool(((batch.truth.labels == IGNORE) == (batch.truth.depth == 0)).all())
        boxes += [d[k == 4].median() for d, k in zip(batch.truth.depth, batch.truth.labels) if (k == 4).any()]
    distances = torch.stack(boxes)  # the box stands 1.5 m away from where the pictures were taken
    assert float(distances.min()) < 1.35
    assert float(distances.max()) > 1.6


def test_no_data_set_is_left_out_of_batches_in_silence(pool: Pool) -> None:
    augmentation = Augmentation(height=64, width=96)
    with pytest.raises(UserError, match="6 pictures at a time, shared 11, 1, leave none for one"):
        Batches([(pool, 11.0), (pool, 1.0)], 6, augmentation, 0, torch.Generator())


def test_several_keyframes_lie_along_one_path(pool: Pool) -> None:
    augmentation = Augmentation(height=64, width=96, colour=0.0, zoom=1.0, max_distance=4)
    batch = Batches([(pool, 1.0)], 3, augmentation, 3, torch.Generator().manual_seed(0)).next()
    assert batch.keyframes is not None and batch.keyframes.shape == (3, 3, 3, 64, 96)
    difference = (batch.keyframes - batch.image[:, None]).abs().mean(dim=(0, 2, 3, 4))
    assert bool((difference.diff() > 0).all())  # the older, the further away
