"""The report of a run: one HTML file that holds its plots, its numbers and all that is needed to show them."""

from fedknow_ray.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
