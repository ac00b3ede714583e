"""Descriptions of data sets in YAML, the catalogs, splits and lists of images."""
