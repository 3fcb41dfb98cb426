"""Image files: recognising, reading and writing them with all that they carry. One module per format; no torch."""
