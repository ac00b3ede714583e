"""The generated toy data set of drawn shapes."""
