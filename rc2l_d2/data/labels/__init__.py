"""Label formats: file names, values and colours, and how they become class indices."""
