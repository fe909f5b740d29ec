"""Batches keep geometry true, losses vanish at the truth, training resumes exactly, the command works end to end."""

import json
from pathlib import Path

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.evaluation.compare import main as compare
from mila_ros.models.checkpoint import load_model, read_header
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.training.augmentation import Augmentation, Views, cut
from mila_ros.training.data import Batches, Pool, decoded, pool_of_frames
from mila_ros.training.losses import class_weights, depth_loss, feature_loss, normals_loss, segmentation_loss
from mila_ros.training.main import main as train
from mila_ros.training.settings import TrainSettings, load_settings
from mila_ros.training.steps import SlowStep
from mila_ros.training.trainer import Trainer
from mila_ros.worlds.frames import IGNORE
from mila_ros.worlds.geometry import pixel_rays
from mila_ros.worlds.nyuv2 import NyuV2

from ..worlds.nyu_tree import make_tree

TINY = (
    "model={slow_backbone: mobilenetv3_small_050, fast_backbone: mobilenetv3_small_050, slow_channels: 16, channels: 8,"
    " head_channels: 8, window: 3, query_channels: 8,"
    " pretrained: false, working_pixels: 12288}"
)
SMALL = ["height=64", "width=96", "batch=2", "steps=4", "warmup=1", "validate_every=4", "precision=32-true"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("nyu"), ["0001", "0002", "0003", "0022", "0023"])


@pytest.fixture(scope="module")
def pool(tree: Path) -> Pool:
    return pool_of_frames(decoded(NyuV2(tree, "train"), "load"), torch.device("cpu"))


def draw(pool: Pool, pairs: bool = False, **options: float) -> tuple[Batches, Augmentation]:
    augmentation = Augmentation(height=64, width=96, colour=0.0, **options)
    generator = torch.Generator().manual_seed(0)
    return Batches([(pool, 1.0)], 3, augmentation, pairs, generator), augmentation


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
    assert batch.keyframe is not None
    difference = (batch.keyframe - batch.image).abs().mean()
    assert 0.005 < float(difference) < 0.3


def test_a_turned_camera_sees_the_same_planes_turned() -> None:
    """Points rebuilt from what the turned camera is told lie on the room's floor and wall, as its normals say."""
    camera = torch.tensor([[80.0, 80.0, 47.5, 31.5]])
    rays = pixel_rays(camera, 64, 96)
    floor, wall = 0.7 / rays[:, 1].clamp(min=1e-6), torch.full((1, 64, 96), 3.0)
    depth, on_floor = torch.minimum(floor, wall), floor < wall
    up, back = torch.tensor([0.0, -1.0, 0.0]).view(1, 3, 1, 1), torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
    normals = torch.where(on_floor[:, None], up, back)
    picture = torch.rand(1, 3, 64, 96)
    views = Views(picture, picture, depth, on_floor.to(torch.uint8), normals, camera)
    turned, seen = set(), {0: 0, 1: 0}
    for seed in range(6):
        options = Augmentation(height=64, width=96, zoom=1.0, turn=8.0, truth_stride=1)
        truth = cut(views, options, pairs=False, g=torch.Generator().manual_seed(seed)).truth
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
        assert batch.keyframe is not None
        assert 0.005 < float((batch.keyframe - batch.image).abs().mean()) < 0.3  # the keyframe moved along
        assert bool(((batch.truth.labels == IGNORE) == (batch.truth.depth == 0)).all())
        boxes += [d[k == 4].median() for d, k in zip(batch.truth.depth, batch.truth.labels) if (k == 4).any()]
    distances = torch.stack(boxes)  # the box stands 1.5 m away from where the pictures were taken
    assert float(distances.min()) < 1.35
    assert float(distances.max()) > 1.6


def test_losses_are_lowest_at_the_truth() -> None:
    torch.manual_seed(0)
    depth = 1 + torch.rand(2, 8, 8)
    assert float(depth_loss(depth[:, None], depth)) == pytest.approx(0, abs=1e-6)
    assert float(depth_loss(depth[:, None] * 1.1, depth)) > 0.09
    unknown = depth.clone()
    unknown[:, :4] = 0
    wrong = depth[:, None].clone()
    wrong[:, :, :4] = 50
    assert float(depth_loss(wrong, unknown)) == pytest.approx(0, abs=1e-6)
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 8, 8), dim=1)
    assert float(normals_loss(normals, normals)) < 2e-3
    assert float(normals_loss(-normals, normals)) == pytest.approx(2, abs=1e-3)
    labels = torch.randint(0, 4, (2, 8, 8))
    right = 20 * torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert float(segmentation_loss(right, labels, None)) < float(segmentation_loss(right * 0, labels, None))
    nothing = torch.full_like(labels, IGNORE)
    assert float(segmentation_loss(right, nothing, None)) == 0
    features = torch.randn(2, 8, 4, 4)
    assert float(feature_loss(features, features)) == 0


def test_rare_classes_weigh_more_and_the_mean_stays() -> None:
    weights = class_weights(torch.tensor([900.0, 90.0, 10.0]), power=0.3)
    assert weights[0] < weights[1] < weights[2] <= 4
    assert class_weights(torch.tensor([900.0, 100.0]), power=0.0).tolist() == [1, 1]


