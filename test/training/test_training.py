"""Training resumes exactly, the command works end to end, wrong settings are refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.evaluation.compare import main as compare
from mila_ros.models.backbones import imagenet_weights
from mila_ros.models.checkpoint import load_model, read_header, save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.models.networks import Features
from mila_ros.paths import config_dir
from mila_ros.training.augmentation import Augmentation
from mila_ros.training.data import Batches, Pool
from mila_ros.training.main import main as train
from mila_ros.training.settings import TrainSettings, load_settings
from mila_ros.training.start import build_model, carried_otherwise, stages_before
from mila_ros.training.steps import SlowStep
from mila_ros.training.trainer import Trainer
from mila_ros.worlds.labels import load_labels

from ..worlds.camvid_tree import make_tree as make_drives

TINY = (
    "model={slow_backbone: mobilenetv3_small_050, fast_backbone: mobilenetv3_small_050, slow_channels: 16, channels: 8,"
    " head_channels: 8, window: 3, query_channels: 8,"
    " pretrained: false, working_pixels: 12288}"
)
SMALL = ["height=64", "width=96", "batch=2", "steps=4", "warmup=1", "validate_every=4", "precision=32-true"]


def test_depth_is_learned_as_it_is_asked_for_whatever_the_size(pool: Pool) -> None:
    settings = TrainSettings(data="nyuv2:unused", rendered_clips=0)
    torch.manual_seed(0)
    values = ModelConfig.tiny(("depth",)).to_dict() | {"working_pixels": 4 * 64 * 96}
    model = Mila(ModelConfig.from_dict(values)).eval()
    batch = Batches([(pool, 1.0)], 3, Augmentation(64, 96, colour=0.0), 0, torch.Generator().manual_seed(0)).next()
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
    data = f"data=nyuv2:{tree}"
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
    picture = cv2.imread(str(fast / "pictures" / "000004.jpg"))
    assert picture.shape == (2 * 2 * 48, 4 * 64, 3)  # two frames, answer above truth; picture and three tasks
    # What the fast stage learned survives another slow and another fast stage.
    again, last = tmp_path / "again", tmp_path / "last"
    on = [*common, "--device", "cpu", "learning_rate=0"]
    assert train(["slow", *on, f"start={fast / 'model.safetensors'}", "--out", str(again)]) == 0
    assert train(["fast", *on, f"start={again / 'model.safetensors'}", "--out", str(last)]) == 0
    kept = load_model(last / "model.safetensors")
    for name, tensor in after.fast_heads.detail.named_parameters():
        torch.testing.assert_close(kept.fast_heads.detail.get_parameter(name), tensor, rtol=1e-2, atol=1e-3)
    # Features may be carried in another way from there on, by one line.
    way, rivals = (
        "model={attention: task, frames: 2, window: 5, reach: 0, warp: false}",
        ["adversary_weight=0.1", "glance_weight=0.1"],
    )
    other = tmp_path / "other"
    more = [*rivals, "task_weighting=learned", "distillation=0", "--out", str(other), "--device", "cpu"]
    assert train(["fast", *common, f"start={fast / 'model.safetensors'}", way, *more]) == 0
    changed_way = load_model(other / "model.safetensors")
    assert (changed_way.config.attention, changed_way.config.frames) == ("task", 2)
    # What is saved, and judged, is blended.
    mixed = tmp_path / "mixed"
    same = ["fast", *common, f"start={slow / 'model.safetensors'}", "--device", "cpu"]
    assert train([*same, "blend=0", "--out", str(mixed)]) == 0
    unlearned = load_model(mixed / "model.safetensors")
    torch.testing.assert_close(unlearned.fast_heads.tasks.state_dict(), unlearned.slow_heads.tasks.state_dict())
    torch.testing.assert_close(changed_way.slow.state_dict(), after.slow.state_dict())
    assert {"glance", "critic", "adversary"} <= set((other / "log.csv").read_text().splitlines()[0].split(","))
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


def test_another_set_of_tasks_on_pictures_without_depth(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Segmentation alone, on drives: keyframes of stills are then views of a wall, and validation is a real video."""
    names = [f"0016E5_{number:05d}" for number in range(100, 124, 2)]
    tree = make_drives(tmp_path / "camvid", {"train": ["0001TP_000030", "0001TP_000060"], "val": names})
    common = [f"data=camvid:{tree}", "labels=camvid", "rendered_clips=0", *SMALL, "--device", "cpu"]
    alone = TINY.replace("model={", "model={tasks: [segmentation], ")
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    assert train(["slow", "--out", str(slow), *common, alone]) == 0
    assert train(["fast", "--out", str(fast), *common, f"start={slow / 'model.safetensors'}"]) == 0
    model = str(fast / "model.safetensors")
    assert load_model(model).config.tasks == ("segmentation",)
    capsys.readouterr()
    assert compare(["--data", f"camvid:{tree}", "--split", "val", "--model", model, "--distances", "2"]) == 0
    assert "mila/10" in capsys.readouterr().out
    with pytest.raises(UserError, match="no training data has ground truth for ..depth., .normals"):
        train(["slow", "--out", str(tmp_path / "all"), *common, TINY])
    with pytest.raises(UserError, match="batch of 2 cannot be shared by 1 processes in 3 parts"):
        train(["slow", "--out", str(tmp_path / "odd"), *common, alone, "accumulate=3"])
    with pytest.raises(UserError, match="knows the classes of nyu40.*has those of camvid"):
        train(["slow", "--out", str(tmp_path / "rooms"), *common, alone, "labels=nyu40"])
    rooms = ["fast", "--out", str(tmp_path / "other"), *common, "labels=cityscapes", f"start={model}"]
    with pytest.raises(UserError, match="knows the classes of cityscapes"):
        train(rooms)
    with pytest.raises(UserError, match="rooms have the classes of nyu40"):
        train(["slow", "--out", str(tmp_path / "mix"), *common, alone, "rendered_clips=1"])


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["slow", f"data=nyuv2:{tree}", "rendered_clips=0", *SMALL, TINY, "save_every=2", "--device", "cpu"]
    common += ["batch=4", "accumulate=2"]
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


