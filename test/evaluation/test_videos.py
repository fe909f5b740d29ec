"""Comparison on labelled video: real earlier frames are keyframes, every method is judged on the same frames."""

import pytest
import torch

from mila_ros.errors import UserError
from mila_ros.evaluation.videos import compare_videos
from mila_ros.models.config import ModelConfig
from mila_ros.models.mila import Mila
from mila_ros.worlds.camvid import CamVid
from mila_ros.worlds.labels import load_labels
from mila_ros.worlds.world import open_world_for

from ..worlds.camvid_tree import make_tree

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> CamVid:
    names = [f"0016E5_{number:05d}" for number in range(100, 124, 2)]
    return CamVid(make_tree(tmp_path_factory.mktemp("camvid"), {"val": names, "train": ["0001TP_000030"]}))


def network(**values: object) -> Mila:
    torch.manual_seed(0)
    tiny = ModelConfig.tiny(("segmentation",)).to_dict() | {"classes": load_labels("camvid").classes}
    return Mila(ModelConfig.from_dict(tiny | values)).eval()


def test_methods_are_judged_on_the_frames_that_have_a_past(drive: CamVid) -> None:
    seen: list[int] = []
    model = network()
    features = model.features

    def watched(image: torch.Tensor) -> object:
        seen.append(1)
        return features(image)

    model.features = watched  # type: ignore[method-assign, assignment]
    results, judged = compare_videos(model, drive, CPU, [1, 4], [1, 5])
    assert judged == 8  # 12 frames of the video, the still is left out, the first four have no frame 4 before them
    assert sum(seen) == 12 + 2  # the slow network once a frame; two more to count FLOPs
    assert set(results) == {"slow", "fast", "mila@1", "mila@4", "mila/1", "mila/5"}
    assert results["mila/1"]["segmentation"] == results["slow"]["segmentation"]  # every frame a keyframe
    assert results["mila/5"]["gflops"] < results["slow"]["gflops"]
    assert set(results["slow"]) == {"segmentation", "consistency", "video_consistency", "gflops", "gflops_worst"}
    assert results["slow"]["consistency"]["pairs"] == 7
    assert results["mila/5"]["gflops_worst"] >= results["slow"]["gflops_worst"] > results["mila/5"]["gflops"]
    assert results["mila@1"]["gflops_worst"] == results["mila@1"]["gflops"]


def test_several_keyframes_need_a_longer_past(drive: CamVid) -> None:
    results, judged = compare_videos(network(frames=2), drive, CPU, [2], [5])
    assert judged == 12 - 5  # a keyframe 2 frames ago and one 3 before it
    assert 0 <= results["mila@2"]["segmentation"]["miou"] <= 1
    with pytest.raises(UserError, match="labelled frame with 41 frames before it.*2 remembered"):
        compare_videos(network(frames=2), drive, CPU, [20], [5])


def test_a_model_is_judged_by_data_that_it_can_answer(drive: CamVid) -> None:
    data, names = f"camvid:{drive.folder}", load_labels("camvid").classes
    assert open_world_for(data, "val", names, ["segmentation"]).classes == names
    with pytest.raises(UserError, match="knows the classes of nyu40 .wall, floor, cabinet, ....*choose the model"):
        open_world_for(data, "val", load_labels("nyu40").classes, ["segmentation"])
    own = tuple(f"own {i}" for i in range(11))
    assert open_world_for(data, "val", own, ["segmentation"]).classes == own
    with pytest.raises(UserError, match="has ground truth for ..segmentation.., the model answers ..depth.."):
        open_world_for(data, "val", (), ["depth"])


def test_where_few_frames_are_labelled_intervals_are_left_out(drive: CamVid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "labelled", [drive.videos[0][-1]])
    results, _ = compare_videos(network(), drive, CPU, [2], [5])
    assert set(results) == {"slow", "fast", "mila@2"}
