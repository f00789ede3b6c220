"""The rate limit over many workers and hosts: exact under load, over time, and while processes come and go."""
