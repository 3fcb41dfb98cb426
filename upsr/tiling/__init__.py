"""Images larger than a network takes at once: windows, blending, state in files, processes that share the work."""
