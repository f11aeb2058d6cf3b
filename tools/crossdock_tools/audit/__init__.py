"""The auditor: one program that reads the topics and the outside's own books, and holds them against every invariant.

It shares no decision code with the services: what it knows of them is the contracts, the catalogue and the names of topics.
`auditor` puts the checks together, `evidence` is what the cluster says, `books` what the outside says, `report` the verdict;
each other module holds the checks of one subject.
"""
