"""Photos of any format: reading, naming results, writing."""
