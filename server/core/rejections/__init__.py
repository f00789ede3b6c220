"""The last batches of each tenant that were rejected, for its people to look at."""
