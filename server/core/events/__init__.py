"""What an event is, how a batch is decoded, and which values can be stored."""
