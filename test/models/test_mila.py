"""The network's four calls: shapes, sizes, tasks, metric depth; and folding, counting, saving."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mila_ros.errors import UserError
from mila_ros.models.backbones import imagenet_weights
from mila_ros.models.checkpoint import FORMAT, load_model, read_header, save_model
from mila_ros.models.config import TASKS, ModelConfig
from mila_ros.models.flops import count_flops
from mila_ros.models.fuse import fuse_for_inference
from mila_ros.models.info import main as info
from mila_ros.models.mila import Mila


@pytest.fixture(scope="module")
def model() -> Mila:
    torch.manual_seed(0)
    return Mila(ModelConfig.tiny()).eval()


def settle(model: Mila) -> None:
    """Give normalisation layers statistics other than the initial ones."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)


FOCAL = torch.tensor([300.0])


@pytest.mark.parametrize("size", [(96, 128), (90, 121), (33, 47), (240, 320)])
def test_answers_have_the_size_asked_for_whatever_the_picture(model: Mila, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    with torch.inference_mode():
        memory = model.keyframe(image)
        features = model.propagate(model.glance(image), memory)
        for known in (features, memory.features):
            answers = model.answer(known, TASKS, FOCAL, (50, 70))
            assert answers["segmentation"].shape == (1, 50, 70)
            assert answers["segmentation"].dtype == torch.uint8
            assert int(answers["segmentation"].max()) < 4
            assert answers["confidence"].min() > 0
            assert answers["confidence"].max() <= 1
            assert answers["depth"].shape == (1, 50, 70)
            assert answers["depth"].min() > 0
            assert answers["normals"].shape == (1, 50, 70, 3)
            torch.testing.assert_close(answers["normals"].norm(dim=-1), torch.ones(1, 50, 70))


def test_a_slow_network_that_enlarges_pictures_keeps_the_fast_network_s_cells(model: Mila) -> None:
    larger = Mila(ModelConfig.from_dict(model.config.to_dict() | {"slow_zoom": 1.5})).eval()
    larger.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 128)
    with torch.inference_mode():
        seen, plain = larger.slow(image), model.slow(image)
        assert [x.shape for x in seen] == [x.shape for x in plain]
        enlarged = torch.nn.functional.interpolate(image, size=(96, 192), mode="bilinear")
        assert larger.slow.seen_size(64, 128) == (96, 192) and model.slow.seen_size(64, 128) == (64, 128)
        cells = torch.nn.functional.interpolate(model.slow(enlarged)[0], size=(8, 16), mode="bilinear")
        torch.testing.assert_close(seen[0], cells)
        carried = larger.propagate(larger.glance(image), larger.keyframe(image))
        assert set(larger.predict(carried, TASKS, FOCAL, (32, 48))) == set(TASKS)
    costs, cheap = count_flops(larger, 64, 128), count_flops(model, 64, 128)
    assert costs.slow > 1.5 * cheap.slow and costs.fast == cheap.fast and costs.propagate == cheap.propagate


def test_only_the_tasks_asked_for_are_answered(model: Mila) -> None:
    with torch.inference_mode():
        glance = model.glance(torch.rand(1, 3, 64, 64))
        assert set(model.predict(glance, ["depth"], FOCAL, (32, 32))) == {"depth"}
    with pytest.raises(ValueError, match="not \\['flow'\\]"):
        model.predict(glance, ["flow"], FOCAL, (32, 32))


def test_depth_grows_with_the_focal_length(model: Mila) -> None:
    with torch.inference_mode():
        glance = model.glance(torch.rand(1, 3, 64, 64))
        near = model.predict(glance, ["depth"], torch.tensor([250.0]), (32, 32))["depth"]
        far = model.predict(glance, ["depth"], torch.tensor([500.0]), (32, 32))["depth"]
    torch.testing.assert_close(far, 2 * near)


def test_the_focal_length_is_that_of_the_picture_that_went_in() -> None:
    torch.manual_seed(0)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"working_pixels": 64 * 96})).eval()
    image = torch.rand(1, 3, 64, 96)
    large = torch.nn.functional.interpolate(image, scale_factor=3, mode="nearest")
    with torch.inference_mode():
        small = model.predict(model.glance(image), ["depth"], torch.tensor([100.0]), (32, 48))["depth"]
        same = model.predict(model.glance(large), ["depth"], torch.tensor([300.0]), (32, 48))["depth"]
    # The same view with three times the pixels has three times the focal length and the same depth.
    torch.testing.assert_close(small, same, rtol=0.05, atol=0)


