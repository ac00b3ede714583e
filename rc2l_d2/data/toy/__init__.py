"""Generated data sets: drawn shapes (the toy set) and landscapes (the demo)."""
