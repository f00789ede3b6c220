"""Rules over REST."""
