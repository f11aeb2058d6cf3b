"""Crossdock's transactional shell: the loop between Kafka and a pure decider, written once for every service.

    poll -> decode -> decide -> evolve -> produce -> send_offsets -> commit

`service` is what a service says about itself, `worker` is the loop, `process` runs it as a program.
"""
