"""Configuration: layers, names, types, snapshots."""

from __future__ import annotations

import datetime as dt
import re
import sys
import threading
import traceback
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from umbel import config
from umbel.config import Config
from umbel.exceptions import ImproperlyConfigured, SecurityWarning
from umbel.project import project_folder
from umbel.settings.kinds import Missing, Unused
from umbel.settings.table import NAMES, TABLE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "setup.py").touch()  # so that no file above it counts
    return tmp_path


@pytest.fixture
def conf(folder: Path) -> Config:
    return Config(environ={}, folder=str(folder))


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType("celeryconfig_of_test")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


# --- names and types


def test_defaults(conf: Config) -> None:
    assert conf.task_acks_late is True
    assert conf.task_default_queue == "celery"
    assert conf["accept_content"] == ("json",)
    assert conf.source_of("task_acks_late") == "default"


def test_every_row_has_a_note_and_takes_its_default() -> None:
    for row in TABLE.values():
        assert row.note.endswith("."), row.name
        assert row.parse(row.default, "test") == row.default


def test_a_setting_without_effect_says_so() -> None:
    source = Path(config.__file__).parent
    texts = [path.read_text() for path in source.rglob("*.py") if path.parent.name != "settings"]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    read_as_options = {"task_compression"}  # as f"task_{name}"
    programs = {  # as f"{of}_{name}"
        f"{of}_{name}" for of in ("worker", "beat") for name in ("umask", "uid", "gid", "logfile")
    }
    takes_one_value = {"task_protocol"}
    used = {name for name, row in TABLE.items() if not isinstance(row, Missing | Unused)}
    assert used - words - read_as_options - programs - takes_one_value == set()


def test_no_two_settings_share_a_name() -> None:
    names = [name for row in TABLE.values() for name in row.known]
    assert len(names) == len(set(names)) == len(NAMES)


def test_old_names_are_understood_everywhere(conf: Config) -> None:
    conf.CELERY_ALWAYS_EAGER = True
    assert conf.task_always_eager is True
    conf.update(CELERYD_CONCURRENCY=3)
    assert conf["worker_concurrency"] == conf["CELERYD_CONCURRENCY"] == 3
    assert conf.get("BROKER_URL") == "sqlite://"
    assert getattr(conf, "CELERY_TASK_SERIALIZER") == "json"  # noqa: B009 -- no type knows it


