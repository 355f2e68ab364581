"""Benchmarks: umbel beside its peers and beside a bare loop, in one run, under the same promises.

    make bench                      every case, and a section in RESULTS.md
    python -m bench drain enqueue   two of them
    python -m bench --quick         a smoke run of seconds; its figures mean nothing

    __main__.py     what to run, in which order          report.py    tables, RESULTS.md
    cases/          what is measured, one module each    figures.py   values, medians, ratios
    system.py       what is said of a system that is measured
    systems.py      who is measured, and what it promises; redis_systems.py: the same on Redis
    session.py      one system on a fresh file: its worker, its client, its probe
    client.py       the calling program; it and apps/ run in the system's own environment
    probe.py        shared memory in which tasks note that and when they ran
    bare_sqlite.py  the bare loop; bare_redis.py: on Redis

The machine is noisy: rounds are interleaved (every system once, then again), and only what was
measured in one run is compared, as the median of each round's ratio.
"""
