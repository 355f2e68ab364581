"""Looking at what goes on, and stepping in: what the command line shows and does, for programs.

nodes      who works: the records that nodes keep in the ledger
queues     what waits, and who consumes it
letters    dead letters, found by task, reason, time and queue

Nothing here talks to a worker: all of it is read from, or left in, the queues and the ledger, so it
holds for workers that start later and needs none that answers.
"""