def test_the_last_pictures_are_whole(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float, float]] = []
    draw = Batches.next

    def watched(batches: Batches) -> object:
        seen.append((batches.options.zoom, batches.options.turn, batches.options.moved))
        return draw(batches)

    monkeypatch.setattr(Batches, "next", watched)
    common = ["slow", "--device", "cpu", f"data=nyuv2:{tree}", "rendered_clips=0", *SMALL, TINY, "zoom=1.3", "turn=2"]
    assert train([*common, "moved=0.5", "whole=0.5", "--out", str(tmp_path / "half")]) == 0
    assert seen[-4:] == [(1.3, 2.0, 0.5)] * 2 + [(1.0, 0.0, 0.0)] * 2
    with pytest.raises(UserError, match="whole is a share, 0 to 1"):
        train([*common, "whole=2", "--out", str(tmp_path / "none")])


def test_another_way_to_carry_starts_from_what_the_old_one_knew() -> None:
    torch.manual_seed(0)
    trained = Mila(ModelConfig.tiny())
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = carried_otherwise(trained, {"attention": "task", "frames": 2, "window": 3})
    for part in model.propagation.look_ups().values():
        torch.testing.assert_close(part.attention.query.weight, trained.propagation.attention.query.weight)
        torch.testing.assert_close(part.fuse.state_dict(), trained.propagation.fuse.state_dict())
        assert part.attention.position_bias.shape == (9,)
    torch.testing.assert_close(model.fast_heads.state_dict(), trained.fast_heads.state_dict())
    warping = carried_otherwise(trained, {"warp": True}).eval()
    joins, joined = (m.propagation.fuse[0][0].weight for m in (warping, trained))
    torch.testing.assert_close(joins[:, :16], joined)
    assert not joins[:, 16:].any()
    details = torch.rand(1, trained.fast.detail_channels, 8, 8)
    coarse = {"depth": torch.rand(1, 8, 4, 4)}
    carried = {"depth": torch.rand(1, trained.slow.detail_channels, 8, 8)}  # adds nothing yet
    torch.testing.assert_close(warping.fast_heads(coarse, details, carried), trained.eval().fast_heads(coarse, details))
    leaping = carried_otherwise(trained, {"propagation": "laps"})
    assert not leaping.propagation.fuse[1].weight.any()  # its own start, not what was learned for another's inputs
    aligned = carried_otherwise(trained, {"propagation": "attention+alignment"})
    torch.testing.assert_close(aligned.propagation.attention.state_dict(), trained.propagation.state_dict())
    with pytest.raises(UserError, match="cross_attention"):
        carried_otherwise(trained, {"cross_attention": True})
    crossed = carried_otherwise(trained, {"cross_attention": True}, ("cross_attention",)).eval()
    image = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(crossed.features(image).coarse, trained.eval().features(image).coarse)
    assert carried_otherwise(trained, {}) is trained
    assert carried_otherwise(trained, {"channels": 8, "tasks": ["segmentation", "depth", "normals"]}) is trained
    with pytest.raises(UserError, match="'channels'.*cannot be changed"):
        carried_otherwise(trained, {"channels": 16})


