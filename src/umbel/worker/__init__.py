"""The worker: one supervisor, N children that run tasks, one node child that speaks for them all.

supervisor   starts, reaps, replaces, kills over the hard limit; no connection
board        shared memory: what each child is doing, readable after its death
child        a process around one engine
engine       pump + lanes + loop, one consumer; also runs inside a single process (solo, tests)
pump         the thread that talks to the broker: receives, commits, gives back
lane         a thread that runs synchronous tasks, one at a time
loop         the asyncio loop that runs coroutine tasks
service      one delivery, from its bytes to its effects
window       how many deliveries to hold, measured in time
limits       soft time limits
node         leases, recovery of the dead, the node's record
"""
