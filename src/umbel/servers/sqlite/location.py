"""Where the file lies: URLs, the default path of a project, and file systems that cannot hold it.

    sqlite://                 the file of this project, in the user's state directory
    sqlite:///tasks.sqlite    relative to the current folder
    sqlite:////srv/tasks.db   absolute

Programs of one project meet at the default path without any configuration, and two projects never
meet by accident: the file's name carries a hash of the project folder's path.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote
from zlib import crc32

from umbel.exceptions import ImproperlyConfigured, StorageError

#: What marks the folder of a project, nearest first upwards.
PROJECT_MARKS = ("pyproject.toml", "setup.py", "manage.py", ".git")

#: File systems on which several machines (or a machine and its guest) may see one file: their locks
#: and shared memory do not hold there, and the file would be damaged.
NETWORK_FILE_SYSTEMS = frozenset(
    (  # noqa: SIM905 -- a column of 80 words is no easier to read
        "9p afpfs afs appletalk applevirtiofs beegfs ceph cephfs cifs coda davfs drvfs fakeowner "
        "ftp ftpfs fuse.beegfs fuse.blobfuse fuse.blobfuse2 fuse.ceph fuse.cephfs fuse.curlftpfs "
        "fuse.davfs2 fuse.gcsfuse fuse.geesefs fuse.glusterfs fuse.goofys fuse.grpcfuse "
        "fuse.gvfsd-fuse fuse.hdfs fuse.juicefs fuse.kio-fuse fuse.lizardfs fuse.mfs fuse.moosefs "
        "fuse.mount-s3 fuse.osxfs fuse.prl_fs fuse.rclone fuse.s3fs fuse.saunafs fuse.seaweedfs "
        "fuse.smbnetfs fuse.sshfs fuse.virtiofs fuse.vmhgfs-fuse gfs gfs2 glusterfs gpfs juicefs "
        "lustre macfuse mfs mount-s3 ncpfs nfs nfs3 nfs4 ocfs2 orangefs osxfs osxfuse osxfusefs "
        "panfs prl_fs prlfs pvfs2 quobyte sftp smb smb2 smb3 smbfs sshfs vboxsf vboxvfs virtio-fs "
        "virtiofs vmhgfs webdav webdavfs wekafs"
    ).split()
)


def parse(url: str) -> tuple[Path, dict[str, str]]:
    """Return the file's absolute path and the options of the URL's query."""
    scheme, separator, rest = url.partition("://")
    if scheme.lower() != "sqlite" or not separator:
        raise ImproperlyConfigured(f"expected a URL like sqlite:///tasks.sqlite, got {url!r}")
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    if place in ("", "/"):
        return default_path(), options
    if not place.startswith("/"):
        raise ImproperlyConfigured(
            f"{url!r} names a host, and a file has none: "
            f"expected sqlite:///{place} (relative) or sqlite:////{place} (absolute)"
        )
    if place == "/:memory:":
        raise ImproperlyConfigured("a database in memory cannot be shared: use memory:// instead")
    return Path(unquote(place[1:])).expanduser().absolute(), options


def default_path() -> Path:
    """Return the path of this project's file in the user's state directory."""
    folder = project_folder(Path.cwd())
    # No cryptography, whose library would cost each process two megabytes.
    digest = f"{crc32(os.fsencode(folder)):08x}"
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in folder.name) or "root"
    return state_directory(os.environ, sys.platform) / f"{name}-{digest}.sqlite"


def project_folder(start: Path) -> Path:
    """Return the nearest folder from ``start`` upwards that holds a project, or ``start``."""
    resolved = start.resolve()
    for folder in (resolved, *resolved.parents):
        if any((folder / mark).exists() for mark in PROJECT_MARKS):
            return folder
    return resolved


def state_directory(environ: Mapping[str, str], platform: str) -> Path:
    """Return the folder for umbel's state of this user."""
    if platform == "darwin":
        return Path("~/Library/Application Support/umbel").expanduser()
    home = environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()
    return base / "umbel"


def refuse_network(path: Path, by_mount: Mapping[str, str] | None = None) -> None:
    """Raise StorageError when the file would lie on a network file system."""
    kind = file_system(path.resolve(), mounts() if by_mount is None else by_mount)
    if kind.lower() in NETWORK_FILE_SYSTEMS:
        raise StorageError(
            f"{path} lies on a network file system ({kind}), whose locks SQLite cannot trust: "
            "choose a path on a local disk, or a server such as Redis for several machines"
        )


def mounts() -> dict[str, str]:
    """Return the type of file system by mount point; empty where the system does not tell."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return _macos_mounts(sys.platform)
    return parse_mountinfo(text)


def _macos_mounts(platform: str) -> dict[str, str]:
    if platform != "darwin":
        return {}
    # Not subprocess, which costs every program on every system a megabyte and milliseconds.
    with os.popen("/sbin/mount") as listed:  # noqa: S605 -- fixed # pyright: ignore[reportDeprecated]
        return parse_mount_command(listed.read())


def parse_mountinfo(text: str) -> dict[str, str]:
    """Read the lines of ``/proc/self/mountinfo``; a later mount hides an earlier at its point."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 4:
            found[_unescape(fields[4])] = after.split(" ")[0]
    return found


def parse_mount_command(text: str) -> dict[str, str]:
    """Read what ``mount`` lists on macOS: ``DEVICE on POINT (TYPE, OPTION, …)``."""
    found = re.finditer(r"^.* on (/.*) \(([^,)]+)[,)]", text, re.MULTILINE)
    return {match[1]: match[2] for match in found}


def _unescape(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point


def file_system(path: Path, by_mount: Mapping[str, str]) -> str:
    """Return the type of the file system that holds ``path``; "" if not known."""
    for folder in (path, *path.parents):
        if str(folder) in by_mount:
            return by_mount[str(folder)]
    return ""
