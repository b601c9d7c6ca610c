from __future__ import annotations

import pytest

from pysandbox._native import ffi, lib
from pysandbox.box import REPLY
from pysandbox.plan import KINDS, Verb


@pytest.mark.parametrize("verb", Verb, ids=[verb.name for verb in Verb])
def test_the_c_table_has_the_verb_by_the_same_number_and_name(verb: Verb) -> None:
    assert ffi.string(lib.pb_verb_name(verb)).decode() == verb.name


@pytest.mark.parametrize("verb", Verb, ids=[verb.name for verb in Verb])
def test_the_c_table_has_the_same_kinds_of_arguments(verb: Verb) -> None:
    assert ffi.string(lib.pb_verb_kinds(verb)).decode() == "".join(kind[0] for kind in KINDS[verb])


@pytest.mark.parametrize("number", [-1, len(Verb), len(Verb) + 1, 65535, 2**31 - 1, -(2**31)])
def test_the_c_table_has_no_other_verb(number: int) -> None:
    assert lib.pb_verb_name(number) == ffi.NULL
    assert lib.pb_verb_kinds(number) == ffi.NULL


def test_verbs_are_numbered_without_gaps() -> None:
    assert sorted(Verb) == list(range(len(Verb)))


def test_every_verb_has_its_kinds_and_nothing_else_has() -> None:
    assert set(KINDS) == set(Verb)


@pytest.mark.parametrize("verb", Verb, ids=[verb.name for verb in Verb])
def test_arguments_have_a_known_kind_and_names_of_their_own_and_fit_a_step(verb: Verb) -> None:
    names = [kind[2:] for kind in KINDS[verb]]
    assert all(kind[0] in "sblfu" and kind[1] == ":" and kind[2:].isidentifier() for kind in KINDS[verb])
    assert len(set(names)) == len(names) <= 6


def test_a_reply_has_the_size_that_c_gives_it() -> None:
    assert REPLY.size == lib.pb_reply_size()
