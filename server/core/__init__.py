"""The meaning of an event, a key and an error. Imports the standard library and msgspec: no protocol, no driver."""
