"""The model for people who use it: photos in, larger photos out."""
