"""Worker and beat in the background (``-D``), and as another user (``--uid``, ``--gid``).

The program that was started stays until the other has begun, so that what is wrong is said on the
terminal and in the exit code. Then that lets go of the terminal: what it and its tasks write goes
to the log file, or nowhere.
"""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

import click

from umbel import ids
from umbel.config import Config

#: Tells a program that has replaced itself that it is in the background already.
_VARIABLE = "UMBEL_WORKER_DETACHED"


def detach() -> Callable[[Path | None], None]:
    """Go on in the background; return what lets go of the terminal. The foreground does not return.

    If the background ends before that, the foreground ends with its exit code.
    """
    if os.environ.get(_VARIABLE) == str(os.getpid()):
        return redirect
    read_fd, write_fd = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write_fd)
        _leave(pid, read_fd)
    os.close(read_fd)
    os.setsid()
    os.environ[_VARIABLE] = str(os.getpid())

    def let_go(logfile: Path | None) -> None:
        redirect(logfile)
        os.write(write_fd, b"1")
        os.close(write_fd)

    return let_go


def _leave(pid: int, read_fd: int) -> None:
    if os.read(read_fd, 1):
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os._exit(max(os.waitstatus_to_exitcode(status), 1))


def redirect(logfile: Path | None) -> None:
    """Let this process write into a file, or nowhere, and read nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    writes = nowhere
    if logfile is not None:
        writes = os.open(logfile, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nowhere, 0), (writes, 1), (writes, 2)):
        os.dup2(source, target)
    for fd in {nowhere, writes}:
        os.close(fd)


def take_on(conf: Config, node: str, *, of: str = "worker") -> None:
    """Be who the configuration says; its paths are expanded for this node."""
    umask = conf.value_of(f"{of}_umask")
    if umask is not None:
        os.umask(_mask(umask))
    _become_user(conf.value_of(f"{of}_uid"), conf.value_of(f"{of}_gid"))
    for name in (f"{of}_logfile", f"{of}_pidfile"):
        path = conf.value_of(name)
        if path:
            conf.set_layer("command line", {name: ids.node_path(path, node)}, source=name)


def _mask(umask: str | int) -> int:
    try:
        return int(umask, 8) if isinstance(umask, str) else umask
    except ValueError:
        raise click.UsageError(
            f"--umask: expected octal digits such as 022, got {umask!r}"
        ) from None


def _become_user(uid: str | int | None, gid: str | int | None) -> None:
    """Be this user and group from now on; of a user alone, also his groups."""
    if uid is None and gid is None:
        return
    try:
        user = None if uid is None else _user(uid)
        group = _group(gid) if gid is not None else user.pw_gid if user else os.getgid()
        if user is not None and os.getuid() == 0:
            os.initgroups(user.pw_name, group)
        os.setgid(group)
        if user is not None:
            os.setuid(user.pw_uid)
    except KeyError as error:
        raise click.UsageError(
            f"--uid, --gid: there is no {error.args[0].rpartition(' ')[2]}"
        ) from error
    except OSError as error:
        raise click.ClickException(f"--uid, --gid: {error.strerror}; only root may") from error


def _user(name: str | int) -> pwd.struct_passwd:
    return pwd.getpwuid(int(name)) if str(name).isdecimal() else pwd.getpwnam(str(name))


def _group(name: str | int) -> int:
    return int(name) if str(name).isdecimal() else grp.getgrnam(str(name)).gr_gid
