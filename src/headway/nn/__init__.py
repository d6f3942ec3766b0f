"""Building blocks; they know nothing of files, frames or parameter files."""
