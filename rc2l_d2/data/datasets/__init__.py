"""Descriptions of data sets in YAML, their splits and lists of images, and the catalogs."""
