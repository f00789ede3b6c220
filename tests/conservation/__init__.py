"""The conservation of requests and events: at every scrape, what was received has an outcome or is in flight."""
