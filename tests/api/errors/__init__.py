"""Every rejection of the REST API, over real connections: what it says, in which form, and that nothing is stored."""
