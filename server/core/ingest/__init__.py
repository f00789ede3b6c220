"""From an admitted request to stored events and a receipt."""
