"""Comparison of methods over splits and seeds: a run list from a YAML file, a launcher, tables and figures."""

from .launch import train_missing
from .runs import Comparison, Run, load_comparison

__all__ = ["Comparison", "Run", "load_comparison", "train_missing"]