def test_another_slow_backbone_goes_under_the_trained_decoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, path = Mila(ModelConfig.tiny()), tmp_path / "start.safetensors"
    save_model(trained, path)
    name = "tf_efficientnet_lite0"
    settings = TrainSettings(stage="slow", start=str(path), rendered_clips=1, model={"slow_backbone": name})
    model = build_model(settings, ["slow"])
    assert model.config.slow_backbone == name
    stem = "conv_stem.weight"
    torch.testing.assert_close(model.slow.backbone.net.state_dict()[stem], imagenet_weights(name)[stem])
    for part in ("fast", "fast_heads", "slow.merge16", "slow.refine"):
        kept = load_model(path).get_submodule(part).state_dict()
        torch.testing.assert_close(model.get_submodule(part).state_dict(), kept)
    assert model.eval().features(torch.rand(1, 3, 64, 96)).coarse.shape[:2] == (1, 8)
    assert stages_before(settings) == []
    crossed = carried_otherwise(trained, {"cross_attention": True}, ("cross_attention",))
    save_model(crossed, path)
    assert build_model(settings, ["slow"]).config.cross_attention
    fast = TrainSettings(stage="fast", start=str(path), rendered_clips=1, model={"slow_backbone": name})
    with pytest.raises(UserError, match="in the stage slow also slow_backbone"):
        build_model(fast, ["slow"])


def test_a_slow_network_comes_to_see_larger_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    save_model(Mila(ModelConfig.tiny()), path)
    trained = load_model(path)
    settings = TrainSettings(start=str(path), rendered_clips=1, model={"slow_zoom": 1.5})
    model = build_model(settings, ["slow", "fast"])
    assert model.config.slow_zoom == model.slow.zoom == 1.5
    torch.testing.assert_close(model.slow.state_dict(), trained.slow.state_dict())
    # What is seen 1.5 times as large looks 1.5 times as near; the start already knows.
    for heads in ("slow_heads", "fast_heads"):
        before, after = (m.get_submodule(heads).tasks["depth"].out.bias for m in (trained, model))
        assert after.item() - before.item() == pytest.approx(math.log(1.5), abs=1e-6)
    with pytest.raises(UserError, match="slow_zoom must be"):
        build_model(replace(settings, model={"slow_zoom": 9.0}), ["slow"])
    with pytest.raises(UserError, match="in the stage slow also slow_backbone, slow_zoom"):
        build_model(replace(settings, stage="fast"), ["slow"])