@pytest.mark.parametrize("name", ["task_alway_eager", "TASK_ALWAYS_EAGR"])
def test_a_misspelt_name_is_an_error_with_a_suggestion(conf: Config, name: str) -> None:
    message = "did you mean 'task_always_eager'"
    with pytest.raises(ImproperlyConfigured, match=message):
        setattr(conf, name, True)
    with pytest.raises(ImproperlyConfigured, match=message):
        conf[name] = True
    with pytest.raises(ImproperlyConfigured, match=message):
        conf.update({name: True})
    with pytest.raises(ImproperlyConfigured, match=message):
        conf[name]
    with pytest.raises(AttributeError, match=message):
        getattr(conf, name)
    assert conf.get(name, "nothing") == "nothing"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("task_always_eager", "yes", "True or False"),
        ("task_time_limit", "3", "a number of seconds or a timedelta, 0 or None"),
        ("task_time_limit", -1, "a number of seconds"),
        ("worker_lease", 0, "a number of seconds above 0"),
        ("worker_concurrency", 2.5, "a whole number, 'auto' or None"),
        ("worker_concurrency", True, "a whole number, 'auto' or None"),
        ("broker_transport_options", [], "a dict"),
        ("accept_content", 3, "a list of names"),
        ("task_default_exchange_type", "fan", "one of 'direct', 'topic', 'fanout', 'headers'"),
        ("task_default_rate_limit", "10/d", "a rate"),
    ],
)
def test_an_ill_typed_value_is_an_error(
    conf: Config, name: str, value: object, expected: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{name}: expected {expected}.*the program"):
        conf.update({name: value})


def test_a_secret_is_not_shown_in_an_error(conf: Config) -> None:
    secret = "hid" + "den"  # not in a line of the traceback
    with pytest.raises(ImproperlyConfigured) as caught:
        conf.result_backend = {"password": secret}
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_values_are_brought_into_their_form(conf: Config) -> None:
    conf.update(
        result_expires=dt.timedelta(hours=1),
        accept_content=["json", "yaml"],
        imports="a, b",
        task_acks_late=0,
    )
    assert conf.result_expires == 3600.0
    assert conf.accept_content == ("json", "yaml")
    assert conf.imports == ("a", "b")
    assert conf.task_acks_late is False


# --- snapshots


def test_a_change_makes_a_new_snapshot_and_leaves_the_old(conf: Config) -> None:
    before = conf.current()
    conf.task_always_eager = True
    after = conf.current()
    assert before is not after
    assert after.generation == before.generation + 1 == conf.generation
    assert before.values["task_always_eager"] is False
    with pytest.raises(TypeError):
        after.values["task_always_eager"] = False  # type: ignore[index]


def test_reading_makes_none(conf: Config) -> None:
    before = conf.current()
    assert conf.task_always_eager is False
    assert conf.current() is before


def test_a_refused_update_changes_nothing(conf: Config) -> None:
    before = conf.current()
    with pytest.raises(ImproperlyConfigured):
        conf.update(task_always_eager=True, task_time_limit="x")
    assert conf.current() is before


def test_many_threads_load_it_once(folder: Path, module: ModuleType) -> None:
    conf = Config(environ={}, folder=str(folder))
    conf.load_object(module.__name__)
    module.worker_concurrency = 3  # type: ignore[attr-defined]
    barrier, found = threading.Barrier(8), []

    def read() -> None:
        barrier.wait()
        found.append((conf.worker_concurrency, conf.generation))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(3, 1)] * 8


# --- layers


def test_the_stronger_layer_wins(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        "[tool.umbel]\ntask_default_queue = 'file'\ntimezone = 'UTC'\nresult_extended = true\n"
    )
    environ = {"UMBEL_TIMEZONE": "Europe/Rome", "HOME": "/root"}
    conf = Config({"result_extended": False}, environ=environ, folder=str(folder))
    conf.load_object({"task_default_queue": "object", "worker_concurrency": 2})
    conf.set_layer("command line", {"worker_concurrency": 5}, source="the command line")
    conf.timezone = "Europe/Berlin"

    assert conf.task_default_queue == "object"
    assert conf.result_extended is False
    assert conf.timezone == "Europe/Rome"
    assert conf.source_of("timezone") == "the variable UMBEL_TIMEZONE"
    assert conf.worker_concurrency == 5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("task_always_eager", "on", True),
        ("task_always_eager", "0", False),
        ("worker_concurrency", "4", 4),
        ("worker_concurrency", "", None),
        ("task_time_limit", "2.5", 2.5),
        ("result_expires", "none", None),
        ("accept_content", "json, msgpack", ("json", "msgpack")),
        ("broker_transport_options", '{"a": 1}', {"a": 1}),
        ("task_default_rate_limit", "10/m", "10/m"),
        ("task_routes", '{"a.*": {"queue": "a"}}', {"a.*": {"queue": "a"}}),
        ("broker_url", "redis://h", "redis://h"),
    ],
)
def test_variables(folder: Path, name: str, text: str, value: object) -> None:
    conf = Config(environ={f"UMBEL_{name.upper()}": text}, folder=str(folder))
    assert conf[name] == value


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("UMBEL_TASK_ALWAYS_EAGR", "1", "did you mean 'task_always_eager'"),
        ("UMBEL_TASK_ALWAYS_EAGER", "maybe", "expected True or False, got 'maybe'.*variable UMBEL"),
        ("UMBEL_WORKER_CONCURRENCY", "many", "expected a whole number"),
        ("UMBEL_BROKER_TRANSPORT_OPTIONS", "{", "expected a dict"),
    ],
)
def test_wrong_variables(folder: Path, variable: str, text: str, message: str) -> None:
    conf = Config(environ={variable: text}, folder=str(folder))
    with pytest.raises(ImproperlyConfigured, match=message):
        conf.current()


