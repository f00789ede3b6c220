"""The rules of Sluice, with no protocol and no driver: an import contract checks that."""
