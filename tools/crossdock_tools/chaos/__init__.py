"""`crossdock chaos`: the whole backbone on real parts, two of each service, under load, while its parts are killed, frozen and cut
off at random; then everything is healed, and the auditor judges what became of it.

`schedule` draws the faults from a seed, `load` writes what channels and stores say meanwhile, `sending` says it, `stack` runs the
processes, `faults` does the harm, `watching` follows the topics, `run` plays one run, `report` says what happened.
"""
