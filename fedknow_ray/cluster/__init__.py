"""Files that start a Ray cluster for a fleet: text in and text out, without Ray.

config -> plan (which nodes, with what) -> one renderer for each kind of cluster
"""
