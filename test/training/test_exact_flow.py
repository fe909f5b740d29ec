"""The stage flow: what it is told is true however pictures are varied, it learns that, and the fast stage goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mila_ros.errors import UserError
from mila_ros.models.checkpoint import load_model, read_header, save_model
from mila_ros.models.config import ModelConfig
from mila_ros.models.layers import sample_at
from mila_ros.models.mila import Mila
from mila_ros.training.augmentation import Augmentation
from mila_ros.training.data import Batches, Pool, pool_of_rendered
from mila_ros.training.losses import end_point_error
from mila_ros.training.main import main as train
from mila_ros.training.settings import TrainSettings
from mila_ros.training.steps import FlowStep
from mila_ros.worlds.labels import load_labels

CPU = torch.device("cpu")
CLASSES = load_labels("nyu40").classes


def seen_where_it_was(batches: Batches) -> tuple[float, float, float]:
    """How far a batch's pictures are from their keyframes, and from these looked up along the flow; the share of cells
    of which it is known."""
    batch = batches.next()
    assert batch.flow is not None and batch.keyframes is not None
    before = batch.keyframes[:, 0]
    known = batch.flow.isfinite().all(dim=1)
    assert batch.flow.shape == (len(before), 2, before.shape[-2] // 8, before.shape[-1] // 8)

    def enlarged(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)

    sure = enlarged(known[:, None].float())[:, 0] > 0.999
    there = sample_at(before, 8 * enlarged(batch.flow.nan_to_num()))
    near, far = ((x - batch.image).abs().mean(dim=1)[sure].mean() for x in (there, before))
    return float(far), float(near), float(known.float().mean())


@pytest.mark.parametrize(("moved", "turn"), [(0.0, 0.0), (0.0, 5.0), (1.0, 3.0)])
def test_stills_flow_where_their_camera_has_moved(moved: float, turn: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(192.0), indexing="ij")
    waves = [
        torch.sin(columns / 9) + torch.cos(rows / 7),
        torch.sin((columns + rows) / 11),
        torch.cos((columns - rows) / 13),
    ]
    rgb = ((torch.stack(waves) / 4 + 0.5) * 255).round().to(torch.uint8).expand(4, 1, -1, -1, -1)
    depth = (2 + 0.005 * columns + 0.01 * rows).half().expand(4, 1, -1, -1)
    nothing = torch.zeros(4, 1, 3, 128, 192, dtype=torch.int8)
    camera = torch.tensor([[150.0, 150.0, 95.5, 63.5]]).expand(4, -1)
    pool = Pool(rgb, depth, torch.zeros(4, 1, 128, 192, dtype=torch.uint8), nothing, camera)
    varied = Augmentation(64, 96, zoom=1.5, turn=turn, moved=moved, colour=0.0)
    batches = Batches([(pool, 1.0)], 4, varied, 1, torch.Generator().manual_seed(1), flow=True)
    far, near, known = seen_where_it_was(batches)
    assert near < 0.25 * far and 0.7 < known <= 1.0


def test_rendered_clips_flow_as_they_were_rendered() -> None:
    pool = pool_of_rendered(2, 3, 4, 96, 128, 5, CPU, flow=True)
    varied = Augmentation(96, 128, zoom=1.2, turn=2.0, colour=0.0)
    batches = Batches([(pool, 1.0)], 4, varied, 1, torch.Generator().manual_seed(0), flow=True)
    far, near, known = seen_where_it_was(batches)
    assert near < 0.6 * far and known > 0.6  # what was hidden is told, too
    with pytest.raises(UserError, match="without optical flow, or of one frame"):
        Batches([(pool_of_rendered(1, 2, 1, 32, 64, 0, CPU), 1.0)], 2, varied, 1, torch.Generator(), flow=True)


def test_what_is_unknown_counts_for_nothing() -> None:
    truth = torch.tensor([[3.0, torch.nan], [4.0, torch.nan]]).view(1, 2, 1, 2)
    flow = torch.zeros(1, 2, 1, 2, requires_grad=True)
    error = end_point_error(flow, truth)
    torch.testing.assert_close(error, torch.tensor(5.0))
    error.backward()
    assert flow.grad is not None and flow.grad.isfinite().all()
    assert not flow.grad[..., 1].any() and flow.grad[..., 0].all()
    assert not end_point_error(flow, torch.full_like(truth, torch.nan)).any()


@pytest.mark.parametrize("way", [{}, {"keys": "slow"}, {"propagation": "accel"}], ids=str)
def test_fast_network_and_flow_learn_it_and_nothing_else(pool: Pool, way: dict[str, object]) -> None:
    torch.manual_seed(0)
    values = {"classes": CLASSES, "working_pixels": 64 * 96, "propagation": "learned-flow"} | way
    model = Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | values))
    for last in (model.propagation.far.better[-1], model.propagation.near.better[-1]):
        torch.nn.init.normal_(last.weight, std=0.1)
    settings = TrainSettings(stage="flow", start="unused", data="nyuv2:unused", rendered_clips=0, validate_every=0)
    batches = Batches([(pool, 1.0)], 3, Augmentation(64, 96), 1, torch.Generator().manual_seed(0), flow=True)
    losses = FlowStep(model, settings, torch.ones(len(CLASSES))).train()(batches.next())
    assert set(losses) == {"far", "near"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        flow = name.startswith(("fast.", "propagation.far.", "propagation.near."))
        assert learns == flow, name


def test_the_fast_stage_goes_on_from_it_either_way(tree: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    values = {"classes": CLASSES, "working_pixels": 64 * 96}
    save_model(Mila(ModelConfig.from_dict(ModelConfig.tiny().to_dict() | values)), start, {"stages": ["slow"]})
    small = [f"data=nyuv2:{tree}", "height=64", "width=96", "batch=2", "steps=2", "warmup=1", "precision=32-true"]
    shared = [*small, "--device", "cpu", "validate_every=0"]
    rooms = ["rendered_clips=2", "rendered_frames=2"]
    assert train(["flow", *shared, *rooms, f"start={start}", "--out", str(tmp_path / "flow")]) == 0
    flow = tmp_path / "flow" / "model.safetensors"
    assert read_header(flow)[1]["stages"] == ["slow", "flow"]
    assert (tmp_path / "flow" / "log.csv").read_text().splitlines()[1].startswith("2,")
    for way in ("learned-flow", "accel"):
        out = tmp_path / way
        command = ["fast", *shared, "rendered_clips=0", f"model={{propagation: {way}}}", f"start={flow}", "steps=1"]
        assert train([*command, "learning_rate=0", "weight_decay=0", "--out", str(out)]) == 0
        went_on = load_model(out / "model.safetensors")
        assert went_on.config.propagation == way
        learned = dict(load_model(flow).propagation.named_parameters())
        kept = [name for name, _ in went_on.propagation.named_parameters() if name.startswith(("far.", "near."))]
        assert kept == [name for name in learned if name.startswith(("far.", "near."))] != []
        for name in kept:
            torch.testing.assert_close(went_on.propagation.get_parameter(name), learned[name], msg=name)
    with pytest.raises(
        UserError, match="a propagation that finds optical flow .learned-flow, accel.; this network's is attention"
    ):
        train(["flow", *shared, "rendered_clips=0", "model={}", f"start={start}", "--out", str(tmp_path / "no")])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": None}, 'stage "flow" goes on from a trained slow network'),
        ({"validate_every": 10}, "the stage flow answers no task"),
        ({"blend": 0.5}, "the stage flow answers no task"),
        ({"rendered_clips": 4, "rendered_frames": 1}, "set rendered_frames to 2 or more"),
        ({"adversary_weight": 0.1}, "adversary_weight and glance_weight are for the stage fast"),
    ],
)
def test_settings_that_it_cannot_have_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainSettings(**{"stage": "flow", "start": "x", "data": "nyuv2:x", "validate_every": 0} | wrong)
