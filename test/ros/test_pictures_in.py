"""A camera's pictures, raw or compressed: a graph of nodes that the test makes up, no middleware.

Asserted: which of the two is listened to, when it changes, and what is said of a silence. That frames of both kinds are
answered is asserted with real nodes (test_perception.py).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sensor_msgs.msg import CompressedImage, Image

from mila_ros.ros.pictures_in import PicturesIn
from mila_ros.ros.settings import CameraSettings

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Graph:
    """A node that sees what is in `published` (topic -> types) and notes what it is subscribed to."""

    def __init__(self, remapped: dict[str, str] | None = None) -> None:
        self.remapped = remapped or {}
        self.published: dict[str, list[str]] = {}
        self.refused = ""
        self.listening: list[tuple[str, type]] = []

    def resolve_topic_name(self, topic: str) -> str:
        return self.remapped.get(topic, topic)

    def create_subscription(self, kind: type, topic: str, *_: object, **__: object) -> SimpleNamespace:
        if topic == self.refused:
            raise RuntimeError("no such policy")
        self.listening.append((self.resolve_topic_name(topic), kind))
        return SimpleNamespace(topic_name=self.resolve_topic_name(topic), kind=kind)

    def destroy_subscription(self, subscription: SimpleNamespace) -> None:
        self.listening.remove((subscription.topic_name, subscription.kind))

    def get_publishers_info_by_topic(self, topic: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(topic_type=kind) for kind in self.published.get(topic, [])]

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return list(self.published.items())

    def count_publishers(self, topic: str) -> int:
        return len(self.published.get(topic, []))

    def get_fully_qualified_name(self) -> str:
        return "/perception"


def pictures(graph: Graph, topic: str = "/image", compressed: bool = False, follows: bool = True) -> PicturesIn:
    settings = CameraSettings("front", topic, "/info", compressed, follows, 0.0, False)
    return PicturesIn(graph, settings, lambda _: None)


def followed(graph: Graph) -> PicturesIn:
    """After it had the time to find what is published."""
    made = pictures(graph)
    for _ in range(2):
        made.follow()
    return made


def test_compressed_pictures_are_taken_while_only_they_are_published():
    graph = Graph()
    made = pictures(graph)
    assert graph.listening == [("/image", Image)]
    assert made.follow() == "" and "nobody publishes /image or /image/compressed" in made.silence()

    graph.published["/image/compressed"] = [COMPRESSED]
    assert made.follow() == ""  # raw ones may be discovered a moment later
    assert made.silence() == "/image/compressed will be listened to in a moment"
    assert made.follow() == f"listens to /image/compressed now, as {COMPRESSED}: that is published"
    assert graph.listening == [("/image/compressed", CompressedImage)]
    assert "has a publisher, but no frame" in made.silence()

    graph.published["/image"] = [RAW]
    assert [made.follow() for _ in range(2)] == ["", f"listens to /image now, as {RAW}: that is published"]
    assert graph.listening == [("/image", Image)] and made.follow() == ""
    del graph.published["/image"], graph.published["/image/compressed"]
    assert [made.follow() for _ in range(3)] == [""] * 3 and made.topic == "/image"


def test_pictures_that_come_and_go_in_discovery_do_not_change_anything():
    graph = Graph()
    graph.published["/image"] = [RAW]
    made = pictures(graph)
    graph.published["/image/compressed"] = [COMPRESSED]
    for _ in range(3):
        kept = graph.published.pop("/image")
        assert made.follow() == ""
        graph.published["/image"] = kept
        assert made.follow() == ""
    assert made.topic == "/image"


def test_a_topic_that_cannot_be_listened_to_leaves_the_one_there_is():
    graph = Graph()
    made = pictures(graph)
    graph.published["/image/compressed"] = [COMPRESSED]
    graph.refused = "/image/compressed"
    said = [made.follow() for _ in range(4)]
    assert said[1] == "goes on with /image, since /image/compressed cannot be listened to: no such policy"
    assert said[0] == said[2] == said[3] == "" and graph.listening == [("/image", Image)]


def test_the_other_transport_is_looked_for_beside_the_remapped_topic_and_where_it_is_remapped_itself():
    graph = Graph({"/image": "/left"})
    graph.published["/left/compressed"] = [COMPRESSED]
    assert followed(graph).topic == "/left/compressed"
    graph = Graph({"/image/compressed": "/jpeg"})
    graph.published["/jpeg"] = [COMPRESSED]
    assert followed(graph).topic == "/jpeg"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_transport_that_was_named_is_kept(compressed: bool):
    graph = Graph()
    topic = "/image/compressed" if compressed else "/image"
    graph.published |= {"/image": [RAW]} if compressed else {"/image/compressed": [COMPRESSED]}
    made = pictures(graph, topic, compressed, follows=False)
    assert [made.follow() for _ in range(3)] == [""] * 3 and made.topic == topic
    assert made.silence().startswith(f"nobody publishes {topic}; there are ")


def test_a_topic_of_the_other_kind_is_named_with_the_way_out():
    graph = Graph()
    graph.published["/image"] = [COMPRESSED]
    said = pictures(graph, follows=False).silence()
    assert said == f"/image is published as {COMPRESSED}, not as {RAW}; set front.transport to auto"
    said = pictures(graph, "/image/compressed", True, follows=False)
    graph.published = {"/image/compressed": [RAW]}
    assert said.silence().endswith(f"not as {COMPRESSED}; set front.transport to raw")


def test_compressed_pictures_without_the_suffix_are_found_too():
    graph = Graph()
    made = pictures(graph)
    graph.published["/image"] = [COMPRESSED]
    assert made.silence() == "/image will be listened to in a moment"
    assert [made.follow() for _ in range(2)][1] == f"listens to /image now, as {COMPRESSED}: that is published"
    assert graph.listening == [("/image", CompressedImage)]
    graph.published["/image"] = ["std_msgs/msg/String"]
    assert made.silence() == f"/image is published as std_msgs/msg/String, not as {COMPRESSED}"