def test_depth_is_learned_as_it_is_asked_for_whatever_the_size(pool: Pool) -> None:
    settings = TrainSettings(nyuv2="unused", rendered_clips=0)
    torch.manual_seed(0)
    values = ModelConfig.tiny(("depth",)).to_dict() | {"working_pixels": 4 * 64 * 96}
    model = Mila(ModelConfig.from_dict(values)).eval()
    batches, _ = draw(pool)
    batch = batches.next()
    seen: list[torch.Tensor] = []
    predict = model.predict

    def watched(*args):
        answers = predict(*args)
        seen.append(answers["depth"])
        return answers

    model.predict = watched
    with torch.no_grad():
        SlowStep(model, settings, torch.ones(4))(batch)
        coarse, detail = model.slow(batch.image)
        # A camera of twice the pixels, whose picture is at the working size, has twice the focal length.
        large = Features(coarse, detail, 64, 96, 1.0, slow=True)
        expected = predict(large, ["depth"], 2 * batch.focal, tuple(batch.truth.depth.shape[-2:]))["depth"]
    torch.testing.assert_close(seen[0], expected)


def test_two_stages_from_folder_to_comparison(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = f"nyuv2={tree}"
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    common = [data, "rendered_clips=0", *SMALL]
    assert train(["slow", "--out", str(slow), *common, "--device", "cpu", TINY]) == 0
    start = f"start={slow / 'model.safetensors'}"
    assert train(["fast", *common, start, "--out", str(fast), "--device", "cpu"]) == 0
    before, after = load_model(slow / "model.safetensors"), load_model(fast / "model.safetensors")
    for name, tensor in before.slow.state_dict().items():
        torch.testing.assert_close(after.slow.state_dict()[name], tensor, msg=f"{name} must be frozen")
    changed = [not torch.equal(a, b) for a, b in zip(before.fast.parameters(), after.fast.parameters())]
    assert all(changed)
    _, card = read_header(fast / "model.safetensors")
    assert card["step"] == 4
    assert card["stages"] == ["slow", "fast"]
    assert "mila@5" in card["validation"]
    # What the fast stage learned survives another slow and another fast stage.
    again, last = tmp_path / "again", tmp_path / "last"
    on = [*common, "--device", "cpu", "learning_rate=0"]
    assert train(["slow", *on, f"start={fast / 'model.safetensors'}", "--out", str(again)]) == 0
    assert train(["fast", *on, f"start={again / 'model.safetensors'}", "--out", str(last)]) == 0
    kept = load_model(last / "model.safetensors")
    for name, tensor in after.fast_heads.detail.named_parameters():
        torch.testing.assert_close(kept.fast_heads.detail.get_parameter(name), tensor, rtol=1e-2, atol=1e-3)
    report = tmp_path / "report.json"
    model = ["--model", str(fast / "model.safetensors")]
    capsys.readouterr()
    assert compare(["--data", f"nyuv2:{tree}", *model, "--distances", "1", "5", "--json", str(report)]) == 0
    assert "mila@5" in capsys.readouterr().out
    methods = json.loads(report.read_text())["methods"]
    assert set(methods) == {"slow", "fast", "mila@1", "mila@5"}
    for result in methods.values():
        assert 0 <= result["segmentation"]["miou"] <= 1
        assert 0 <= result["segmentation"]["pixel_accuracy"] <= 1
        assert result["depth"]["rmse"] > 0
        assert 0 <= result["depth"]["delta1"] <= 1
        assert 0 < result["normals"]["median_deg"] < 180
        assert result["gflops"] > 0
    assert methods["mila@1"]["gflops"] < methods["slow"]["gflops"]


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["slow", f"nyuv2={tree}", "rendered_clips=0", *SMALL, TINY, "save_every=2", "--device", "cpu"]
    whole, half = tmp_path / "whole", tmp_path / "half"
    train([*common, "--out", str(whole)])
    save = Trainer.save_state

    def save_and_fail(self: Trainer) -> None:
        save(self)
        raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_state", save_and_fail)
        with pytest.raises(RuntimeError, match="power failure"):
            train([*common, "--out", str(half)])
    assert torch.load(half / "state.ckpt", weights_only=True)["step"] == 2
    train([*common, "--out", str(half)])
    one, other = load_model(whole / "model.safetensors"), load_model(half / "model.safetensors")
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    for text, message in [
        ("stage: medium", "stage must be"),
        ("stage: fast\nnyuv2: x", "set `start`"),
        ("steps: 10", "no training data"),
        ("nyuv2: x\nwings: 2", "unknown settings"),
        ("- a list", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("nyuv2: x\nheight: 100", "multiples of 32"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_settings(path, [])
    with pytest.raises(UserError, match="no training configuration"):
        load_settings(tmp_path / "missing.yaml", [])
    path.write_text("nyuv2: x")
    with pytest.raises(UserError, match="key=value"):
        load_settings(path, ["steps"])
    assert load_settings(path, ["steps=7"]).steps == 7
    assert load_settings(path, ["learning_rate=1e-3"]).learning_rate == 0.001
    with pytest.raises(UserError, match="quote it for the shell"):
        load_settings(path, ["model={keys:"])
    with pytest.raises(UserError, match="zoom is 'much'"):
        load_settings(path, ["zoom=much"])