def test_other_variables_of_umbel_are_no_settings(folder: Path) -> None:
    assert Config(environ={"UMBEL_APP": "tasks"}, folder=str(folder)).current().sources == {}


def test_pyproject_is_found_upwards_and_its_errors_name_it(folder: Path) -> None:
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    path = folder / "pyproject.toml"
    path.write_text("[tool.umbel]\nworker_concurency = 2\n")
    with pytest.raises(ImproperlyConfigured, match=r"worker_concurrency.*pyproject.toml"):
        Config(environ={}, folder=str(inner)).current()
    for broken in (b"[tool.umbel\n", b"\xff\xfe"):
        path.write_bytes(broken)
        with pytest.raises(ImproperlyConfigured, match=r"pyproject.toml cannot be read"):
            Config(environ={}, folder=str(inner)).current()
    path.write_text("[project]\nname = 'x'\n")
    assert Config(environ={}, folder=str(inner)).worker_concurrency is None


def test_the_project_is_the_nearest_marked_folder(folder: Path) -> None:
    inner = folder / "a"
    inner.mkdir()
    assert project_folder(str(inner)) == str(folder.resolve())
    (inner / "manage.py").touch()
    assert project_folder(str(inner)) == str(inner.resolve())


# --- objects


def test_a_module_by_name_is_read_when_first_asked(conf: Config, module: ModuleType) -> None:
    conf.load_object(module.__name__)
    module.task_default_queue = "late"  # type: ignore[attr-defined]
    module.CELERY_ALWAYS_EAGER = True  # type: ignore[attr-defined]
    module.helper = lambda: None  # type: ignore[attr-defined]
    assert conf.task_default_queue == "late"
    assert conf.task_always_eager is True
    assert conf.source_of("task_default_queue") == module.__name__


def test_a_misspelt_name_in_a_module(conf: Config, module: ModuleType) -> None:
    module.task_default_queu = "x"  # type: ignore[attr-defined]
    with pytest.raises(ImproperlyConfigured, match="task_default_queue"):
        conf.load_object(module, force=True)


def test_a_class_an_instance_and_a_dict(conf: Config) -> None:
    class Settings:
        timezone = "Europe/Paris"

    conf.load_object(Settings)
    assert conf.timezone == "Europe/Paris"
    conf.load_object(SimpleNamespace(task_track_started=True))
    assert conf["timezone"] is None  # replaced
    assert conf.task_track_started is True
    conf.load_object({"worker_concurrency": 3})
    assert conf.worker_concurrency == 3
    with pytest.raises(ImproperlyConfigured, match="there is no setting 'x'"):
        conf.load_object({"x": 3})


def test_a_namespace(conf: Config) -> None:
    settings = SimpleNamespace(
        CELERY_BROKER_URL="memory://",
        CELERY_TASK_ALWAYS_EAGER=True,
        CELERY_EMAIL_TASK_CONFIG={},  # another package's
        DEBUG=True,
    )
    conf.load_object(settings, namespace="CELERY")
    assert (conf.broker_url, conf.task_always_eager) == ("memory://", True)
    settings.CELERY_TASK_ALWAYS_EAGR = False
    with pytest.raises(ImproperlyConfigured, match="task_always_eager"):
        conf.load_object(settings, namespace="CELERY")


def test_what_cannot_be_imported(conf: Config) -> None:
    conf.load_object("no_such_module_of_test")
    for _ in range(2):  # it does not go on without it
        with pytest.raises(ImproperlyConfigured, match="no_such_module_of_test"):
            conf.current()