def test_a_window_of_another_size_keeps_the_middle_of_its_bias() -> None:
    trained = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"window": 5}))
    own = torch.arange(25.0)
    trained.propagation.attention.position_bias.data.copy_(own)
    smaller = carried_otherwise(trained, {"window": 3}).propagation.attention.position_bias.view(3, 3)
    assert smaller.tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
    larger = carried_otherwise(trained, {"window": 7, "reach": 4}).propagation.attention.position_bias.view(7, 7)
    assert torch.equal(larger[1:-1, 1:-1], own.view(5, 5))
    assert larger[0].tolist() == [0, 0, 1, 2, 3, 4, 4] and larger[3, 6] == 14  # the border goes on


def test_a_trained_network_learns_other_classes_and_tasks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    tiny = ModelConfig.tiny()
    names = ("road", "wall", "car", "table")  # of CamVid's: road and car
    trained = Mila(ModelConfig.from_dict(tiny.to_dict() | {"classes": names}))
    torch.nn.init.ones_(trained.slow_heads.tasks["segmentation"].out.bias)
    save_model(trained, path)
    settings = TrainSettings(
        start=str(path),
        data="camvid:unused",
        labels="camvid",
        relabel=True,
        model={"tasks": ["segmentation"], "working_pixels": 64 * 96},
    )
    model = build_model(settings, ["slow", "fast"])
    classes = load_labels("camvid").classes
    assert model.config.classes == classes and len(model.config.palette) == len(classes)
    assert model.config.tasks == ("segmentation",) and model.config.working_pixels == 64 * 96
    source, head = (load_model(path).slow_heads.tasks["segmentation"], model.slow_heads.tasks["segmentation"])
    for name in ("road", "car"):
        torch.testing.assert_close(head.out.weight[classes.index(name)], source.out.weight[names.index(name)])
    assert head.out.bias[classes.index("car")] == 1 and head.out.bias[classes.index("sky")] == 0
    torch.testing.assert_close(head.fine.state_dict(), source.fine.state_dict())
    torch.testing.assert_close(model.slow.state_dict(), load_model(path).slow.state_dict())
    # Fast heads have not learned these answers, so the stage after this one begins with copies.
    save_model(trained, path, {"stages": ["slow", "fast"]})
    assert stages_before(settings) == ["slow"]
    assert stages_before(replace(settings, relabel=False, model={})) == ["slow", "fast"]
    with pytest.raises(UserError, match="relabel is for the stage slow"):
        TrainSettings(stage="fast", start=str(path), data="camvid:unused", relabel=True)
    crossed = carried_otherwise(trained, {"cross_attention": True}, ("cross_attention",))
    save_model(crossed, path)
    with pytest.raises(UserError, match="tasks know of each other"):
        build_model(replace(settings, labels="nyu40", relabel=False), ["slow"])
    with pytest.raises(UserError, match="tasks must be some of"):
        build_model(TrainSettings(start=str(path), rendered_clips=1, model={"tasks": ["flow"]}), ["slow"])


