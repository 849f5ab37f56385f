"""The monitors, a folder each: what is read and said, the science, the pictures."""
