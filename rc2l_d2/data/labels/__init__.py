"""Label formats: from file names to label files, and from their values or colours to class indices.

A further format (polygons or run lengths in JSON or XML, for example) is a module here that yields label images.
"""
