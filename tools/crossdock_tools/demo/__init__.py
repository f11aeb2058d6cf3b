"""`crossdock demo`: the whole backbone on real parts, fed through its front door, judged by its own topics and by the books
of the systems around it.

`shapes` builds the channels' payloads, `scenario` says what is sent and what must come of it, `stack` runs the processes,
`client` sends, `figures` reads the outcome, `command` tells the story.
"""
