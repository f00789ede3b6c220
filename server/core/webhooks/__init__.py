"""Webhooks: where alerts are delivered, and the deliveries that are due."""
