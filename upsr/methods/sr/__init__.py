"""A plain SR network: stage one of UPSR, and any network that spandrel knows."""
