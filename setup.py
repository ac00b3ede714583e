"""Installs rc2l_d2. Detectron2 is optional and comes by its own instructions, never from here."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Read, not imported: importing the package takes torch, which need not be there yet.
VERSION = re.search(r'^__version__ = "(.+)"$', Path("rc2l_d2/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]
PSUTIL = "psutil>=5.9"
PANDAS = "pandas>=2.2"
EXPORT = ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"]

setup(
    name="rc2l_d2",
    version=VERSION,
    description="RC2L: region-level contrastive and consistency learning for semi-supervised semantic segmentation",
    license="Apache-2.0",
    packages=[*find_packages(include=["rc2l_d2", "rc2l_d2.*"]), "rc2l_d2.configs"],
    # configs/ is installed into the package, where rc2l_d2/config_files.py finds it; it exists once.
    package_dir={"rc2l_d2.configs": "configs"},
    package_data={
        "rc2l_d2.configs": ["*.yaml", "*/*.yaml"],
        "rc2l_d2.data.datasets": ["definitions/*.yaml"],
        "rc2l_d2.reporting": ["*.html"],
    },
    entry_points={
        "console_scripts": [
            "rc2l-train = rc2l_d2.commands.train:run",
            "rc2l-predict = rc2l_d2.commands.predict:main",
            "rc2l-check = rc2l_d2.commands.check:main",
            "rc2l-quickstart = rc2l_d2.commands.quickstart:main",
            "rc2l-report = rc2l_d2.commands.report:main",
        ]
    },
    # 3.11 is what it was tried with; newer ones are not refused.
    python_requires=">=3.11",
    classifiers=["Programming Language :: Python :: 3.11"],
    install_requires=[
        "torch>=2.6",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
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
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6",
            "ruff>=0.5",
            "setuptools>=77",
            PSUTIL,
            PANDAS,
            *EXPORT,
        ],
        # tools/export.py; torch writes ONNX with the first two.
        "export": EXPORT,
        # tools/compare_methods.py.
        "comparison": [PANDAS],
        # What tools/dev/bench measures this project beside, and what tools/dev/soak.py watches processes with.
        "bench": ["transformers>=5", PSUTIL],
    },
)
