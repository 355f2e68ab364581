"""The command line: ``umbel COMMAND``.

main       the table of commands, and how errors read
given      options that every command takes, and the application they name
find_app   from ``-A`` to an application
worker     run tasks            running, banner, logs
call       send a task          result          show what became of one
queues     what waits where     purge           delete messages
dead       messages given up    revoke          call tasks off
status     who works            top             who works on what, live
why        why a task does not run              workflow    a workflow as a tree
shell      an interpreter       demo            umbel at work on the standard library

asking, moments, names, texts   what several of them ask, read and print
"""
