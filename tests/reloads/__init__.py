"""SIGHUP under load: no connection is refused, nothing is lost, and the new certificate is served."""
