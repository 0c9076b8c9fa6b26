"""fedknow_ray."""
