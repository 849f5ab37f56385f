"""The monitors, one folder each: monitor.py, science.py and pictures.py."""
