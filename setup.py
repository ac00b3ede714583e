"""Installs rc2l_d2. Detectron2 is optional and comes by its own instructions, never from here."""

from setuptools import find_packages, setup

setup(
    name="rc2l_d2",
    version="0.1.0",
    description="RC2L: region-level contrastive and consistency learning for semi-supervised semantic segmentation",
    license="Apache-2.0",
    packages=find_packages(include=["rc2l_d2", "rc2l_d2.*"]),
    package_data={"rc2l_d2.data": ["definitions/*.yaml"], "rc2l_d2.reporting": ["*.html"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "pycocotools>=2.0.7",
        "opencv-python-headless>=4.8",
        "numpy>=1.26",
        "scipy>=1.11",
        "pillow>=10",
        "pyyaml>=6",
        "matplotlib>=3.8",
        # The page on each run; torch requires it too.
        "jinja2>=3.1",
        "tabulate>=0.9",
        "tensorboard>=2.14",
        "termcolor>=2",
        "tqdm>=4.66",
    ],
    extras_require={
        "dev": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6", "ruff>=0.5"],
        # What tools/bench measures this project beside.
        "bench": ["transformers>=5"],
    },
)
