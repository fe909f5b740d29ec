"""For pip: everything is in pyproject.toml but the one folder that lies elsewhere than Python expects it."""

from setuptools import find_packages, setup

setup(
    # config/ stands at the top for ROS; pip puts it inside the package (mila_ros.paths finds it in both).
    packages=[*find_packages(include=["mila_ros", "mila_ros.*"]), "mila_ros.config"],
    package_dir={"mila_ros.config": "config"},
)
