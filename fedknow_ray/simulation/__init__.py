"""The emulated hardware: work to be priced, device profiles, the cost model, links, and the virtual clock.

Pure: no torch, no ray, no disk but the device profiles of the package, no wall clock.
"""
