"""What the demo's analysis finds in a module's source."""

from __future__ import annotations

from textwrap import dedent

import pytest

from umbel.cli.demo import standard_library
from umbel.cli.demo_analysis import Facts, survey


def facts(source: str) -> Facts:
    return survey(dedent(source))


def test_lines_are_of_one_kind_each() -> None:
    found = facts(
        '''\
        """About
        it."""

        # a comment
        TEXT = """

        # no comment
        """


        def nothing():  # code
            """No docstring is code."""
        '''
    )
    assert found["lines"] == {"total": 12, "code": 5, "comments": 1, "docstrings": 3, "blank": 3}


def test_an_empty_module() -> None:
    found = facts("")
    assert found["functions"] == found["classes"] == 0
    assert found["longest"] is None
    assert found["imports"] == []


def test_form_feeds_end_no_line() -> None:
    assert facts("a = 1\n\f\nb = 2\n")["lines"]["total"] == 3


def test_functions_have_qualified_names() -> None:
    found = facts(
        """\
        class Outer:
            class Inner:
                async def short(self): ...

                def long(self):
                    def closure():
                        pass
                    return closure
        """
    )
    assert (found["functions"], found["classes"]) == (3, 2)
    longest = found["longest"]
    assert longest is not None
    assert (longest["name"], longest["line"], longest["lines"]) == ("Outer.Inner.long", 5, 4)


def test_an_elif_is_no_deeper_than_its_if() -> None:
    found = facts(
        """\
        def flat(x):
            if x == 1:
                pass
            elif x == 2:
                pass
            elif x == 3:
                pass
            else:
                pass

        def deep(x):
            for y in x:
                try:
                    with y:
                        pass
                except ValueError:
                    pass
        """
    )
    deepest = found["deepest"]
    assert deepest is not None
    assert (deepest["name"], deepest["depth"]) == ("deep", 3)
    most = found["most_branches"]
    assert most is not None
    assert (most["name"], most["branches"]) == ("flat", 4)


def test_docstrings_and_annotations_are_counted() -> None:
    found = facts(
        '''\
        """Module."""
        class With:
            """Class."""
        def without(): ...
        def typed(x: int): ...
        def returning() -> None: ...
        '''
    )
    assert (found["documentable"], found["documented"], found["annotated"]) == (5, 2, 2)


def test_imports_are_named_once_by_their_top() -> None:
    found = facts("import os.path, sys\nfrom os import path\nfrom . import near\n")
    assert found["imports"] == ["os", "sys"]


def test_broken_source_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        facts("def (")


def test_the_standard_library_has_its_modules_and_no_tests() -> None:
    modules = dict(standard_library())
    assert len(modules) > 400
    assert {"json", "json.decoder", "asyncio.events", "this"} <= set(modules)
    assert not any("test" in name.split(".") for name in modules)
    assert not any("site-packages" in path.parts for path in modules.values())
