"""Tests of `server/deploy`: each file there is used as its README says, as far as this machine can."""