def test_without_a_keyframe_the_fast_network_answers_alone(model: Mila) -> None:
    glance = model.glance(torch.rand(1, 3, 64, 64))
    assert model.propagate(glance, None) is glance


def test_a_keyframe_changes_the_answer(model: Mila) -> None:
    image = torch.rand(1, 3, 64, 64)
    glance = model.glance(image)
    carried = model.propagate(glance, model.keyframe(image))
    assert not torch.allclose(carried.of("depth"), glance.of("depth"))


def test_the_fast_heads_start_with_what_the_slow_ones_know() -> None:
    torch.manual_seed(3)
    model = Mila(ModelConfig.tiny()).eval()
    settle(model)
    model.fast_heads.start_from(model.slow_heads)
    coarse = torch.rand(1, model.config.channels, 8, 8)
    none_slow = torch.zeros(1, model.slow.detail_channels, 16, 16)
    for norm in model.slow_heads.detail.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.zero_()  # then no detail at all means the mean detail
    fast_detail = torch.rand(1, model.fast.detail_channels, 16, 16)
    with torch.inference_mode():
        slow = model.slow_heads(dict.fromkeys(TASKS, coarse), none_slow)
        fast = model.fast_heads(dict.fromkeys(TASKS, coarse), fast_detail)
    for task in TASKS:
        torch.testing.assert_close(fast[task], slow[task])


def test_with_warped_details_the_fast_path_starts_as_the_slow_network_on_a_still_picture() -> None:
    """Nothing moves, so what is carried is what the slow network saw; the untrained residual adds nothing."""
    torch.manual_seed(3)
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"warp": True, "window": 1})).eval()
    settle(model)
    model.fast_heads.start_from(model.slow_heads)
    with torch.inference_mode():
        memory = model.keyframe(torch.rand(1, 3, 64, 96))
        slow = model.predict(memory.features, TASKS, FOCAL, (32, 48))
        features = model.propagate(model.glance(torch.rand(1, 3, 64, 96)), memory)
        for task, answer in model.predict(features, TASKS, FOCAL, (32, 48)).items():
            torch.testing.assert_close(answer, slow[task], rtol=1e-4, atol=1e-4)
        # Without a keyframe there is nothing to warp, and still an answer.
        assert model.answer(model.glance(torch.rand(1, 3, 64, 96)), TASKS, FOCAL, (32, 48))["depth"].isfinite().all()


@pytest.mark.parametrize(
    "values", [{"attention": "task"}, {"frames": 3}, {"attention": "task", "frames": 2}, {"warp": True}]
)
def test_every_way_of_attention_answers_and_costs_what_it_should(values: dict[str, object]) -> None:
    torch.manual_seed(0)
    plain = ModelConfig.tiny().to_dict()
    model = Mila(ModelConfig.from_dict(plain | values)).eval()
    memory = None
    with torch.inference_mode():
        for _ in range(4):
            image = torch.rand(1, 3, 64, 96)
            memory = model.keyframe(image, memory)
            features = model.propagate(model.glance(image), memory, ["depth"])
            assert set(model.answer(features, ["depth"], FOCAL, (32, 48))) == {"depth"}
    usual, own = count_flops(Mila(ModelConfig.tiny()), 64, 96), count_flops(model, 64, 96)
    times = int(values.get("frames", 1)) * (3 if values.get("attention") == "task" else 1)
    slack = 2.5 if values.get("warp") else 1.0  # eight channels become sixteen here, and a wider residual
    assert times / 2 < own.propagate / usual.propagate <= times * slack
    if values.get("attention") == "task":
        assert count_flops(model, 64, 96, ["depth"]).propagate * 3 == own.propagate


def test_folding_normalisation_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    model = Mila(ModelConfig.tiny()).eval()
    settle(model)
    image = torch.rand(1, 3, 64, 96)

    def answers() -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            memory = model.keyframe(image)
            features = model.propagate(model.glance(image), memory)
            slow = model.predict(memory.features, TASKS, FOCAL, (32, 48))
            return model.predict(features, TASKS, FOCAL, (32, 48)) | {f"slow {k}": v for k, v in slow.items()}

    before = answers()
    fuse_for_inference(model)
    after = answers()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    for task, value in before.items():
        torch.testing.assert_close(after[task], value, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="evaluation mode"):
        fuse_for_inference(Mila(ModelConfig.tiny()))


