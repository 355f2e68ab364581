"""What tests of umbel, of its users and of third-party servers are built from.

``contract`` has the suites that prove what a server promises, ``flaky`` a fault injector around any
real server, ``clock`` a clock that tests move, ``probe`` a way to wait for what happened.
No other part of umbel imports this package.
"""
