"""Pure translations from the outside's words into records of the contracts, one module a vendor or format."""
