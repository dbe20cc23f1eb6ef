"""Which slot of llama.cpp an answer takes."""

import pytest

from helpers.generation.llama_slots import SlotPool


def use(pool, adapter, prompt):
    with pool.take(adapter, prompt) as taken:
        return taken


def test_prompt_takes_the_slot_that_holds_most_of_it():
    pool = SlotPool(3)
    assert use(pool, None, [1, 2, 3]) == (0, 0)
    assert use(pool, None, [7, 8]) == (1, 0)
    assert use(pool, None, [1, 2, 9]) == (0, 2)
    assert use(pool, None, [1, 2, 9, 4]) == (0, 3)
    assert use(pool, None, [7, 8, 9]) == (1, 2)


def test_what_another_adapter_computed_is_never_reused():
    pool = SlotPool(1)
    taken = [use(pool, adapter, [1, 2, 3])[1] for adapter in (None, "a", "a", "b", None, "b", "b")]
    assert taken == [0, 0, 3, 0, 0, 0, 3]


def test_new_prompt_takes_the_slot_that_has_been_free_longest():
    pool = SlotPool(3)
    for prompt in ([1], [2], [3], [2]):
        use(pool, None, prompt)
    assert use(pool, None, [9])[0] == 0


def test_new_conversation_leaves_a_longer_one_alone():
    pool = SlotPool(3)
    system, turns = [1, 2], [5] * 6
    assert use(pool, None, [*system, *turns])[0] == 0
    assert use(pool, None, [*system, 7])[0] == 1
    assert use(pool, None, [*system, *turns, 8]) == (0, 8)


def test_adapters_that_take_turns_keep_the_begin_of_their_prompts():
    pool = SlotPool(4)
    asked = [(adapter, [1, 2, 3, number, *range(number)]) for number in range(10, 20) for adapter in "ab"]
    held = [use(pool, adapter, prompt)[1] for adapter, prompt in asked]
    assert held[-12:] == [3] * 12


def test_slots_in_use_are_not_given_again():
    pool = SlotPool(2)
    with pool.take(None, [1]) as (first, _), pool.take(None, [1]) as (second, _):
        assert {first, second} == {0, 1}


def test_after_an_error_nothing_is_reused():
    pool = SlotPool(1)
    use(pool, "a", [1, 2])
    with pytest.raises(ZeroDivisionError), pool.take("a", [1, 2]):
        _ = 1 / 0
    assert use(pool, "a", [1, 2]) == (0, 0)


def test_nothing_is_reused_of_what_was_held_before_or_during_a_question():
    pool = SlotPool(2)
    use(pool, "a", [1, 2])
    with pool.take("b", [3, 4]):
        with pool.ask():
            assert use(pool, "a", [1, 2])[1] == 0
    assert use(pool, "a", [1, 2])[1] == 0
    with pool.take("a", [1, 2]) as (_, held), pool.take("b", [3, 4]) as (_, other):
        assert (held, other) == (2, 0)
