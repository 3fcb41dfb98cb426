"""A folder that upscales photos in a visitor's browser."""
