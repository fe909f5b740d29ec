"""The command `mila VERB ...`: thin, one module a verb, imported only when its verb is called."""

from __future__ import annotations

import importlib
import os
import sys

from mila_ros import __version__
from mila_ros.errors import UserError

# verb -> module with main(argv) -> exit status, one line of help.
VERBS = {
    "node": ("mila_ros.ros.process", "run the perception node: camera frames in, pictures and budget out"),
    "play": ("mila_ros.ros.player", "publish a bag, a video file or a webcam as camera topics"),
    "record": ("mila_ros.ros.recorder", "record the node's outputs and their latency"),
    "demo": ("mila_ros.evaluation.demo", "play a clip through the node and write a report"),
    "train": ("mila_ros.training.main", "train the slow and the fast network"),
    "ablate": ("mila_ros.training.ablation", "train the fast stage in several ways, and compare them"),
    "calibrate": ("mila_ros.training.depth_scale", "correct the scale of a network's depth by places new to it"),
    "compare": ("mila_ros.evaluation.compare", "score methods on frames with ground truth"),
    "evaluate": ("mila_ros.evaluation.evaluate", "replay recordings: accuracy, real time, and a report on both"),
    "report": ("mila_ros.evaluation.side_by_side", "lay evaluations side by side"),
    "export": ("mila_ros.runtime.export", "write a network as ONNX files, for other runtimes"),
    "render": ("mila_ros.worlds.render", "render a furnished room with exact ground truth"),
    "prepare": ("mila_ros.worlds.prepare", "lay out a data set as its authors publish it"),
    "convert": ("mila_ros.worlds.convert", "write the labelled video of a data set as a recording"),
    "info": ("mila_ros.models.info", "describe a checkpoint: card, parameters, FLOPs"),
}

# What only a ROS 2 environment has; everything else comes with pip.
ROS_MODULES = (
    "rclpy",
    "rcl_interfaces",
    "builtin_interfaces",
    "diagnostic_msgs",
    "lifecycle_msgs",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "mila_ros.msg",
)


def usage() -> str:
    width = max(len(verb) for verb in VERBS)
    lines = ["usage: mila VERB [ARGUMENTS]   (mila VERB --help: more about one)", "", "verbs:"]
    lines += [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join([*lines, "", "options:", "  --help     this text", "  --version  the version of mila_ros"])


def load(verb: str):
    """The module behind a verb; UserError for an unknown verb or where ROS 2 is missing."""
    if verb not in VERBS:
        raise UserError(f"there is no verb {verb!r}; `mila --help` lists them: {', '.join(VERBS)}")
    try:
        return importlib.import_module(VERBS[verb][0])
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(ROS_MODULES):
            raise UserError(
                f"`mila {verb}` needs ROS 2, and the module {error.name} was not found: source a ROS 2 "
                "installation and the workspace that mila_ros was built in, or use `.venv/bin/mila`, "
                "which `make setup` makes"
            ) from error
        if error.name and error.name.partition(".")[0] != "mila_ros":
            raise UserError(
                f"`mila {verb}` needs the Python package {error.name}, which {sys.executable} does not have: activate "
                "the environment that `make setup` made (`. .venv/bin/activate`), or `pip install .` in the source"
            ) from error
        raise


def main(argv: list[str] | None = None) -> int:
    """Run `mila` with these arguments (default: the process's own); returns the exit status.

    0: done; 2: the user can mend it (the message is on stderr); 130: interrupted. Other failures show a
    traceback.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] in ("--help", "-h", "help"):
            print(usage(), file=sys.stdout if arguments else sys.stderr)
            return 0 if arguments else 2
        if arguments[0] in ("--version", "-V"):
            print(f"mila_ros {__version__}")
            return 0
        status = load(arguments[0]).main(arguments[1:])
        sys.stdout.flush()
        return int(status)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`mila ... | head`). Nothing more may be flushed into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
