"""The node's life: transitions by service, taken down by a signal, and starts that must fail with a sentence.

Failing starts run in this process (the same `main`, without another half minute of imports); one runs as a process for
the exit status.
"""

from __future__ import annotations

import pytest
from lifecycle_msgs.msg import Transition
from sensor_msgs.msg import Image

from mila_ros.errors import UserError
from mila_ros.ros.process import main

from .perception_harness import (
    START_SECONDS,
    WAIT_SECONDS,
    NodeProcess,
    Peer,
    camera_info,
    frame,
    stamp,
    tiny_checkpoint,
    wait,
)

IMAGE, INFO = "/camera/color/image_raw", "/camera/color/camera_info"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def answers_come(peer: Peer, out: str, number: int) -> None:
    """Publish until the frame is answered."""
    answers = peer.listen(Image, out)

    def answered():
        peer.publish(INFO, camera_info())
        peer.publish(IMAGE, frame(number))
        return any(stamp(answer) == stamp(frame(number)) for answer in answers)

    wait(answered, f"an answer on {out}")


def test_transitions_one_after_the_other_and_back(checkpoint, tmp_path):
    parameters = tmp_path / "perception.yaml"
    parameters.write_text(
        f"""
        /**:
          ros__parameters:
            autostart: false
            model: {checkpoint}
            device: cpu
        """
    )
    process, peer = NodeProcess(tmp_path / "log", "--params-file", str(parameters)), Peer()
    out = "/perception/front/depth/image"
    try:
        assert peer.state() == "unconfigured"
        assert not peer.heard(out)
        assert peer.change_state(Transition.TRANSITION_CONFIGURE) and peer.state() == "inactive"
        wait(lambda: peer.heard(out), "the topics")
        assert peer.node.count_subscribers(IMAGE) == 0
        assert "not active" in wait(lambda: peer.status("perception: budget"), "diagnostics").message
        assert peer.change_state(Transition.TRANSITION_ACTIVATE) and peer.state() == "active"
        answers_come(peer, out, 1)

        assert peer.change_state(Transition.TRANSITION_DEACTIVATE) and peer.state() == "inactive"
        wait(lambda: peer.node.count_subscribers(IMAGE) == 0, "the end of the subscription")
        assert peer.change_state(Transition.TRANSITION_ACTIVATE)
        answers_come(peer, out, 2)
        # From the active state: everything is let go on the way.
        assert peer.change_state(Transition.TRANSITION_DEACTIVATE)
        assert peer.change_state(Transition.TRANSITION_CLEANUP) and peer.state() == "unconfigured"
        wait(lambda: not peer.heard(out), "the end of the topics")
        assert peer.change_state(Transition.TRANSITION_CONFIGURE)
        assert peer.change_state(Transition.TRANSITION_ACTIVATE)
        answers_come(peer, out, 3)
        assert peer.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN) and peer.state() == "finalized"
        assert process.stop() == 0, process.log
        assert "Traceback" not in process.log
    finally:
        peer.close()
        process.stop()


def test_a_start_that_fails_ends_the_process_with_status_2(tmp_path):
    process = NodeProcess(tmp_path / "log", "-p", f"model:={tmp_path / 'none.safetensors'}", "-p", "device:=cpu")
    wait(lambda: not process.running(), "the end", START_SECONDS + WAIT_SECONDS)
    assert process.stop() == 2
    assert "error: no model" in process.log and "Traceback" not in process.log


def refusal(*arguments: str) -> str:
    """Start in this process, where it must be refused; the sentence."""
    with pytest.raises(UserError) as caught:
        main(list(arguments))
    return str(caught.value)


def test_damaged_checkpoints_are_refused(checkpoint, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-1000])
    assert "cut.safetensors" in refusal("-p", f"model:={cut}")
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(bytes(range(256)) * 10)
    assert "noise.safetensors" in refusal("-p", f"model:={noise}")


def test_tasks_that_the_checkpoint_lacks_are_refused(tmp_path):
    depth_only = tiny_checkpoint(tmp_path, ("depth",))
    said = refusal("-p", f"model:={depth_only}")
    assert "depth" in said and "segmentation" in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["device:=tpu"], 'unknown device "tpu"'),
        (["device:=cuda:77"], "there is cpu"),
        (["precision:=fp16", "device:=cpu"], "needs a GPU"),
        (["precision:=int8"], "fp32, bf16, fp16"),
        (["mode:=often"], "asynchronous, synchronous"),
        (["keyframe.period:=often"], "keyframe.period has the wrong type: it is a number"),
        (["keyframe.period:=-1.0"], "between 0 and 60"),
        (["output_scale:=3.0"], "output_scale is 3.0"),
        (["cameras:=[a__b]"], "a__b"),
        (["cameras:=[front, front]"], "twice"),
        (["cameras:=[keyframe]"], "taken"),
        (["front.transport:=zip"], "raw, compressed"),
        (["front.image_topic:=front-left/image"], 'front.image_topic is "front-left/image"'),
        (["front.image_topic:=''"], 'front.image_topic is ""'),
        (["tasks:=[segmentation, flow]"], "flow"),
        (["skip_order:=[normals, flow]"], "skip_order names flow; use some of segmentation"),
        (["device_share:=0.0"], "device_share is 0.0"),
        (["obstacles.leave_out:=[flor]"], 'obstacles.leave_out names the class "flor"'),
        (["obstacles.leave_out:=floor"], "it is a list of words, as in [one, other]"),
    ],
)
def test_wrong_parameters_are_refused_with_a_sentence(checkpoint, arguments, words):
    given = [f"model:={checkpoint}", *arguments]
    assert words in refusal(*(word for argument in given for word in ("-p", argument)))


def test_wrong_ros_arguments_are_refused_with_a_sentence(tmp_path):
    assert "nowhere.yaml cannot be read: " in refusal("--params-file", str(tmp_path / "nowhere.yaml"))
    (tmp_path / "odd.yaml").write_text("/perception:\n  ros__parameters: [1\n")
    assert "odd.yaml is not valid YAML: " in refusal("--params-file", str(tmp_path / "odd.yaml"))
    assert 'parameter "model=driving": write NAME:=VALUE' in refusal("-p", "model=driving")
    assert 'parameter "tasks:=[depth": the value is not valid YAML' in refusal("-p", "tasks:=[depth")
    assert "ROS arguments" in refusal("--ros-args", "-p", "nonsense")
    with pytest.raises(SystemExit) as caught:
        main(["--nonsense"])
    assert caught.value.code == 2
