"""Packages of rc2l_d2; all other metadata is in pyproject.toml, which cannot express the second line of the call."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rc2l_d2", "rc2l_d2.*"]), "rc2l_d2.configs"],
    # configs/ is installed as rc2l_d2.configs, where rc2l_d2/config_files.py finds it.
    package_dir={"rc2l_d2.configs": "configs"},
)
