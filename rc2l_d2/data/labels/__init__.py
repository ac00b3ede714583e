"""Label formats: from file names to label files, and from their values or colours to class indices."""