@pytest.mark.parametrize(
    "name", ["no_such_module_of_test", "no_such.module", "no_such.module:Class", "json.nothing"]
)
def test_a_module_need_not_exist_if_nobody_shall_be_told(folder: Path, name: str) -> None:
    for silent in (True, False):
        conf = Config(environ={}, folder=str(folder))
        conf.load_object(name, silent=silent)
        if silent and name != "json.nothing":
            assert conf.timezone is None
        else:
            with pytest.raises(ImproperlyConfigured, match=f"cannot import '{name}'"):
                conf.current()


def test_an_import_that_is_missing_in_a_module_is_told_of(
    conf: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_of_test.py").write_text("import no_such_module_of_test\n")
    monkeypatch.syspath_prepend(tmp_path)
    conf.load_object("broken_of_test", silent=True)
    with pytest.raises(ImproperlyConfigured, match="no_such_module_of_test"):
        conf.current()


def test_what_has_nothing_to_do_with_settings_is_not_looked_at(conf: Config) -> None:
    class Settings:
        timezone = "Europe/Rome"

        @property
        def trap(self) -> str:
            raise RuntimeError("not for you")

    conf.load_object(Settings())
    assert conf.timezone == "Europe/Rome"


def test_names_in_a_module(conf: Config, module: ModuleType) -> None:
    module.Settings = type("Settings", (), {"timezone": "Europe/Rome"})  # type: ignore[attr-defined]
    for name in (f"{module.__name__}:Settings", f"{module.__name__}.Settings"):
        conf.load_object(name)
        assert conf.timezone == "Europe/Rome"
        assert conf.source_of("timezone") == name


def test_a_module_that_asks_for_a_setting_while_it_is_read(
    conf: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asking_of_test.py").write_text(
        "ASKED = conf.worker_concurrency\nworker_concurrency = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.conf", conf, raising=False)
    conf.load_object("asking_of_test")
    assert conf.worker_concurrency == 7


# --- warnings


@pytest.mark.parametrize(
    "setting",
    [
        {"accept_content": ["json", "pickle"]},
        {"accept_content": ["application/x-python-serialize"]},
        {"task_serializer": "pickle"},
        {"result_serializer": "pickle"},
    ],
)
def test_pickle_is_warned_of(folder: Path, setting: dict[str, object]) -> None:
    conf = Config(setting, environ={}, folder=str(folder))
    with pytest.warns(SecurityWarning, match=f"{next(iter(setting))} names pickle"):
        conf.current()


# --- sources


def test_of_an_old_and_a_new_name_the_new_one_counts(conf: Config) -> None:
    conf.load_object({"task_acks_late": True, "CELERY_ACKS_LATE": False})
    assert conf.task_acks_late is True
    conf.load_object(SimpleNamespace(CELERYD_CONCURRENCY=3, worker_concurrency=4))
    assert conf.worker_concurrency == 4


def test_old_names_count_beside_a_namespace_as_in_celery(conf: Config) -> None:
    settings = SimpleNamespace(
        CELERY_ACKS_LATE=False,
        CELERYD_CONCURRENCY=7,
        CELERY_RESULT_EXTENDED=True,
        BROKER_URL="memory://",
        TIME_ZONE="Europe/Rome",
        INCLUDE=("something else",),
    )
    conf.load_object(settings, namespace="CELERY")
    assert (conf.task_acks_late, conf.worker_concurrency) == (False, 7)
    assert (conf.result_extended, conf.broker_url) == (True, "memory://")
    assert (conf.timezone, conf.include) == ("Europe/Rome", ())
    settings.CELERY_TIMEZONE = "Europe/Oslo"
    conf.load_object(settings, namespace="CELERY")
    assert conf.timezone == "Europe/Oslo"


def test_celerys_own_variables_count_unless_ours_do(folder: Path) -> None:
    environ = {
        "CELERY_BROKER_URL": "redis://theirs",
        "CELERY_RESULT_BACKEND": "redis://results",
        "UMBEL_BROKER_URL": "redis://ours",
        "CELERY_BROKER_READ_URL": "",
    }
    conf = Config({"result_backend": "rpc://"}, environ=environ, folder=str(folder))
    assert conf.broker_url == "redis://ours"
    assert conf.result_backend == "redis://results"
    assert conf.source_of("result_backend") == "the variable CELERY_RESULT_BACKEND"
    assert conf.broker_read_url is None


def test_a_source_names_the_line(conf: Config, folder: Path) -> None:
    conf.task_track_started = True
    assert re.fullmatch(rf"the program, {__file__}, line \d+", conf.source_of("task_track_started"))
    path = folder / "pyproject.toml"
    path.write_text(
        "[project]\ntimezone = 'x'\n[tool.umbel]\n\ntimezone = 'UTC'\n"
        "[tool.umbel.task_routes]\na = 'b'\n"
    )
    read = Config(environ={}, folder=str(folder))
    assert read.source_of("timezone") == f"{folder.resolve()}/pyproject.toml, line 5"
    assert read.source_of("task_routes").endswith(", line 6")


# --- values


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("worker_concurrency", "auto", None),
        ("worker_concurrency", 0, None),
        ("worker_pool", "processes", "prefork"),
        ("task_default_delivery_mode", 1, "transient"),
        ("task_default_delivery_mode", "2", "persistent"),
        ("result_expires", 0, None),
        ("task_time_limit", 0, None),
        ("task_protocol", 2, 2),
        ("broker_use_ssl", {"ca_certs": "x"}, {"ca_certs": "x"}),
        ("timezone", dt.UTC, "UTC"),
        ("timezone", zoneinfo.ZoneInfo("Europe/Rome"), "Europe/Rome"),
    ],
)
def test_values_of_celery_are_brought_into_our_form(
    conf: Config, name: str, given: object, kept: object
) -> None:
    conf[name] = given
    assert conf[name] == kept


