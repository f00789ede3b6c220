"""Values read back as exactly the JSON that was sent, or are rejected with the path to what is wrong."""
