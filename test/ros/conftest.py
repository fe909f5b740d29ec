"""A node that runs while the tests of a file talk to it."""

from __future__ import annotations

import pytest

from .perception_harness import START_SECONDS, NodeProcess, Peer, tiny_checkpoint, wait


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One node for the whole module: a raw camera `front`, and `rear`, which is published compressed alone."""
    folder = tmp_path_factory.mktemp("perception")
    settings = {
        "model": str(tiny_checkpoint(folder)),
        "cameras": "[front, rear]",
        "front.transport": "raw",
        "front.camera_matrix": "P",
        "qos_overrides./rear/image_raw/compressed.subscription.depth": "7",
        "rear.fallback_hfov": "60.0",
        "keyframe.period": "0.5",
        "keyframe.longest_period": "0.0",  # a busy machine must not change what is tested here
        "stale_after": "1.0",
        "precision": "fp32",
        "backend": "eager",  # pictures of many sizes come: compiling for each would take the processor from the others
        "device": "cpu",
        "deadline": "60000.0",
    }
    arguments = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    process = NodeProcess(folder / "node.log", *arguments)
    peer = Peer()
    try:
        wait(lambda: not process.running() or "camera rear" in process.log, "the node's start", START_SECONDS)
        assert process.running(), process.log
        yield process, peer
        assert process.running(), process.log
        assert process.stop() == 0, process.log
        assert "Traceback" not in process.log
    finally:
        peer.close()
        process.stop()


@pytest.fixture
def peer(running):
    return running[1]
