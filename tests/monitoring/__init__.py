"""The evaluation of rules on two hosts while workers are killed, a host is frozen, and primaries step down."""
