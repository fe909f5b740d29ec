"""Runs a model in real time: engine, keyframe memory, scheduler, meter. Knows nothing of ROS."""
