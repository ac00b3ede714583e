"""Packages of rc2l_d2; all other metadata is in pyproject.toml, which cannot express the second line of the call."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rc2l_d2", "rc2l_d2.*"]), "rc2l_d2.configs", "rc2l_d2.models"],
    # configs/ and models/ are installed as rc2l_d2.configs and .models, where rc2l_d2/config_files.py finds them.
    package_dir={"rc2l_d2.configs": "configs", "rc2l_d2.models": "models"},
)