def test_flops_of_parts_and_their_mean_over_an_interval() -> None:
    model = Mila(ModelConfig(classes=tuple(f"class {i}" for i in range(39))))
    flops = count_flops(model, 480, 640)
    assert flops.fast_frame < 0.2 * flops.slow_frame
    # With every frame a keyframe, what is remembered is spent in vain.
    assert flops.amortised(1) == flops.slow_frame + flops.remember
    assert flops.fast < flops.remember < flops.fast + flops.propagate
    assert flops.amortised(10) < 0.3 * flops.slow_frame
    assert flops.saved(10) == pytest.approx(1 - flops.amortised(10) / flops.slow_frame)
    # Local attention alone, from the paper's formula: 2 * HW * P^2 * (Cqk + Cv) at stride 8, without projections;
    # tiles do more work than the bare window, but not several times more.
    bare = 2 * 60 * 80 * 81 * 192
    assert bare < flops.propagate < 8 * bare
    fewer = count_flops(model, 480, 640, ["depth"])
    assert fewer.heads < flops.heads
    assert fewer.slow == flops.slow


def test_a_saved_network_comes_back(model: Mila, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, card={"data": "none"})
    loaded = load_model(path)
    assert loaded.config == model.config
    assert read_header(path)[1] == {"data": "none"}
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        a = model.predict(model.glance(image), ["depth"], FOCAL, (32, 32))["depth"]
        b = loaded.predict(loaded.glance(image), ["depth"], FOCAL, (32, 32))["depth"]
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)  # weights are kept in half precision


def test_bad_checkpoints_are_named(model: Mila, tmp_path) -> None:
    with pytest.raises(UserError, match="neither a file nor one of the shipped models"):
        load_model(tmp_path / "missing.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="not a readable safetensors"):
        load_model(garbage)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(UserError, match="not a mila_ros checkpoint"):
        load_model(foreign)
    good = tmp_path / "good.safetensors"
    save_model(model, good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"cut\.safetensors"):
        load_model(cut)
    lacking = tmp_path / "lacking.safetensors"
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_dict())}
    save_file({"x": torch.zeros(1)}, lacking, metadata=metadata)
    with pytest.raises(UserError, match="does not fit its own configuration"):
        load_model(lacking)
    older = tmp_path / "older.safetensors"
    save_file({"x": torch.zeros(1)}, older, metadata=metadata | {"format": "mila_ros/1"})
    with pytest.raises(UserError, match="another version of mila_ros"):
        load_model(older)
    depth_only = tmp_path / "depth.safetensors"
    save_model(Mila(ModelConfig.tiny(("depth",))), depth_only)
    with pytest.raises(UserError, match="asked for segmentation"):
        load_model(depth_only, tasks=("segmentation", "depth"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": ("flow",)}, "tasks must be some of"),
        ({"classes": ()}, "at least two classes"),
        ({"window": 4}, "window must be odd"),
        ({"palette": ((0, 0, 0),)}, "palette has 1 colours"),
        ({"keys": "none"}, "keys must be"),
        ({"wings": 2}, "unknown model settings"),
        ({"slow_backbone": "no_such_net"}, "knows no backbone"),
    ],
)
def test_wrong_configurations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | values))


def test_imagenet_weights_fit_the_backbone() -> None:
    weights = imagenet_weights("tf_efficientnet_lite0")
    model = Mila(ModelConfig(classes=("a", "b"), pretrained=True))
    torch.testing.assert_close(model.slow.backbone.net.conv_stem.weight, weights["conv_stem.weight"])
    with pytest.raises(UserError, match="no installable ImageNet weights"):
        imagenet_weights("resnet18")


def test_info_tells_cost_and_card(model: Mila, tmp_path, capsys) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path, card={"data": "a made-up room", "settings": {"seed": 12345}})
    assert info([str(path), "--size", "320x240", "--settings"]) == 0
    assert "12345" in capsys.readouterr().out
    assert info([str(path), "--size", "320x240"]) == 0
    out = capsys.readouterr().out
    assert "12345" not in out and "warp: false" in out
    assert "a made-up room" in out
    assert "slow on every frame" in out
    with pytest.raises(UserError, match="expected WIDTHxHEIGHT"):
        info([str(path), "--size", "big"])
