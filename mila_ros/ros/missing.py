"""What of a perception node's topics nobody publishes, in sentences for the person who waits for them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rclpy.node import Node

from mila_ros.errors import did_you_mean


def missing_topics(
    node: Node, perception: str, cameras: Sequence[str], outputs: Sequence[str], others: Iterable[str]
) -> list[str]:
    """Sentences, as the graph is now; none where everything has a publisher.

    Args:
        node: that asks.
        perception: full name of the perception node.
        cameras: of it.
        outputs: topics of each camera, below its name.
        others: further topics, by their full names.
    """
    published = [topic for topic, _ in node.get_topic_names_and_types() if node.count_publishers(topic)]
    below = [
        topic.removeprefix(f"{perception}/").split("/") for topic in published if topic.startswith(f"{perception}/")
    ]
    there = sorted({parts[0] for parts in below if len(parts) > 2})
    said = []
    if not below:
        said.append(_no_node(node, perception))
    elif not there:  # what every lifecycle node has is there from the start, the cameras' topics once it is configured
        said.append(f"{perception} offers no camera: is it still loading its model, or not configured?")
    for camera in cameras if there else ():
        if camera not in there:
            hint = did_you_mean(camera, there)
            said.append(f"{perception} has no camera {camera}{hint} (cameras: {', '.join(there)})")
            continue
        lacking = [output for output in outputs if not node.count_publishers(f"{perception}/{camera}/{output}")]
        said += [f"{perception} does not offer {camera}/{output}" for output in lacking]
    said += [f"nobody publishes {topic}{did_you_mean(topic, published)}" for topic in others if topic not in published]
    return said


def _no_node(node: Node, perception: str) -> str:
    spaces = node.get_node_names_and_namespaces()
    names = sorted({f"{space.rstrip('/')}/{name}" for name, space in spaces} - {node.get_fully_qualified_name()})
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    return (
        f"no node {perception} publishes in ROS_DOMAIN_ID {domain}{did_you_mean(perception, names)} "
        f"(nodes: {', '.join(names) or 'none'})"
    )
