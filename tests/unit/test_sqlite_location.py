"""Where the SQLite file of a project lies, and where none may lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from umbel.exceptions import ImproperlyConfigured, StorageError
from umbel.servers.sqlite import location
from umbel.servers.sqlite.options import Options

MOUNTS = """\
22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
90 27 0:60 / /home rw,relatime shared:40 master:2 propagate_from:1 - nfs4 files:/home rw,vers=4.2
91 90 0:61 / /home/me/my\\040disk rw - ext4 /dev/sdb1 rw
92 27 0:62 / /mnt/c rw,noatime - 9p drvfs rw
93 27 0:63 / /srv rw - ext4 /dev/vdb rw
94 27 0:64 / /srv rw - fuse.sshfs me@host:/srv rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/queue.sqlite", "ext4"),
        ("/home/me/queue.sqlite", "nfs4"),
        ("/home/me/my disk/queue.sqlite", "ext4"),
        ("/homer/queue.sqlite", "ext4"),
        ("/mnt/c/Users/me/queue.sqlite", "9p"),
        ("/srv/queue.sqlite", "fuse.sshfs"),
    ],
)
def test_the_nearest_and_latest_mount_tells_the_file_system(path: str, kind: str) -> None:
    assert location.file_system(Path(path), location.parse_mountinfo(MOUNTS)) == kind


def test_network_file_systems_are_refused_with_the_reason() -> None:
    with pytest.raises(StorageError, match=r"/home/me/q\.sqlite lies on a network file .*nfs4"):
        location.refuse_network(Path("/home/me/q.sqlite"), location.parse_mountinfo(MOUNTS))


@pytest.mark.parametrize(
    "kind",
    ["9p", "cifs", "fakeowner", "fuse.sshfs", "gfs2", "lustre", "nfs", "ocfs2", "smb3", "virtiofs"],
)
def test_what_several_machines_may_mount_is_refused(kind: str) -> None:
    with pytest.raises(StorageError, match="network file system"):
        location.refuse_network(Path("/srv/q.sqlite"), {"/": "ext4", "/srv": kind})


@pytest.mark.parametrize("kind", ["apfs", "btrfs", "ext4", "overlay", "tmpfs", "xfs", "zfs"])
def test_what_one_machine_mounts_is_taken(kind: str) -> None:
    location.refuse_network(Path("/srv/q.sqlite"), {"/": "nfs", "/srv": kind})


def test_local_and_unknown_file_systems_are_taken() -> None:
    location.refuse_network(Path("/var/q.sqlite"), location.parse_mountinfo(MOUNTS))
    location.refuse_network(Path("/var/q.sqlite"), {})


def test_macos_lists_its_mounts_in_another_form() -> None:
    listed = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
//me@nas/share on /Volumes/share (smbfs, nodev, nosuid, mounted by me)
share on /Volumes/My Shared Files (AppleVirtIOFS, nodev, nosuid, automounted)
me@host:/srv on /Users/me/srv (macfuse, nodev, nosuid, synchronous, mounted by me)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
"""
    mounts = location.parse_mount_command(listed)
    assert location.file_system(Path("/Users/me/q.sqlite"), mounts) == "apfs"
    assert location.file_system(Path("/Volumes/share/q.sqlite"), mounts) == "smbfs"
    for folder in ("/Volumes/share", "/Volumes/My Shared Files/a", "/Users/me/srv"):
        with pytest.raises(StorageError, match="network file system"):
            location.refuse_network(Path(folder, "q.sqlite"), mounts)


def test_urls_are_read_as_sqlalchemy_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert location.parse("sqlite:///tasks.sqlite") == (tmp_path / "tasks.sqlite", {})
    assert location.parse("sqlite:////srv/tasks.db") == (Path("/srv/tasks.db"), {})
    assert location.parse("sqlite:///a%20b.db?synchronous=FULL") == (
        tmp_path / "a b.db",
        {"synchronous": "FULL"},
    )


@pytest.mark.parametrize("url", ["sqlite:tasks.db", "sqlite://tasks.db", "sqlite:///:memory:"])
def test_urls_that_mean_something_else_are_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"sqlite|memory"):
        location.parse(url)


def test_the_default_file_belongs_to_the_nearest_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project = tmp_path / "my project"
    inner = project / "src" / "pack"
    inner.mkdir(parents=True)
    (project / "pyproject.toml").touch()
    monkeypatch.chdir(inner)
    from_inner = location.default_path()
    monkeypatch.chdir(project)
    assert location.default_path() == from_inner == location.parse("sqlite://")[0]
    assert from_inner.parent == tmp_path / "state" / "umbel"
    assert from_inner.name.startswith("my_project-")


def test_projects_of_the_same_name_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = set[Path]()
    for parent in ("a", "b"):
        folder = tmp_path / parent / "shop"
        (folder / ".git").mkdir(parents=True)
        monkeypatch.chdir(folder)
        paths.add(location.default_path())
    assert len(paths) == 2


def test_state_directories_are_those_of_the_platform() -> None:
    home = Path.home()
    assert location.state_directory({}, "linux") == home / ".local/state/umbel"
    assert location.state_directory({"XDG_STATE_HOME": "/s"}, "linux") == Path("/s/umbel")
    # The specification: relative paths are invalid and to be passed over.
    assert location.state_directory({"XDG_STATE_HOME": "s"}, "linux") == home / ".local/state/umbel"
    assert location.state_directory({}, "darwin") == home / "Library/Application Support/umbel"


def test_options_are_checked() -> None:
    read = Options.read({"synchronous": "full", "dead_letters_expire": None, "other": 1})
    assert (read.synchronous, read.dead_letters_expire) == ("FULL", None)
    with pytest.raises(ImproperlyConfigured, match="NORMAL or FULL, got 'OFF'"):
        Options.read({"synchronous": "off"})
    with pytest.raises(ImproperlyConfigured, match="max_message_size"):
        Options.read({"max_message_size": "-1"})