def test_fast_heads_start_as_copies_when_they_should(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "start.safetensors"
    trained = Mila(ModelConfig.tiny())
    save_model(trained, path)

    def copied(stages: list[str], copy: bool | None) -> bool:
        settings = TrainSettings(stage="fast", data="nyuv2:unused", start=str(path), copy_heads=copy)
        model = build_model(settings, stages)
        slow, fast = model.slow_heads.tasks.state_dict(), model.fast_heads.tasks.state_dict()
        return all(torch.equal(slow[name], fast[name]) for name in slow)

    assert copied(["slow"], None) and not copied(["slow", "fast"], None)
    assert copied(["slow", "fast"], True) and not copied(["slow"], False)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    for text, message in [
        ("stage: medium", "stage must be"),
        ("stage: fast\ndata: nyuv2:x", "set `start`"),
        ("data: nyuv2:x\nadversary_weight: 1", "for the stage fast"),
        ("data: nyuv2:x\ntask_weighting: guessed", '"fixed" or "learned"'),
        ("steps: 10", "no training data"),
        ("data: nyuv2:x\nwings: 2", "unknown settings"),
        ("- a list", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("data: nyuv2:x\nheight: 100", "multiples of 32"),
        ("data: nyuv2:x\nsave_every: 0", "save_every must be at least 1; got 0"),
        ("data: nyuv2:x\nminutes: 0", "minutes must be above 0"),
        ("data: nyuv2:x\nmodel: reach", "it must be a mapping: 'model="),
        ("data: nyuv2:x\ntask_weights: {dept: 2}", "task_weights names dept; the tasks are segmentation, depth"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_settings(path, [])
    with pytest.raises(UserError, match="learningrate .did you mean learning_rate.."):
        load_settings(path, ["learningrate=1"])
    with pytest.raises(UserError, match='configuration "slwo": .* one of driving_fast, driving_slow, fast, flow, slow'):
        train(["slwo", "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no training configuration"):
        load_settings(tmp_path / "missing.yaml", [])
    path.write_text("data: nyuv2:x")
    with pytest.raises(UserError, match="key=value"):
        load_settings(path, ["steps"])
    assert load_settings(path, ["steps=7"]).steps == 7
    assert load_settings(path, ["learning_rate=1e-3"]).learning_rate == 0.001
    with pytest.raises(UserError, match="quote it for the shell"):
        load_settings(path, ["model={keys:"])
    weights = load_settings(path, ["task_weights={depth: 1e-1}"]).task_weights
    assert weights == {"segmentation": 1.0, "depth": 0.1, "normals": 1.5}
    for override, message in [
        ("task_weights={depth: x}", "must map tasks to numbers"),
        ("adversary_rise=x", "must be a whole number"),
        ("copy_heads=1", "must be true or false"),
    ]:
        with pytest.raises(UserError, match=message):
            load_settings(path, [override])
    with pytest.raises(UserError, match="zoom is 'much'"):
        load_settings(path, ["zoom=much"])
    out = ["--out", str(tmp_path / "out"), "data=nyuv2:x"]
    with pytest.raises(UserError, match="nothing.safetensors"):
        train(["fast", *out, f"start={tmp_path / 'nothing.safetensors'}"])
    with pytest.raises(UserError, match="--processes 0: at least one"):
        train(["slow", *out, "--processes", "0"])
    with pytest.raises(UserError, match="precision=fp12 .*cannot be"):
        train(["slow", *out, "--device", "cpu", "precision=fp12"])


def test_one_line_changes_one_thing_of_the_network(tmp_path: Path) -> None:
    file = config_dir() / "train" / "fast.yaml"
    usual = load_settings(file, ["data=nyuv2:x"]).model
    assert usual == {"warp": True, "window": 5, "reach": 8}

    def changed(text: str) -> dict:
        return load_settings(file, ["data=nyuv2:x", f"model={text}"]).model

    assert changed("{attention: task}") == usual | {"attention": "task"}
    assert changed("{propagation: attention+alignment}") == usual | {"propagation": "attention+alignment"}
    # What only local attention has goes with it, here and from a trained network.
    assert changed("{propagation: laps}") == {"window": 5, "propagation": "laps"}
    searched = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"warp": True, "reach": 4}))
    leaping = carried_otherwise(searched, {"propagation": "laps"}).config
    assert (leaping.propagation, leaping.warp, leaping.reach) == ("laps", False, 0)
    assert changed("{}") == {}


def test_another_start_of_the_same_name_is_not_resumed_from(tree: Path, tmp_path: Path) -> None:
    start, out = tmp_path / "start.safetensors", tmp_path / "out"
    config = ModelConfig.from_dict(ModelConfig.tiny().to_dict() | {"classes": load_labels("nyu40").classes})
    save_model(Mila(config), start)
    again = [*SMALL, f"data=nyuv2:{tree}", "rendered_clips=0", f"start={start}", "--out", str(out), "--device", "cpu"]
    assert train(["fast", "model={}", *again]) == 0
    assert train(["fast", "model={}", *again, "blend=0.5"]) == 0  # what it is where it is left open
    with pytest.raises(UserError, match="other settings"):
        train(["fast", "model={}", *again, "blend=0.75"])
    torch.manual_seed(1)
    save_model(Mila(config), start)
    with pytest.raises(UserError, match="another start checkpoint"):
        train(["fast", "model={}", *again])