@pytest.mark.parametrize(("name", "value"), [("task_protocol", 1), ("broker_url", "")])
def test_values_that_nothing_can_follow(conf: Config, name: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=name):
        conf[name] = value


def test_a_default_may_be_changed_where_it_is(conf: Config, folder: Path) -> None:
    conf.beat_schedule["a"] = {"task": "t"}
    conf.task_always_eager = True
    assert conf.beat_schedule == {"a": {"task": "t"}}
    assert conf.table() == {"beat_schedule": {"a": {"task": "t"}}, "task_always_eager": True}
    assert Config(environ={}, folder=str(folder)).beat_schedule == {}


# --- what is shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("broker_url", "redis://u:pw@h/0", "redis://u:********@h/0"),
        ("broker_url", "redis://:p@w/x@h/0?password=pw&a=1", "redis://:********@h/0?password="),
        ("broker_url", "amqp://a:b@h;amqp://c:d@i", "amqp://a:********@h;amqp://c:********@i"),
        ("broker_url", ("amqp://a:b@h",), ("amqp://a:********@h",)),
        ("broker_url", "redis://h:6379/0", "redis://h:6379/0"),
        ("redis_password", "pw", "********"),
        ("broker_transport_options", {"password": "pw", "n": 1}, {"password": "********", "n": 1}),
        ("task_annotations", {"*": {"api_key": "pw"}}, {"*": {"api_key": "********"}}),
        ("task_default_routing_key", "key", "key"),
    ],
)
def test_secrets_are_masked(conf: Config, name: str, value: object, shown: object) -> None:
    conf[name] = value
    found = conf.table()[name]
    assert found == shown or (isinstance(shown, str) and found.startswith(shown))
    assert "pw" not in str(found)
    assert str(value) in conf.humanize(censored=False)


def test_it_is_a_mapping(conf: Config) -> None:
    assert dict(conf)["timezone"] is None
    assert len(conf) == len(list(conf.items())) == len(list(conf.values())) == len(TABLE)
    assert conf.table() == {}
    assert conf.table(with_defaults=True)["task_default_queue"] == "celery"
    conf.timezone = "UTC"
    assert conf.humanize() == "timezone: 'UTC'"
