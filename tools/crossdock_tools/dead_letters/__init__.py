"""What the services gave up on: looked at, planned for, replayed under proof.

`command`, `plan_command` and `replay_command` are mounted as `crossdock dlt`. The dead-letter topics show what was given up on
(`letters`, `groups`), a service's changelog what is parked (`changelog`), its replays what became of it (`replays`). A plan
(`plan`) is made of these (`criteria`, `planning`, `foreign`), tried out (`sandbox`), carried out (`running`) and proved
(`certificate`, `chain`). The protocol between this and a service is that of `crossdock_eventing.parking`.
"""
