"""The command line: `fedknow-ray`, also `python -m fedknow_ray`."""
